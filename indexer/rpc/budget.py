"""How many requests each purpose may make, and who comes first where several wait."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count

from indexer.rpc.rate_limit import PURPOSES, RequestPurpose, TokenBucket, current_purpose

BURST = 5.0  # seconds of a budget that may be spent at once


class Budgets:
    """`caps`: the most HTTP requests a second by purpose, over all endpoints together. What is not used is kept for
    BURST seconds."""

    def __init__(
        self, caps: Mapping[RequestPurpose, float] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self.caps, self._clock = dict(caps or {}), clock
        self.spent: Counter[RequestPurpose] = Counter()
        self.held_until = 0.0  # until when a budget keeps somebody waiting
        self.waited: dict[RequestPurpose, float] = dict.fromkeys(self.caps, 0.0)  # seconds
        self._buckets = {on: TokenBucket(rps, max(1.0, rps * BURST)) for on, rps in self.caps.items()}
        self._gates = {on: asyncio.Lock() for on in self.caps}

    async def take(self) -> None:
        """Waits until the purpose at hand may make one request more. A caller that is cancelled takes nothing."""
        on = current_purpose()
        bucket = self._buckets.get(on)
        if bucket is not None:
            async with self._gates[on]:
                came = self._clock()
                while (wait := bucket.wait(self._clock())) > 0:
                    self.held_until = self._clock() + wait
                    await asyncio.sleep(wait)
                bucket.take(self._clock())
                self.waited[on] += self._clock() - came
        self.spent[on] += 1


class PriorityLock:
    """A lock whose waiters come by the urgency of their purpose, then first come, first served."""

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
                self._next()  # it was ours already: the next one must not wait for us
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
