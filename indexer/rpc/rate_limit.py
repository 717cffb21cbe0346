"""When an endpoint may be asked: a cap on requests a second, and the quiet that the endpoint itself asked for. Pure.

All times are seconds of one monotonic clock, passed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, get_args

MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0  # of a quiet for which the endpoint named no time


class TokenBucket:
    """A token bucket: `rps` requests a second. In t seconds at most rps * t + burst pass; with a burst of one they are
    evenly spaced."""

    def __init__(self, rps: float, burst: float = 1.0) -> None:
        if not rps > 0:
            raise ValueError(f"a cap of {rps} requests a second")
        self.rps, self.burst = rps, burst
        self._tokens, self._at = burst, float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 when there is one."""
        self._fill(now)
        # Below what a clock tells apart: a token that is nearly whole would be waited for again and again.
        return 0.0 if self._tokens > 1 - 1e-6 else (1 - self._tokens) / self.rps

    def take(self, now: float) -> None:
        """Only after `wait` was 0 at the same time."""
        self._fill(now)
        self._tokens -= 1

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rps)
            self._at = now


class Backoff:
    """Times in which nothing is sent, because an answer said so: shared by all callers of the endpoint."""

    def __init__(self) -> None:
        self.until = float("-inf")
        self._since = float("-inf")
        self._pause = MIN_PAUSE_S

    def wait(self, now: float) -> float:
        return max(0.0, self.until - now)

    def limited(self, now: float, sent: float, retry_after: float | None) -> None:
        """A request sent at `sent` was refused for its rate. Without a named time the quiet doubles each time: once for
        all requests that were under way together."""
        if retry_after is not None:
            self.until = max(self.until, now + retry_after)
        elif sent >= self._since:
            self.until = max(self.until, now + self._pause)
            self._pause, self._since = min(MAX_PAUSE_S, 2 * self._pause), now

    def answered(self, sent: float) -> None:
        """A request sent after the last quiet began was answered: the next quiet is short again."""
        if sent >= self._since:
            self._pause = MIN_PAUSE_S


RequestPurpose = Literal["follow", "probe", "backfill", "attest"]
PURPOSES: tuple[RequestPurpose, ...] = get_args(RequestPurpose)  # the more urgent first
_purpose: ContextVar[RequestPurpose] = ContextVar("purpose", default="follow")


def current_purpose() -> RequestPurpose:
    """What is being asked for now."""
    return _purpose.get()


@contextlib.contextmanager
def request_purpose(on: RequestPurpose | None) -> Iterator[None]:
    """Requests of the body, and of tasks begun in it, are for this; None: for what they were for anyway."""
    if on is None:
        yield
        return
    token = _purpose.set(on)
    try:
        yield
    finally:
        _purpose.reset(token)
