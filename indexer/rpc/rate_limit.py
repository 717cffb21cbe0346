"""When an endpoint may be asked: a cap on requests per second, and pauses that the endpoint asked for. Pure.

All times are seconds of one monotonic clock, passed in. Requests carry a purpose, whose budget pays for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, get_args

MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0  # Of a pause for which the endpoint named no time.
MAX_WAIT_S = 5.0  # If a node asks for a longer wait, the call is left to other endpoints.
COUNTING_S = 600.0  # For which an endpoint that was seen to count the calls in a batch is taken to do so.


def doubled_pause(first: float, times: int, longest: float) -> float:
    """Return `first` (s) doubled so many times, at most `longest` (s); also after the thousands of failures of days."""
    return min(first * 2.0 ** min(times, 100), longest)


class TokenBucket:
    """A token bucket of `rps` requests per second.

    In t seconds at most rps * t + burst requests pass; with a burst of one they are evenly spaced.
    """

    def __init__(self, rps: float, burst: float = 1.0) -> None:
        if not rps > 0:
            raise ValueError(f"not a rate: {rps} requests per second")
        self.rps, self.burst = rps, burst
        self._tokens, self._at = burst, float("-inf")

    def wait(self, now: float) -> float:
        """Return the time until a token is available (s); 0 if one is."""
        self._fill(now)
        # Tolerates less than a clock can resolve: otherwise a nearly whole token is waited for again and again.
        return 0.0 if self._tokens > 1 - 1e-6 else (1 - self._tokens) / self.rps

    def take(self, now: float, tokens: int = 1) -> None:
        """Take tokens. Call only after `wait` returned 0 for the same time.

        More than there are leave a debt, which the next requests wait for: the rate holds for calls in a batch, too.
        """
        self._fill(now)
        self._tokens -= tokens

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rps)
            self._at = now


class Backoff:
    """Pauses in which nothing is sent because an answer asked for it; shared by all callers of the endpoint."""

    def __init__(self) -> None:
        self.until = float("-inf")
        self._since = float("-inf")
        self._pause = MIN_PAUSE_S

    def wait(self, now: float) -> float:
        """Return the time until the pause is over (s); 0 if there is none."""
        return max(0.0, self.until - now)

    def limited(self, now: float, sent: float, retry_after: float | None) -> None:
        """Record that a request sent at `sent` was refused for its rate.

        If no time is named, the pause doubles each time: once for all requests that were in flight together.
        """
        if retry_after is not None:
            self.until = max(self.until, now + retry_after)
        elif sent >= self._since:
            self.until = max(self.until, now + self._pause)
            self._pause, self._since = min(MAX_PAUSE_S, 2 * self._pause), now

    def answered(self, sent: float) -> None:
        """Record that a request was answered; if sent after the last pause began, the next pause is short again."""
        if sent >= self._since:
            self._pause = MIN_PAUSE_S


class CallCounting:
    """Whether an endpoint counts the calls in a batch against its rate limit, as its refusals show.

    Forgotten after COUNTING_S, in case it was mistaken; an endpoint that does count shows it again.
    """

    def __init__(self) -> None:
        self._until = float("-inf")

    def seen(self, now: float) -> None:
        """Record that a refusal showed it."""
        self._until = now + COUNTING_S

    def tokens(self, calls: int, now: float) -> int:
        """Return how many requests a batch of `calls` counts as."""
        return calls if now < self._until else 1


RequestPurpose = Literal["follow", "head_proof", "probe", "backfill", "attest"]
PURPOSES: tuple[RequestPurpose, ...] = get_args(RequestPurpose)  # The most urgent first.
_purpose: ContextVar[RequestPurpose] = ContextVar("purpose", default="follow")


def current_purpose() -> RequestPurpose:
    """Return the purpose of requests made now."""
    return _purpose.get()


@contextlib.contextmanager
def request_purpose(purpose: RequestPurpose | None) -> Iterator[None]:
    """Set the purpose of requests made in the body and in tasks started there; None leaves it unchanged."""
    if purpose is None:
        yield
        return
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)
