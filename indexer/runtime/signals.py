"""SIGTERM and Ctrl-C: they end every command within seconds, whatever it waits for, also as process 1 of a container.

What is under way is finished or rolled back. A server that does not answer could keep that from coming to an end, so
the process is ended after END_TIMEOUT_S at the latest: that is as safe as `kill -9`, and supervisors do it anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

from indexer.exit_codes import ExitCode
from indexer.runtime.tasks import background_task

T = TypeVar("T")
END_TIMEOUT_S = 4.5  # From the first signal to the end of the process (s).
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest(asyncio.Event):
    """Set by SIGTERM or SIGINT. `handled`: the work ends by itself then; until it is, the work is canceled."""

    handled = False


class _State:
    """What a signal does: it asks the event loop, or raises KeyboardInterrupt where none runs."""

    ask: Callable[[], object] | None = None
    code: int = ExitCode.INTERRUPTED
    asked = False
    failed: int | None = None


def handle_signals() -> None:
    """Install the handler of both signals. Without one, process 1 would not even get SIGTERM."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        end_in_time(_State.code)
        _State.asked = True
        if _State.ask is None:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # The loop is closed: its work has ended.
            _State.ask()

    for number in SIGNALS:
        signal.signal(number, on_signal)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own. Raises KeyboardInterrupt if a signal canceled it."""
    return run_stoppable(lambda stop: work)


def run_stoppable(work: Callable[[StopRequest], Coroutine[Any, Any, T]], code: int = ExitCode.INTERRUPTED) -> T:
    """Run work that may handle a stop request itself. `code`: of a process that does not end by itself.

    An error that fail_with() noted has its own code.

    Signals never raise inside the event loop. The driver of the database would send a statement and not get to note
    it down; the answer then makes it write to memory that is not its own. Raises KeyboardInterrupt if a signal
    canceled the work.
    """
    stop, runner = StopRequest(), asyncio.Runner()
    with _signals_ask(runner.get_loop(), stop, code), runner:
        try:
            return runner.run(_until(stop, work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _until(stop: StopRequest, work: Callable[[StopRequest], Coroutine[Any, Any, T]]) -> T:
    async with background_task(stop.wait()) as stopped, background_task(work(stop)) as working:
        await asyncio.wait({stopped, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() or stop.handled or _State.failed is not None:  # What failed is only being closed.
            return await working
    raise asyncio.CancelledError


@contextlib.contextmanager
def _signals_ask(loop: asyncio.AbstractEventLoop, stop: StopRequest, code: int) -> Iterator[None]:
    if _State.asked:  # Between two event loops of one command.
        loop.call_soon(stop.set)
    _State.ask, _State.code, _State.failed = (lambda: loop.call_soon_threadsafe(stop.set)), code, None
    try:
        yield
    finally:
        _State.ask, _State.code = None, ExitCode.INTERRUPTED


def fail_with(code: int) -> None:
    """Note the exit code of an error that ends the work: a forced end must not hide it behind the code of a signal."""
    _State.failed = code


def end_in_time(code: int) -> None:
    """End the process after END_TIMEOUT_S, if it is still there: with the code of an error that is known by then."""
    timer = threading.Timer(END_TIMEOUT_S, lambda: os._exit(int(code if _State.failed is None else _State.failed)))
    timer.daemon = True
    timer.start()
