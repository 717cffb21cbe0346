"""Catching up below finalized: ingesting and projecting side by side, until everything there is done.

The same for `run` after a long stop and for `backfill`. Ingest workers write raw logs in any order, and the projection
follows the gapless front. Without the lease only raw logs are ingested; whoever holds it projects them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from indexer.background import beside, together
from indexer.follow.front import Front
from indexer.ingest.planner import Segment
from indexer.ingest.work import Ingested, Ingestor
from indexer.rpc.pool import Pool
from indexer.store import lease
from indexer.store.database import Connection, close
from indexer.store.standing import Standing
from indexer.store.steps import Done, Writer
from indexer.store.stream import Stream

WATCH_EVERY = 1.0  # seconds

Connect = Callable[[], Awaitable[Connection]]


class Bulk:
    """`committed` is told of every commit; `glance` is called now and then, to keep an eye on the head."""

    def __init__(
        self, pool: Pool, writer: Writer, connect: Connect, committed: Callable[[Done], None],
        glance: Callable[[], Awaitable[object]],
    ) -> None:  # fmt: skip
        self.pool, self.writer, self.connect, self._committed, self._glance = pool, writer, connect, committed, glance

    async def run(
        self, conn: Connection, standing: Standing, segments: Sequence[Segment], finalized: int, token: int | None
    ) -> None:
        """Ingests the segments and projects up to `finalized`. Ends early when another asks for the lease.

        Raises what ingesting and projecting raise: RpcError, SeamBroken, HashConflict, EpochMoved, LeaseLost.
        """
        async with self._opened() as writing, self._opened() as reading, self._opened() as watching:
            front = Front(reading, standing.coverage, standing.binding.origin, finalized)
            works = [self._ingest(writing, segments, front)]
            if token is not None and self.writer.projectable(standing):
                works.append(Stream(self.writer, conn, reading, standing, token).run(front, self._committed))
            async with beside(self._watch(watching, token)) as watch, beside(together(*works)) as work:
                await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
                await (work if work.done() else watch)

    async def _ingest(self, conn: Connection, segments: Sequence[Segment], front: Front) -> None:
        async def tell(ingested: Ingested) -> None:
            unit = ingested.unit
            self._committed(Done("ingest", unit.first, unit.last, len(unit.logs)))
            await front.take(ingested)

        ingestor = Ingestor(self.pool, conn, tell)
        for segment in segments:
            await ingestor.ingest(segment)
            await front.covered(segment)
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
                await self._glance()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Connection]:
        conn = await self.connect()
        try:
            yield conn
        finally:
            await close(conn)
