"""Retries at one endpoint: what failed for a moment is sent again, a few times and for a limited time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_any
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from indexer.errors import RateLimitedError, TransientRpcError
from indexer.rpc.rate_limit import MAX_WAIT_S

T = TypeVar("T")
MAX_ATTEMPTS = 4
_backoff = wait_random_exponential(multiplier=0.15, max=3)


def _wait(state: RetryCallState) -> float:
    """Return the wait before a retry (s): jittered and exponential, but at least the node's own Retry-After."""
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, RateLimitedError) else None
    return max(named or 0.0, _backoff(state))


class StopAfterTimeout(stop_base):
    """Stop retrying after `timeout` (s), not counting time `queued`, or if the node asks for more than MAX_WAIT_S."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.queued = timeout, 0.0

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, RateLimitedError) and (error.retry_after or 0.0) > MAX_WAIT_S:
            return True
        return (retry_state.seconds_since_start or 0.0) - self.queued >= self.timeout


async def retried(
    send: Callable[[StopAfterTimeout], Awaitable[T]], timeout: float, limited_again: Callable[[], bool] = lambda: True
) -> T:
    """Run `send`, again after a TransientRpcError, for little more than `timeout` (s): then another endpoint's turn is.

    `limited_again`: returns whether a rate limit is to be retried.
    """

    def is_transient(error: BaseException) -> bool:
        return isinstance(error, TransientRpcError) and (not isinstance(error, RateLimitedError) or limited_again())

    async def attempt() -> T:  # A coroutine function, whatever `send` is: tenacity awaits no other.
        return await send(stop)

    stop = StopAfterTimeout(timeout)
    stops = stop_any(stop_after_attempt(MAX_ATTEMPTS), stop)
    attempts = AsyncRetrying(retry=retry_if_exception(is_transient), wait=_wait, stop=stops, reraise=True)
    return await attempts(attempt)
