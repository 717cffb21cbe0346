"""From calls to requests: in batches as long as the endpoint answers them, or one by one, with results in call order.

`AdaptiveBatch` knows how long a batch may be. Here is decided what to send next, and what a failure says about it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from indexer.errors import (
    BatchUnsupportedError,
    InconsistentResponseError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
)
from indexer.rpc import error_hints
from indexer.rpc.adaptive_size import LONG_BATCH_CALLS, AdaptiveBatch
from indexer.rpc.answers import Call, Results, first_error, header_call
from indexer.rpc.budget import RequestGate
from indexer.rpc.retry import StopAfterTimeout, retried

MAX_SINGLES = 8  # Requests of one call each that are under way at a time.
_ABOUT_LENGTH = (RateLimitedError, BatchUnsupportedError, RangeTooLargeError)  # May mean that a batch was too long.
_HEADERS = frozenset(["eth_getBlockByNumber"])
# Sends one request. Errors of single calls are among the values; that of all of them is raised.
Send = Callable[[Sequence[Call], StopAfterTimeout], Awaitable[Results]]


class BatchSender:
    """Sends calls to one endpoint in as few requests as it allows. Raises RpcError.

    Args:
        send: sends one request.
        lengths: how many calls a batch may have, as learned so far.
        gate: the gate of the endpoint, whose rate limits batches where it counts calls.
        timeout: limit of one request, and of all attempts of it (s).
    """

    def __init__(self, send: Send, lengths: AdaptiveBatch, gate: RequestGate, timeout: float) -> None:
        self._send, self._lengths, self._gate, self.timeout = send, lengths, gate, timeout
        self._singles = asyncio.Semaphore(MAX_SINGLES)

    @property
    def length(self) -> int:
        """Calls to put into the next batch; 1: none. Where calls are counted, no more than the rate of a second."""
        rate = self._gate.calls_per_second()
        return self._lengths.size if rate is None else min(self._lengths.size, max(LONG_BATCH_CALLS, rate))

    def fits(self, calls: int) -> bool:
        """Return whether so many calls are to be sent together, or there is no way to: it takes no batches."""
        return calls <= self.length or self.length == 1

    async def together(self, calls: Sequence[Call]) -> Results:
        """Return results that one answer holds, or raise the first error in it."""

        async def send(stop: StopAfterTimeout) -> Results:
            results = await self._send(calls, stop)
            if error := first_error(results.values):
                raise error
            return results

        return await retried(send, self.timeout, lambda: len(calls) <= self.length)

    async def in_order(self, calls: Sequence[Call], *, whole: bool = False) -> Results:
        """Return results in call order, of one request if the node takes batches, or raise the first call's error.

        `whole`: raise RangeTooLargeError where the batch would be split, so that less is asked for and one answer holds
        all of it.
        """
        values: list[Any] = []
        size, before = 0, self._lengths.size
        until = time.monotonic() + self.timeout
        while len(values) < len(calls):
            rest, length = calls[len(values) :], self.length
            if length == 1 or len(calls) == 1:
                singles: dict[int, Any] = {}
                try:
                    size = max(size, await self._send_singly(rest, singles))
                except (RpcCallError, RangeTooLargeError):
                    self._lengths.restore(before)  # A call is refused by itself, so its batch was not too long.
                    raise
                return Results(values + [singles[i] for i in range(len(rest))], size)
            if whole and not self.fits(len(calls)):
                raise RangeTooLargeError(
                    f"{len(calls)} calls are more than it answers at once", self._gate.name, results=True
                )
            part = rest[:length]
            try:
                answered = await self.together(part)
            except RpcError as error:
                if await self._shortened(part, error, _HEADERS) and not _is_late(error, until):
                    continue
                raise
            self._succeeded(len(part))
            values += answered.values
            size = max(size, answered.size)
        return Results(values, size)

    async def independent(self, calls: Sequence[Call], *, partial: bool = False) -> list[Any]:
        """Return results in call order, of calls whose answers prove themselves: several nodes may give them.

        What was answered of a batch is kept, and only the rest is asked again. It fails when nothing more is answered.
        A call that is refused among others is asked once more, too; with `partial`, its error is then its result.
        """
        values: dict[int, Any] = {}
        refusals: Counter[int] | None = Counter() if partial else None
        shortest = self.length
        until = time.monotonic() + self.timeout
        while len(values) < len(calls):
            before = len(values)
            try:
                await retried(lambda stop: self._send_missing(calls, values, stop, refusals), self.timeout)
            except RpcError as error:
                # Each length only once: a limit on single calls restores it, and would have it asked for ever.
                shorter = isinstance(error, _ABOUT_LENGTH) and self.length < shortest
                if len(values) == before and (not shorter or _is_late(error, until)):
                    raise
            # What was answered begins the search anew: a longer batch that was only tried may be refused.
            shortest = min(shortest, self.length) if len(values) == before else self.length
        return [values[i] for i in range(len(calls))]

    async def _send_missing(
        self, calls: Sequence[Call], values: dict[int, Any], stop: StopAfterTimeout, refusals: Counter[int] | None
    ) -> None:
        """Send one batch of the calls that have no value yet. Raises its first error, and keeps what was answered."""
        length = self.length
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

    async def _send_singly(self, calls: Sequence[Call], values: dict[int, Any]) -> int:
        """Send one request per call that has no value yet, and keep each value. Return the size of the largest answer.

        An error cancels the rest, so that nothing outlives `close`; it is raised if it lasts, or nothing was answered.
        """
        sizes = [0]

        async def send(i: int) -> None:
            async with self._singles:
                result = await self.together([calls[i]])
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

    def _succeeded(self, calls: int) -> None:
        if self._lengths.succeeded(calls):
            self._gate.counts_calls()

    async def _shortened(self, part: Sequence[Call], error: RpcError, heavy: Collection[str]) -> bool:
        """Apply a failed batch to the length of the next. Return whether to send shorter ones instead of this one.

        `heavy`: methods whose answers can be too much together, so that no block range is to blame.
        """
        match error:
            case BatchUnsupportedError():
                message = error.words
                self._lengths.refused(
                    len(part), error_hints.max_batch_calls(message), length=error_hints.is_about_batch_length(message)
                )
                return True
            case RangeTooLargeError() if len(part) > 1 and all(method in heavy for method, _ in part):
                self._lengths.refused(len(part), length=False)
                return True
            case RateLimitedError():
                return len(part) > self.length
            case TransientRpcError() if not isinstance(error, InconsistentResponseError):
                if self._lengths.failed(len(part)) and await self._loses_batches(len(part)):
                    self._lengths.lost(len(part))
                    return True
        return False

    async def _loses_batches(self, length: int) -> bool:
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


def _is_late(error: RpcError, until: float) -> bool:
    """Return whether a rate limit has lasted beyond `until` (monotonic, s): shorter batches do not help any more."""
    return isinstance(error, RateLimitedError) and time.monotonic() > until
