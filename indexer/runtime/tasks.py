"""Concurrent tasks in one event loop, arranged so that no task outlives the block of code that started it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
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


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns that blocks. It runs in a thread that does not keep the program from ending.

    `asyncio.to_thread` would: a cancellation leaves its thread running, and the interpreter waits for it.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[Any], None], value: Any) -> None:
        if not result.done():
            settled(value)

    def work() -> None:
        try:
            value, settled = function(*arguments), result.set_result
        except StopIteration as error:  # No future takes it.
            value, settled = RuntimeError(repr(error)), result.set_exception  # type: ignore[assignment]
        except BaseException as error:
            value, settled = error, result.set_exception  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, settled, value)

    threading.Thread(target=work, daemon=True).start()
    return await result


async def run_all(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all coroutines concurrently; the first error cancels the others and is raised unchanged."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        for finished in asyncio.as_completed(tasks):
            await finished
    finally:
        await cancel_and_wait(*tasks)
