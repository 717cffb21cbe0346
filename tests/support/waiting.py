"""Waiting for events: a log line, a row, a metric, the end of a process.

A deadline here is a guard against a hang, never what a test expects: on a machine that is busy with other work the same
event comes later, and whoever waits in vain is told what for.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
What = str | Callable[[], object]

PATIENCE = 300.0  # seconds; several waits fit into the time limit of one test
EVERY = 0.02  # seconds between looks


def in_vain(what: What) -> str:
    """Why a test fails that waited for `what`: a few words, or whatever tells how things are now."""
    return f"waited {PATIENCE:.0f} seconds in vain: {what() if callable(what) else what}"


def until(reached: Callable[[], T | None], what: What) -> T:
    """Looks again and again until `reached` returns something true: that. It may raise to give up at once."""
    end = time.monotonic() + PATIENCE
    while not (found := reached()):
        assert time.monotonic() < end, in_vain(what)
        time.sleep(EVERY)
    return found


@overload
async def eventually(reached: Callable[[], Awaitable[T | None]], what: What) -> T: ...
@overload
async def eventually(reached: Callable[[], T | None], what: What) -> T: ...
async def eventually(reached: Callable[[], Any], what: What) -> Any:
    """As `until`, in an event loop that goes on meanwhile."""
    end = time.monotonic() + PATIENCE
    while True:
        found = reached()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, in_vain(what)
        await asyncio.sleep(EVERY)


@contextlib.asynccontextmanager
async def guard(what: What) -> AsyncIterator[None]:
    """For a body that waits by itself: it must not do so forever."""
    limit = asyncio.timeout(PATIENCE)
    try:
        async with limit:
            yield
    except TimeoutError:
        assert not limit.expired(), in_vain(what)
        raise


def ended(process: subprocess.Popen[Any], what: What) -> int:
    """The exit code of a process that ends by itself."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise AssertionError(in_vain(what)) from None
