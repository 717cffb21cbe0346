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

from indexer.chain.batch import LogBatch, merge_batches
from indexer.chain.finality import NOTHING_FINAL, FinalBlock
from indexer.chain.ranges import ContractRange, plan_missing
from indexer.db.connection import Connection
from indexer.decode.block_times import TimeFields
from indexer.errors import EpochChangedError
from indexer.ingest.fetch import NO_TIME_FIELDS, fetch_batch
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import background_task, cancel_and_wait, run_all
from indexer.store import coverage, epoch, raw_logs

FETCHES_AHEAD = 4  # requests for logs under way at once
GROUP_LOGS = 8_000  # logs of one commit, about
GROUP_BATCHES = 50
BATCHES_AHEAD = 4  # confirmed ones that wait for the group before theirs to be committed
GROUP_SECONDS = 1.0  # how long confirmed units may wait for their commit
MAX_CONFLICTS = 20  # conflicts in a row with others before it is an error

CONFLICTS = (
    EpochChangedError,
    asyncpg.ExclusionViolationError,
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
)

log = structlog.get_logger()


class IngestCommit(NamedTuple):
    """One commit: confirmed blocks, the epoch it was made in, how many ranges it was fetched in, and the seconds that
    its transaction took."""

    unit: LogBatch
    epoch: int
    ranges: int
    seconds: float


# Told of each commit, in chain order within a segment; ingesting goes on when it returns.
OnCommit = Callable[[IngestCommit], Awaitable[None]]


class Ingestor:
    """Ingests from one pool of endpoints over one connection, on which nothing else is done meanwhile. `stamps`: which
    events tell their block's time."""

    def __init__(self, pool: Pool, conn: Connection, tell: OnCommit, stamps: TimeFields) -> None:
        self.pool, self.conn, self._tell, self._stamps = pool, conn, tell, stamps

    async def ingest(self, segment: ContractRange, final: FinalBlock) -> None:
        """Ingests what coverage lacks of a segment, whose blocks must join the `final` one above them.

        Raises RpcError, ParentMismatchError, StoredHashMismatchError; what was told of stays.
        """
        beaten = 0
        while missing := await self._missing(segment):
            try:
                for gap in missing:
                    await self._fill(gap, final)
            except CONFLICTS as conflict:
                # Another process committed some of it first, or a reorg was handled: what is left is planned again.
                beaten += 1
                if beaten > MAX_CONFLICTS:
                    raise
                log.debug("beaten", conflict=" ".join(str(conflict).split()))

    async def _missing(self, segment: ContractRange) -> list[ContractRange]:
        return plan_missing(await coverage.load(self.conn, segment.addresses), segment.first, segment.last)

    async def _fill(self, gap: ContractRange, final: FinalBlock) -> None:
        planned = await epoch.current(self.conn)
        ready: asyncio.Queue[list[LogBatch] | None] = asyncio.Queue(BATCHES_AHEAD)
        await run_all(self._fetch(gap, final, ready), self._commit_all(planned, ready, gap.last))

    async def _fetch(self, gap: ContractRange, final: FinalBlock, ready: asyncio.Queue[list[LogBatch] | None]) -> None:
        """Units of the gap in chain order, some requests ahead of the commit."""
        under_way: deque[asyncio.Task[list[LogBatch]]] = deque()
        at = gap.first
        try:
            while under_way or at <= gap.last:
                # One request alone, until its answer shows how dense the chain is there.
                while at <= gap.last and len(under_way) < (FETCHES_AHEAD if at > gap.first else 1):
                    last = self._end(at, gap.last)
                    part = ContractRange(at, last, gap.addresses)
                    under_way.append(asyncio.create_task(fetch_range(self.pool, part, self._stamps, final)))
                    at = last + 1
                await ready.put(await under_way[0])
                under_way.popleft()
            await ready.put(None)
        finally:
            await cancel_and_wait(*under_way)

    def _end(self, at: int, last: int) -> int:
        """Where the next request ends: equal parts of what is left, none larger than the endpoint should be asked."""
        left, size = last - at + 1, self.pool.ordered()[0].ranges.size
        return at + -(-left // -(-left // size)) - 1

    async def _commit_all(self, planned: int, ready: asyncio.Queue[list[LogBatch] | None], last: int) -> None:
        """Commits in groups; the next one gathers while the server writes."""
        group = await _next_group(ready, last)
        while group:
            async with background_task(_next_group(ready, last)) as following:
                await self._commit(planned, group)
                group = await following

    async def _commit(self, planned: int, units: list[LogBatch]) -> None:
        unit = merge_batches(units)
        await raw_logs.ensure_partitions(self.conn, unit.first, unit.last)
        began = time.monotonic()
        async with self.conn.transaction():
            await epoch.lock_shared(self.conn, planned)
            await raw_logs.commit_batch(self.conn, unit)
            hit("work.before_commit")
        hit("work.committed")
        await self._tell(IngestCommit(unit, planned, len(units), time.monotonic() - began))


async def _next_group(ready: asyncio.Queue[list[LogBatch] | None], last: int) -> list[LogBatch]:
    """The next group; empty at the end. It waits for the first unit as long as that takes, then not much longer.

    What little is left up to block `last` belongs to it, too: a small step of the projection beside a large one leaves
    one of its two sides, computing and writing, waiting for the other.
    """
    group: list[LogBatch] = []
    until = 0.0
    while not _group_is_full(group, last):
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


def _group_is_full(group: Sequence[LogBatch], last: int) -> bool:
    logs = sum(len(unit.logs) for unit in group)
    if len(group) < GROUP_BATCHES and logs < GROUP_LOGS:
        return False
    blocks, left = group[-1].last - group[0].first + 1, last - group[-1].last
    return left > blocks // 2 or len(group) >= 2 * GROUP_BATCHES or logs >= 2 * GROUP_LOGS


async def fetch_range(
    pool: Pool, segment: ContractRange, stamps: TimeFields = NO_TIME_FIELDS, final: FinalBlock = NOTHING_FINAL
) -> list[LogBatch]:  # fmt: skip
    """All blocks of a segment as confirmed units, in one request when the endpoint serves it at once. Raises RpcError.

    `final` is at or above the segment; without it (an estimate, which stores nothing) nothing shows that it is final.
    Each unit is from one endpoint; two of them may be from two, which is why their seams are compared too.
    """
    units: list[LogBatch] = []
    rest = segment
    while rest.first <= rest.last:
        # Bound now: the reader is asked before the loop goes on, but only a default says so.
        async def fetched(reader: Reader, part: ContractRange = rest) -> LogBatch:
            return await fetch_batch(reader, part, final, None, stamps, plain=True)

        units.append(await pool.with_failover(fetched))
        rest = rest._replace(first=units[-1].last + 1)
    return units
