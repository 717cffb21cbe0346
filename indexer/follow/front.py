"""The gapless front while ranges are ingested beside the projection, and what is to be projected up to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from indexer.chain.types import Anchor
from indexer.ingest.planner import Segment, Span, front, joined
from indexer.ingest.units import Unit
from indexer.store.database import Connection
from indexer.store.rawlogs import Chunk
from indexer.store.stream import STEP_LOGS, Stored, Stretch

MOST_HELD = 4 * STEP_LOGS  # logs kept in memory for the projection; at half of it ingesting waits


class Front:
    """A source of stored blocks. Those that this process ingested last are taken from memory, all others from the
    database; both are the same bytes, because a stretch is handed over only after its commit."""

    def __init__(
        self, conn: Connection, coverage: Mapping[str, Sequence[Span]], origin: int, last: int, *, projecting: bool
    ) -> None:  # fmt: skip
        """`last`: how far is to be projected at most; `projecting`: whether this process does. Else nothing is held,
        for nobody would come for it."""
        self._projecting = projecting
        self._stored = Stored(conn, -1)
        self._coverage, self._origin, self._last = {a: list(s) for a, s in coverage.items()}, origin, last
        self._held: dict[int, Stretch] = {}  # by first block
        self._complete = False
        self.full_since: float | None = None  # monotonic seconds, while ingesting waits for room
        self._changed = asyncio.Condition()
        self.block = min(front(self._coverage, origin), last)

    async def covered(self, segment: Segment) -> None:
        """Blocks of a segment are ingested now, by whomever."""
        new = Span(segment.first, segment.last)
        for address in segment.addresses:
            self._coverage[address] = joined([*self._coverage[address], new])
        async with self._changed:
            self.block = min(front(self._coverage, self._origin), self._last)
            self._changed.notify_all()

    async def take(self, unit: Unit) -> None:
        """The same for a unit at hand, which is held until it is projected. Waits while much is held."""
        if self._projecting and set(unit.addresses) == set(self._coverage):
            end = unit.blocks[-1]
            stretch = Stretch(Chunk(unit.first, unit.last, unit.logs, unit.times), Anchor(*end[:2], end.timestamp))
            async with self._changed:
                if unit.first == self.block + 1:
                    # Room is waited for only where the projection makes it: of what it can reach already.
                    self.full_since = time.monotonic()
                    await self._changed.wait_for(lambda: self._logs(self.block) < MOST_HELD // 2)
                    self.full_since = None
                    self._held[unit.first] = stretch
                elif unit.first > self.block and self._logs(self._last) < MOST_HELD:
                    self._held[unit.first] = stretch
        await self.covered(Segment(unit.first, unit.last, unit.addresses))

    async def complete(self) -> None:
        """Nothing more will be ingested."""
        async with self._changed:
            self._complete = True
            self._changed.notify_all()

    def _logs(self, last: int) -> int:
        """Logs held of stretches that begin up to block `last`."""
        return sum(len(stretch.chunk.logs) for first, stretch in self._held.items() if first <= last)

    async def next(self, first: int) -> Stretch | None:
        async with self._changed:
            await self._changed.wait_for(lambda: first <= self.block or self._complete)
            held = self._joined(first)
            if held is not None:
                self._changed.notify_all()
                return held
            # What begins later waits; the database has what is before it.
            self._stored.last = min([self.block, *(start - 1 for start in self._held if start > first)])
        return await self._stored.next(first)

    def _joined(self, first: int) -> Stretch | None:
        """Held stretches from block `first` on, of about one step together."""
        found: list[Stretch] = []
        at, logs = first, 0
        while logs < STEP_LOGS and at in self._held:
            found.append(self._held.pop(at))
            at, logs = found[-1].chunk.last + 1, logs + len(found[-1].chunk.logs)
        if len(found) < 2:
            return found[0] if found else None
        chunks = [stretch.chunk for stretch in found]
        times = {number: time for chunk in chunks for number, time in chunk.times.items()}
        whole = Chunk(first, chunks[-1].last, [log for chunk in chunks for log in chunk.logs], times)
        return Stretch(whole, found[-1].anchor)
