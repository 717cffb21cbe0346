"""SIGTERM and Ctrl-C: they end every command within seconds, whatever it waits for, also as process 1 of a container.

What is under way is finished or rolled back. A server that does not answer could keep that from coming to an end, so
the process is ended after END_TIMEOUT_S at the latest: that is as safe as `kill -9`, and supervisors do it anyway.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from types import FrameType

from indexer.errors import ExitCode

END_TIMEOUT_S = 4.5  # From the first signal to the end of the process (s).
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def interrupt_on_signals() -> None:
    """Make both signals raise KeyboardInterrupt. Without a handler, process 1 would not even get SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        end_in_time(ExitCode.INTERRUPTED)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)


def stop_on_signals(stop: asyncio.Event, code: int = ExitCode.INTERRUPTED) -> None:
    """Make both signals set `stop`. `code`: what the process ends with if it must be ended."""

    def ask() -> None:
        end_in_time(code)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, ask)


def end_in_time(code: int) -> None:
    """End the process after END_TIMEOUT_S, if it is still there."""
    timer = threading.Timer(END_TIMEOUT_S, os._exit, (int(code),))
    timer.daemon = True
    timer.start()
