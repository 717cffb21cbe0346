"""JSON-RPC over HTTP to one endpoint: batches, limits, retries. `answers`, `error_classifier` and `wire` interpret.

Every request passes one gate, the more urgent purpose first; the gate enforces the cap on requests per second and the
pauses that a node asks for. A batch is one request there, whatever its length, as it is one HTTP request; unless the
endpoint was seen to count the calls in it: then it is as many requests as it has calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
)
from tenacity.wait import wait_random_exponential

from indexer.errors import (
    BatchUnsupportedError,
    InconsistentResponseError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
    error_label,
)
from indexer.rpc import error_hints
from indexer.rpc.adaptive_size import LONG_BATCH_CALLS, AdaptiveBatch
from indexer.rpc.answers import (
    AnswerReader,
    Call,
    Results,
    entries_of,
    first_error,
    header_call,
    request_body,
    with_context,
)
from indexer.rpc.budget import Budgets, PriorityLock
from indexer.rpc.health import EndpointHealth
from indexer.rpc.http_client import MAX_WAIT_S, HttpClient, StopAfterTimeout
from indexer.rpc.rate_limit import Backoff, CallCounting, TokenBucket, current_purpose
from indexer.runtime.secrets import redact

MAX_ATTEMPTS = 4
_ABOUT_LENGTH = (RateLimitedError, BatchUnsupportedError, RangeTooLargeError)  # May mean that a batch was too long.
_backoff = wait_random_exponential(multiplier=0.15, max=3)


def _wait(state: RetryCallState) -> float:
    """Return the wait before a retry (s): jittered and exponential, but at least the node's own Retry-After."""
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, RateLimitedError) else None
    return max(named or 0.0, _backoff(state))


class Endpoint(HttpClient):
    """One HTTP endpoint. Raises RpcError and its subclasses only.

    Args:
        url: URL, which may contain secrets.
        timeout: limit of one request (s).
        max_batch: maximum length of a batch (calls).
        max_response: maximum size of a response (bytes).
        rps: maximum requests per second; None: no limit.
        name: display name without secrets; "": derived from the URL.
        budgets: request budgets by purpose; None: no limits.
    """

    def __init__(
        self, url: str, *, timeout: float = 20.0, max_batch: int = 250, max_response: int = 64 * 2**20,
        rps: float | None = None, name: str = "", budgets: Budgets | None = None,
    ) -> None:  # fmt: skip
        super().__init__(url, name or redact(url), timeout, max_response)
        self.lengths = AdaptiveBatch(max_batch)
        self.requests = 0
        self.errors: Counter[str] = Counter()  # By class, including those that a retry overcame.
        self.outcomes: Counter[tuple[str, str]] = Counter()  # Calls by method, and "ok" or the error's class.
        self.failed_work: Counter[str] = Counter()  # Failed work of several calls, by the error's class.
        self._next_id = 0
        self._singles = asyncio.Semaphore(8)
        self._gate, self._budgets = PriorityLock(), budgets or Budgets()
        self._bucket = None if rps is None else TokenBucket(rps)
        self._quiet, self._counting = Backoff(), CallCounting()
        self._answers = AnswerReader(self.name, lambda: self.url)
        self.health = EndpointHealth()
        self.under_way: dict[int, tuple[str, float]] = {}  # First id -> (method, monotonic time); no probes.
        self.served_at = self.held_until = 0.0  # Last answer to anything but a probe; end of the current delay.

    @property
    def batch_length(self) -> int:
        """Calls to put into the next batch; 1: none. Where calls are counted, no more than the rate of a second."""
        if self._bucket is None or self._counting.tokens(2, time.monotonic()) == 1:
            return self.lengths.size
        return min(self.lengths.size, max(LONG_BATCH_CALLS, int(self._bucket.rps)))

    def fits(self, calls: int) -> bool:
        """Return whether so many calls are to be sent together, or there is no way to: it takes no batches."""
        return calls <= self.batch_length or self.batch_length == 1

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """Return the result of one call."""
        return (await self._retried([(method, params)])).values[0]

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return results in call order, or raise the first call's error. One request if the node takes batches."""
        return (await self.batch_with_size(calls)).values

    async def batch_with_size(self, calls: Sequence[Call], *, whole: bool = False) -> Results:
        """Return results as `batch` does, with the size of the largest response.

        `whole`: raise RangeTooLargeError where the batch would be split, so that less is asked for and one answer holds
        all of it.
        """
        values: list[Any] = []
        size, at, before = 0, 0, self.lengths.size
        until = time.monotonic() + self.timeout
        while at < len(calls):
            length = self.batch_length
            if length == 1 or len(calls) == 1:
                singles: dict[int, Any] = {}
                try:
                    size = max(size, await self._send_singly(calls[at:], singles))
                except (RpcCallError, RangeTooLargeError):
                    self.lengths.restore(before)  # A call is refused by itself, so its batch was not too long.
                    raise
                return Results(values + [singles[i] for i in range(len(calls) - at)], size)
            if whole and not self.fits(len(calls)):
                raise RangeTooLargeError(
                    f"{len(calls)} calls are more than it answers at once", self.name, results=True
                )
            part = calls[at : at + length]
            answered = await self._send_part(part, until)
            if answered is not None:
                values += answered.values
                size, at = max(size, answered.size), at + len(part)
        return Results(values, size)

    async def independent(self, calls: Sequence[Call], *, partial: bool = False) -> list[Any]:
        """Return results in call order, of calls whose answers prove themselves: several nodes may give them.

        What was answered of a batch is kept, and only the rest is asked again. It fails when nothing more is answered.
        A call that is refused among others is asked once more, too; with `partial`, its error is then its result.
        """
        values: dict[int, Any] = {}
        refusals: Counter[int] | None = Counter() if partial else None
        shortest = self.batch_length
        until = time.monotonic() + self.timeout
        while len(values) < len(calls):
            before, stop = len(values), StopAfterTimeout(self.timeout)
            try:
                await self._retrying(stop, lambda: True)(self._send_missing, calls, values, stop, refusals)
            except RpcError as error:
                # Each length only once: a limit on single calls restores it, and would have it asked for ever.
                shorter = isinstance(error, _ABOUT_LENGTH) and self.batch_length < shortest
                late = isinstance(error, RateLimitedError) and time.monotonic() > until
                if len(values) == before and (late or not shorter):
                    raise
            # What was answered begins the search anew: a longer batch that was only tried may be refused.
            shortest = min(shortest, self.batch_length) if len(values) == before else self.batch_length
        return [values[i] for i in range(len(calls))]

    async def _send_missing(
        self, calls: Sequence[Call], values: dict[int, Any], stop: StopAfterTimeout, refusals: Counter[int] | None
    ) -> None:
        """Send one batch of the calls that have no value yet. Raises its first error, and keeps what was answered."""
        length = self.batch_length
        if length == 1:
            await self._send_singly(calls, values)
            return
        missing = [i for i in range(len(calls)) if i not in values][:length]
        part = [calls[i] for i in missing]
        try:
            outcomes = (await self._send(part, stop)).values
        except RpcError as error:
            await self._shortened(part, error, {method for method, _ in part})
            raise
        values.update((i, o) for i, o in zip(missing, outcomes, strict=True) if not isinstance(o, RpcError))
        if refusals is not None:
            refused = {i: o for i, o in zip(missing, outcomes, strict=True) if isinstance(o, RpcCallError)}
            values.update((i, o) for i, o in refused.items() if refusals[i])
            refusals.update(list(refused))
            outcomes = [o for o in outcomes if not isinstance(o, RpcCallError)]
        if refusal := first_error(outcomes):
            raise refusal
        self._succeeded(len(part))

    async def _send_part(self, part: Sequence[Call], until: float) -> Results | None:
        """Send one batch; None if shorter ones are to be sent instead, after a rate limit only before `until` (s)."""
        try:
            answered = await self._retried(part)
        except RpcError as error:
            late = isinstance(error, RateLimitedError) and time.monotonic() > until
            if await self._shortened(part, error, {"eth_getBlockByNumber"}) and not late:
                return None
            raise
        self._succeeded(len(part))
        return answered

    async def _shortened(self, part: Sequence[Call], error: RpcError, heavy: set[str]) -> bool:
        """Apply a failed batch to the length of the next. Return whether to send shorter ones instead of this one.

        `heavy`: methods whose answers can be too much together, so that no block range is to blame.
        """
        match error:
            case BatchUnsupportedError():
                message = error.words
                self.lengths.refused(
                    len(part), error_hints.max_batch_calls(message), length=error_hints.is_about_batch_length(message)
                )
                return True
            case RangeTooLargeError() if len(part) > 1 and all(method in heavy for method, _ in part):
                self.lengths.refused(len(part), length=False)
                return True
            case RateLimitedError():
                return len(part) > self.batch_length
            case TransientRpcError() if not isinstance(error, InconsistentResponseError):
                if self.lengths.failed(len(part)) and await self._loses(len(part)):
                    self.lengths.lost(len(part))
                    return True
        return False

    async def _loses(self, length: int) -> bool:
        """Return whether a light call is answered alone and lost in a batch of this length, twice in turn.

        An outage that begins or ends in between, and a limit on the rate, would be taken for it if only one was tried.
        """
        light = header_call("latest")
        for calls in ([light], [light] * length) * 2:
            try:
                results = await self._send(calls, StopAfterTimeout(self.timeout))
                error = first_error(results.values)
            except RpcError as failure:
                error = failure
            if isinstance(error, RateLimitedError) or (error is None) != (len(calls) == 1):
                return False
        return True

    def _succeeded(self, calls: int) -> None:
        if self.lengths.succeeded(calls):
            self._counting.seen(time.monotonic())

    async def _send_singly(self, calls: Sequence[Call], values: dict[int, Any]) -> int:
        """Send one request per call that has no value yet, and keep each value. Return the size of the largest answer.

        An error cancels the rest, so that nothing outlives `close`; it is raised if it lasts, or nothing was answered.
        """
        sizes = [0]

        async def send(i: int) -> None:
            async with self._singles:
                result = await self._retried([calls[i]])
            self._succeeded(1)
            values[i] = result.values[0]
            sizes.append(result.size)

        while len(values) < len(calls):
            before = len(values)
            tasks = [asyncio.create_task(send(i)) for i in range(len(calls)) if i not in values]
            try:
                await asyncio.gather(*tasks)
            except TransientRpcError:
                if len(values) == before:
                    raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return max(sizes)

    async def _retried(self, calls: Sequence[Call]) -> Results:
        """Send calls that one answer must hold, and raise the first error in it."""
        stop = StopAfterTimeout(self.timeout)

        async def send() -> Results:
            results = await self._send(calls, stop)
            if error := first_error(results.values):
                raise error
            return results

        return await self._retrying(stop, lambda: len(calls) <= self.batch_length)(send)

    def _retrying(self, stop: StopAfterTimeout, limited_again: Callable[[], bool]) -> AsyncRetrying:
        """Retry TransientRpcError a few times, for little more than `timeout`: then it is another endpoint's turn.

        `limited_again`: returns whether a rate limit is to be retried.
        """

        def is_transient(error: BaseException) -> bool:
            return isinstance(error, TransientRpcError) and (not isinstance(error, RateLimitedError) or limited_again())

        stops = stop_any(stop_after_attempt(MAX_ATTEMPTS), stop)
        return AsyncRetrying(retry=retry_if_exception(is_transient), wait=_wait, stop=stops, reraise=True)

    async def _wait_turn(self, calls: int) -> None:
        """Wait for this request's turn. Raises RateLimitedError if the node wants a pause longer than MAX_WAIT_S.

        A caller that is canceled while it waits leaves the queue and takes nothing from it.
        """
        async with self._gate:
            while True:
                now = time.monotonic()
                quiet = self._quiet.wait(now)
                if quiet > MAX_WAIT_S:
                    raise RateLimitedError(f"accepts no requests for another {quiet:.0f} seconds", self.name, quiet)
                wait = max(quiet, self._bucket.wait(now) if self._bucket else 0.0)
                if wait <= 0:
                    break
                self.held_until = now + wait
                await asyncio.sleep(wait)
            if self._bucket:
                self._bucket.take(now, self._counting.tokens(calls, now))

    async def _send(self, calls: Sequence[Call], stop: StopAfterTimeout) -> Results:
        """Send one request. Errors of single calls are among the values; that of all of them is raised."""
        queued_at = time.monotonic()
        await self._budgets.take()
        await self._wait_turn(len(calls))
        sent = time.monotonic()
        stop.queued += sent - queued_at
        first = self._next_id
        self._next_id += len(calls)
        if current_purpose() != "probe":
            self.under_way[first] = calls[0][0], sent
        try:
            results = await self._ask(calls, first)
        except RpcError as error:
            self._record(calls, [error] * len(calls), sent)
            raise with_context(error, calls) from error.__cause__
        finally:
            self.under_way.pop(first, None)
        self._record(calls, results.values, sent)
        for call, outcome in zip(calls, results.values, strict=True):
            if isinstance(outcome, RpcError):
                with_context(outcome, [call])
        return results

    def _record(self, calls: Sequence[Call], outcomes: Sequence[Any], sent: float) -> None:
        """Record what a request brought: in the counters, the health, the pauses and the length of batches."""
        now = time.monotonic()
        labels = [error_label(o) if isinstance(o, RpcError) else "ok" for o in outcomes]
        self.outcomes.update((method, label) for (method, _), label in zip(calls, labels, strict=True))
        self.errors.update({*labels} - {"ok"})
        limited = next((o for o in outcomes if isinstance(o, RateLimitedError)), None)
        failed = limited or next((o for o in outcomes if isinstance(o, TransientRpcError)), None)
        if limited is not None:
            self._quiet.limited(now, sent, limited.retry_after or None)
            self._learn_from_limit(calls, outcomes, now)
        if failed is not None:
            self.health.failed(now, failed.message, limited=limited is not None)
        else:  # A refusal is an answer.
            self.health.answered(now, now - sent)
        if first_error(outcomes) is None:
            self._quiet.answered(sent)
            self.served_at = self.served_at if current_purpose() == "probe" else now

    def _learn_from_limit(self, calls: Sequence[Call], outcomes: Sequence[Any], now: float) -> None:
        answered = {m for (m, _), o in zip(calls, outcomes, strict=True) if not isinstance(o, RpcError)}
        limited = {m for (m, _), o in zip(calls, outcomes, strict=True) if isinstance(o, RateLimitedError)}
        if answered & limited:  # Some calls of one kind, and not the others: it counts them.
            self._counting.seen(now)
        if answered & limited or not answered:  # Else one kind is refused, however few there are.
            self.lengths.limited(len(calls), sum(not isinstance(o, RpcError) for o in outcomes))

    async def _ask(self, calls: Sequence[Call], first: int) -> Results:
        self.requests += 1
        answer = await self._post(request_body(calls, first))
        if len(calls) == 1:
            return Results([self._answers.outcome(answer.parsed, answer.status, answer.headers)], answer.size)
        entries = entries_of(answer.parsed)
        if entries is None:
            raise self._answers.batch_refusal(answer.parsed, len(calls), answer.status, answer.headers)
        values = self._answers.in_order(entries, first, len(calls), answer.status, answer.headers)
        return Results(values, answer.size)
