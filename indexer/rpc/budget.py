"""Request budgets per purpose, and the order in which waiting requests proceed."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count

from indexer.rpc.rate_limit import PURPOSES, RequestPurpose, TokenBucket, current_purpose

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
