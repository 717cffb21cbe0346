"""Concurrent tasks in one event loop, arranged so that no task outlives the block of code that started it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.asynccontextmanager
async def background_task(coroutine: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run a coroutine in the background for the duration of the `async with` block, then cancel it.

    A thread it is waiting for cannot be canceled, so that thread must own whatever it writes to.
    """
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        await cancel_and_wait(task)


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended; their results and errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run_all(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all coroutines concurrently; the first error cancels the others and is raised unchanged."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        for finished in asyncio.as_completed(tasks):
            await finished
    finally:
        await cancel_and_wait(*tasks)
