"""Catching up below finalized: ingesting and projecting side by side, until everything there is done.

The same for `run` after a long stop and for `backfill`. Ingest workers write raw logs in any order, and the projection
follows the gapless front. Without the lease only raw logs are ingested; whoever holds it projects them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from indexer.background import beside, together
from indexer.chain.finality import Final
from indexer.errors import RpcError
from indexer.follow.front import Front
from indexer.ingest.hands import Hands, tasks
from indexer.ingest.messages import thawed
from indexer.ingest.planner import Segment
from indexer.ingest.units import Unit
from indexer.ingest.work import Ingested
from indexer.ingest.worker import Report
from indexer.store import deferred, lease
from indexer.store.database import Connect, Connection, close
from indexer.store.standing import Standing
from indexer.store.steps import Done, Writer
from indexer.store.stream import Stream

WATCH_EVERY = 1.0  # seconds
DEFER_BLOCKS = 100_000  # blocks of an initial load from which on keys and indexes are built at its end


class Bulk:
    """`committed` is told of every commit; `glance` is called now and then, to keep an eye on the head."""

    def __init__(
        self, hands: Hands, writer: Writer, connect: Connect, committed: Callable[[Done], None],
        glance: Callable[[], Awaitable[object]], unit: int, defer_from: int = DEFER_BLOCKS,
    ) -> None:  # fmt: skip
        """`unit`: blocks that are asked for at once at most, to cut tasks by. `defer_from`: so many blocks to project
        into empty tables are an initial load, that does without indexes until its end."""
        self.hands, self.writer, self.connect, self.unit = hands, writer, connect, unit
        self.defer_from = defer_from
        self._committed, self._glance = committed, glance
        self.front = -1  # the end of gapless coverage while it runs
        self._source: Front | None = None

    async def run(
        self, conn: Connection, standing: Standing, segments: Sequence[Segment], final: Final, finalized: int,
        token: int | None,
    ) -> None:  # fmt: skip
        """Ingests the segments and projects up to `finalized`, all of which must join the `final` block at or above it.
        Ends early when another asks for the lease.

        Raises what ingesting and projecting raise: RpcError, SeamBroken, HashConflict, EpochMoved, LeaseLost.
        """
        async with self._opened() as reading, self._opened() as watching:
            projecting = token is not None and self.writer.projectable(standing)
            origin = standing.binding.origin
            front = self._source = Front(reading, standing.coverage, origin, finalized, projecting=projecting)
            works = [self._ingest(segments, final, front)]
            if token is not None and projecting:
                if standing.next_block == origin and finalized - origin + 1 >= self.defer_from:
                    deferred.log.info("indexes_deferred", count=await deferred.defer(conn, token))
                works.append(Stream(self.writer, conn, reading, standing, token).run(front, self._committed))
            await self._watched(watching, token, together(*works))

    @property
    def full_since(self) -> float | None:
        """Since when ingesting waits for the projection, monotonic seconds; None while it does not."""
        return self._source.full_since if self._source else None

    @property
    def heard_at(self) -> float:
        """The last sign of life from workers elsewhere, monotonic seconds."""
        return self.hands.heard_at

    async def build_indexes(self, conn: Connection, token: int, tell: Callable[[str, int], None]) -> bool:
        """Builds what an initial load put off; whether there was any. Ends early when another asks for the lease."""
        if not await deferred.pending(conn):
            return False
        async with self._opened() as second, self._opened() as watching:
            await self._watched(watching, token, deferred.build([conn, second], tell))
        return True

    async def _watched(self, watching: Connection, token: int | None, works: Coroutine[Any, Any, None]) -> None:
        async with beside(self._watch(watching, token)) as watch, beside(works) as work:
            await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
            await (work if work.done() else watch)

    async def _ingest(self, segments: Sequence[Segment], final: Final, front: Front) -> None:
        async def tell(news: Ingested | Report) -> None:
            segment, logs, unit = _parts(news)
            seconds = news.seconds if isinstance(news, Ingested) else None
            self._committed(Done("ingest", segment.first, segment.last, logs, seconds=seconds))
            await (front.covered(segment) if unit is None else front.take(unit))
            self.front = front.block

        left = deque(tasks(segments, self.hands.width, self.unit))

        async def hand() -> None:
            while left:
                segment = left.popleft()
                await self.hands.ingest(segment, final, tell)
                await front.covered(segment)

        await together(*(hand() for _ in range(self.hands.width)))
        await front.complete()

    async def _watch(self, conn: Connection, token: int | None) -> None:
        """Ends when another asks for the lease. Keeps ours while no step is committed."""
        held = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_EVERY)
            if await lease.wanted_by(conn) is not None:
                return
            if time.monotonic() - held > lease.TTL / 3:
                held = time.monotonic()
                if token is not None:
                    await lease.hold(conn, token)
                with contextlib.suppress(RpcError):  # ingesting meets it too, and knows better whether it matters
                    await self._glance()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Connection]:
        conn = await self.connect()
        try:
            yield conn
        finally:
            await close(conn)


def _parts(news: Ingested | Report) -> tuple[Segment, int, Unit | None]:
    """Blocks, number of logs, and the unit where it is at hand."""
    if isinstance(news, Report):
        return news.segment, news.logs, None if news.body is None else thawed(news.body)
    unit = news.unit
    return Segment(unit.first, unit.last, unit.addresses), len(unit.logs), unit
