"""What requests are for, and how many each purpose may make: the head comes first, proofs never starve it.

The purpose of a request is that of the code that makes it, and of the tasks it starts: `with spending("attest"): ...`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from itertools import count
from typing import Literal, get_args

from indexer.rpc.throttle import Bucket

Purpose = Literal["follow", "probe", "backfill", "attest"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)  # the more urgent first
BURST = 5.0  # seconds of a budget that may be spent at once

_purpose: ContextVar[Purpose] = ContextVar("purpose", default="follow")


def purpose() -> Purpose:
    """What is being asked for now."""
    return _purpose.get()


@contextlib.contextmanager
def spending(on: Purpose | None) -> Iterator[None]:
    """Requests of the body, and of tasks begun in it, are for this; None: for what they were for anyway."""
    if on is None:
        yield
        return
    token = _purpose.set(on)
    try:
        yield
    finally:
        _purpose.reset(token)


class Budgets:
    """`caps`: the most HTTP requests a second by purpose, over all endpoints together. What is not used is kept for
    BURST seconds."""

    def __init__(
        self, caps: Mapping[Purpose, float] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self.caps, self._clock = dict(caps or {}), clock
        self.spent: Counter[Purpose] = Counter()
        self.waited: dict[Purpose, float] = dict.fromkeys(self.caps, 0.0)  # seconds
        self._buckets = {on: Bucket(rps, max(1.0, rps * BURST)) for on, rps in self.caps.items()}
        self._gates = {on: asyncio.Lock() for on in self.caps}

    async def take(self) -> None:
        """Waits until the purpose at hand may make one request more. A caller that is cancelled takes nothing."""
        on = purpose()
        bucket = self._buckets.get(on)
        if bucket is not None:
            async with self._gates[on]:
                came = self._clock()
                while (wait := bucket.wait(self._clock())) > 0:  # noqa: ASYNC110 - a token comes with time alone
                    await asyncio.sleep(wait)
                bucket.take(self._clock())
                self.waited[on] += self._clock() - came
        self.spent[on] += 1


class Turns:
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
        heapq.heappush(self._waiting, (PURPOSES.index(purpose()), next(self._order), turn))
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
