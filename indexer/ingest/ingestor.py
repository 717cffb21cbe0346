"""Ingesting ranges at or below finalized: fetch ahead, confirm, commit in groups. What a worker does.

Any number of these may work on one database, in one process or in many, in any order: coverage excludes overlap by its
constraint, seams are compared with whatever is stored beside them, and the epoch is held shared to each commit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import asyncpg
import structlog

from indexer.chain.batch import Unit, joined
from indexer.chain.finality import NOTHING, Final
from indexer.chain.ranges import Segment, plan
from indexer.db.connection import Connection
from indexer.decode.block_times import Stamps
from indexer.errors import EpochMoved
from indexer.ingest.fetch import NO_STAMPS, fetch_unit
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import beside, ended, together
from indexer.store import coverage, epoch, raw_logs

AHEAD = 4  # requests for logs under way at once
GROUP_LOGS = 8_000  # logs of one commit, about
GROUP_UNITS = 50
UNITS_AHEAD = 4  # confirmed ones that wait for the group before theirs to be committed
GROUP_SECONDS = 1.0  # how long confirmed units may wait for their commit
MOST_BEATEN = 20  # conflicts in a row with others before it is an error

CONFLICTS = (EpochMoved, asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError)

log = structlog.get_logger()


class Ingested(NamedTuple):
    """One commit: confirmed blocks, the epoch it was made in, how many ranges it was fetched in, and the seconds that
    its transaction took."""

    unit: Unit
    epoch: int
    ranges: int
    seconds: float


# Told of each commit, in chain order within a segment; ingesting goes on when it returns.
Tell = Callable[[Ingested], Awaitable[None]]


class Ingestor:
    """Ingests from one pool of endpoints over one connection, on which nothing else is done meanwhile. `stamps`: which
    events tell their block's time."""

    def __init__(self, pool: Pool, conn: Connection, tell: Tell, stamps: Stamps) -> None:
        self.pool, self.conn, self._tell, self._stamps = pool, conn, tell, stamps

    async def ingest(self, segment: Segment, final: Final) -> None:
        """Ingests what coverage lacks of a segment, whose blocks must join the `final` one above them.

        Raises RpcError, SeamBroken, HashConflict; what was told of stays.
        """
        beaten = 0
        while missing := await self._missing(segment):
            try:
                for gap in missing:
                    await self._fill(gap, final)
            except CONFLICTS as conflict:
                # Another process committed some of it first, or a reorg was handled: what is left is planned again.
                beaten += 1
                if beaten > MOST_BEATEN:
                    raise
                log.debug("beaten", conflict=" ".join(str(conflict).split()))

    async def _missing(self, segment: Segment) -> list[Segment]:
        return plan(await coverage.load(self.conn, segment.addresses), segment.first, segment.last)

    async def _fill(self, gap: Segment, final: Final) -> None:
        planned = await epoch.current(self.conn)
        ready: asyncio.Queue[list[Unit] | None] = asyncio.Queue(UNITS_AHEAD)
        await together(self._fetch(gap, final, ready), self._commit_all(planned, ready, gap.last))

    async def _fetch(self, gap: Segment, final: Final, ready: asyncio.Queue[list[Unit] | None]) -> None:
        """Units of the gap in chain order, some requests ahead of the commit."""
        under_way: deque[asyncio.Task[list[Unit]]] = deque()
        at = gap.first
        try:
            while under_way or at <= gap.last:
                # One request alone, until its answer shows how dense the chain is there.
                while at <= gap.last and len(under_way) < (AHEAD if at > gap.first else 1):
                    last = self._end(at, gap.last)
                    part = Segment(at, last, gap.addresses)
                    under_way.append(asyncio.create_task(fetch_span(self.pool, part, self._stamps, final)))
                    at = last + 1
                await ready.put(await under_way[0])
                under_way.popleft()
            await ready.put(None)
        finally:
            await ended(*under_way)

    def _end(self, at: int, last: int) -> int:
        """Where the next request ends: equal parts of what is left, none larger than the endpoint should be asked."""
        left, size = last - at + 1, self.pool.ordered()[0].ranges.size
        return at + -(-left // -(-left // size)) - 1

    async def _commit_all(self, planned: int, ready: asyncio.Queue[list[Unit] | None], last: int) -> None:
        """Commits in groups; the next one gathers while the server writes."""
        group = await _gather(ready, last)
        while group:
            async with beside(_gather(ready, last)) as following:
                await self._commit(planned, group)
                group = await following

    async def _commit(self, planned: int, units: list[Unit]) -> None:
        unit = joined(units)
        await raw_logs.ensure_partitions(self.conn, unit.first, unit.last)
        began = time.monotonic()
        async with self.conn.transaction():
            await epoch.share(self.conn, planned)
            await raw_logs.keep(self.conn, unit)
            hit("work.before_commit")
        hit("work.committed")
        await self._tell(Ingested(unit, planned, len(units), time.monotonic() - began))


async def _gather(ready: asyncio.Queue[list[Unit] | None], last: int) -> list[Unit]:
    """The next group; empty at the end. It waits for the first unit as long as that takes, then not much longer.

    What little is left up to block `last` belongs to it, too: a small step of the projection beside a large one leaves
    one of its two sides, computing and writing, waiting for the other.
    """
    group: list[Unit] = []
    until = 0.0
    while not _enough(group, last):
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic()) if group else None):
                more = await ready.get()
        except TimeoutError:
            break
        if more is None:
            ready.put_nowait(None)  # for the next look
            break
        until = until or time.monotonic() + GROUP_SECONDS
        group += more
    return group


def _enough(group: Sequence[Unit], last: int) -> bool:
    logs = sum(len(unit.logs) for unit in group)
    if len(group) < GROUP_UNITS and logs < GROUP_LOGS:
        return False
    blocks, left = group[-1].last - group[0].first + 1, last - group[-1].last
    return left > blocks // 2 or len(group) >= 2 * GROUP_UNITS or logs >= 2 * GROUP_LOGS


async def fetch_span(
    pool: Pool, segment: Segment, stamps: Stamps = NO_STAMPS, final: Final = NOTHING
) -> list[Unit]:  # fmt: skip
    """All blocks of a segment as confirmed units, in one request when the endpoint serves it at once. Raises RpcError.

    `final` is at or above the segment; without it (an estimate, which stores nothing) nothing shows that it is final.
    Each unit is from one endpoint; two of them may be from two, which is why their seams are compared too.
    """
    units: list[Unit] = []
    rest = segment
    while rest.first <= rest.last:
        # Bound now: the reader is asked before the loop goes on, but only a default says so.
        async def fetched(reader: Reader, part: Segment = rest) -> Unit:
            return await fetch_unit(reader, part, final, None, stamps, plain=True)

        units.append(await pool.run(fetched))
        rest = rest._replace(first=units[-1].last + 1)
    return units
