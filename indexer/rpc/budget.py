"""When a request may be sent: budgets per purpose, and the gate of each endpoint."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count

from indexer.errors import RateLimitedError
from indexer.rpc.rate_limit import (
    MAX_WAIT_S,
    PURPOSES,
    Backoff,
    CallCounting,
    RequestPurpose,
    TokenBucket,
    current_purpose,
)

BURST = 5.0  # Time (s) whose budget may be spent at once.


class Budgets:
    """Budgets of HTTP requests per purpose.

    `caps`: maximum requests per second by purpose, over all endpoints together. Unused budget accumulates for BURST
    seconds.
    """

    def __init__(
        self, caps: Mapping[RequestPurpose, float] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self.caps, self._clock = dict(caps or {}), clock
        self.spent: Counter[RequestPurpose] = Counter()
        self.held_until = 0.0  # Time until which a budget makes a caller wait.
        self.waited: dict[RequestPurpose, float] = dict.fromkeys(self.caps, 0.0)  # Time waited (s).
        self._buckets = {purpose: TokenBucket(rps, max(1.0, rps * BURST)) for purpose, rps in self.caps.items()}
        self._gates = {purpose: asyncio.Lock() for purpose in self.caps}

    async def take(self) -> None:
        """Wait until the current purpose may make one more request. A caller that is canceled takes nothing."""
        purpose = current_purpose()
        bucket = self._buckets.get(purpose)
        if bucket is not None:
            async with self._gates[purpose]:
                started_at = self._clock()
                while (wait := bucket.wait(self._clock())) > 0:
                    self.held_until = self._clock() + wait
                    await asyncio.sleep(wait)
                bucket.take(self._clock())
                self.waited[purpose] += self._clock() - started_at
        self.spent[purpose] += 1


class PriorityLock:
    """A lock that goes to the waiter with the most urgent purpose, then first come, first served."""

    def __init__(self) -> None:
        self._held = False
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (PURPOSES.index(current_purpose()), next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()  # The lock was already handed over here; pass it on, or the next waiter hangs.
            raise

    async def __aexit__(self, *_: object) -> None:
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False


class RequestGate:
    """The gate that every request to one endpoint passes, the more urgent purpose first.

    It enforces the cap on requests per second and the pauses that the node asks for. A batch is one request here,
    whatever its length, as it is one HTTP request; unless the endpoint was seen to count the calls in it: then it is as
    many requests as it has calls. `name`: display name of the endpoint; `rps`: the cap, None for no limit.
    """

    def __init__(self, name: str, rps: float | None) -> None:
        self.name, self.backoff = name, Backoff()
        self.held_until = 0.0  # End of the current delay.
        self._bucket = None if rps is None else TokenBucket(rps)
        self._counting, self._lock = CallCounting(), PriorityLock()

    def counts_calls(self) -> None:
        """Record that the endpoint was seen to count the calls in a batch."""
        self._counting.seen(time.monotonic())

    def calls_per_second(self) -> int | None:
        """Return how many calls a second may have in batches; None if only requests are limited, or nothing is."""
        if self._bucket is None or self._counting.tokens(2, time.monotonic()) == 1:
            return None
        return int(self._bucket.rps)

    async def wait_turn(self, calls: int) -> None:
        """Wait for a request's turn. Raises RateLimitedError if the node wants a pause longer than MAX_WAIT_S.

        A caller that is canceled while it waits leaves the queue and takes nothing from it.
        """
        async with self._lock:
            while True:
                now = time.monotonic()
                pause = self.backoff.wait(now)
                if pause > MAX_WAIT_S:
                    raise RateLimitedError(f"accepts no requests for another {pause:.0f} seconds", self.name, pause)
                wait = max(pause, self._bucket.wait(now) if self._bucket else 0.0)
                if wait <= 0:
                    break
                self.held_until = now + wait
                await asyncio.sleep(wait)
            if self._bucket:
                self._bucket.take(now, self._counting.tokens(calls, now))
