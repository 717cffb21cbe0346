"""Work beside other work in one event loop, such that no task outlives the block of code that began it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.asynccontextmanager
async def background_task(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Work that goes on while the body does something else; it ends with the body. A thread that it waits for cannot be
    ended: what such a thread writes to must belong to it alone."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await cancel_and_wait(task)


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits for their end; what came of them does not matter any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run_all(*works: Coroutine[Any, Any, None]) -> None:
    """All of them; the first error ends the others and is raised as it is."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        for finished in asyncio.as_completed(tasks):
            await finished
    finally:
        await cancel_and_wait(*tasks)
