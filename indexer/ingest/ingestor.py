"""Ingesting ranges at or below finalized: fetch ahead, confirm, commit in groups. This is what every worker runs.

Any number of ingestors may work on one database, in one process or in many, in any order: a constraint keeps coverage
from overlapping, parent links are compared with whatever is stored on either side, and each commit holds the epoch
shared.
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
from indexer.errors import EpochChangedError, RpcError
from indexer.ingest.fetch import NO_TIME_FIELDS, fetch_batch
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import background_task, cancel_and_wait, run_all
from indexer.store import coverage, epoch, raw_logs

FETCHES_AHEAD = 4  # requests for logs in flight at once
GROUP_LOGS = 8_000  # per commit, approximately
GROUP_BATCHES = 50  # per commit, approximately
BATCHES_AHEAD = 4  # answers, already confirmed, that may wait while the group before them is committed
GROUP_SECONDS = 1.0  # that confirmed log batches may wait for their commit
MAX_CONFLICTS = 20  # consecutive conflicts with other processes before they are an error

CONFLICTS = (
    EpochChangedError,
    asyncpg.ExclusionViolationError,
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
)

log = structlog.get_logger()


class IngestCommit(NamedTuple):
    """One commit of an ingestor.

    `batch`: the confirmed blocks. `epoch`: the epoch it was made in. `ranges`: how many ranges it was fetched in.
    `seconds`: the time that its transaction took (s).
    """

    batch: LogBatch
    epoch: int
    ranges: int
    seconds: float


# Confirmed log batches in chain order; an empty list where a range is missing between them, None at the end.
Ready = asyncio.Queue[list[LogBatch] | None]
# Awaited after each commit, in chain order within a contract range; ingesting continues when it returns.
OnCommit = Callable[[IngestCommit], Awaitable[None]]


class Ingestor:
    """Ingests from one endpoint pool over one connection, which nothing else may use meanwhile.

    Args:
        pool: The endpoints.
        conn: The connection.
        on_commit: Awaited after each commit.
        time_fields: Events that carry the time of their block.
    """

    def __init__(self, pool: Pool, conn: Connection, on_commit: OnCommit, time_fields: TimeFields) -> None:
        self.pool, self.conn, self._on_commit, self._time_fields = pool, conn, on_commit, time_fields

    async def ingest(self, contract_range: ContractRange, final: FinalBlock) -> None:
        """Ingest the part of a contract range that coverage lacks; its blocks must join the `final` block above them.

        Raises RpcError, ParentMismatchError, StoredHashMismatchError; commits already reported stay.
        """
        conflicts = 0
        while missing := await self._missing(contract_range):
            try:
                for gap in missing:
                    await self._fill(gap, final)
            except CONFLICTS as conflict:
                # Another process committed part of it first, or a reorg was handled: plan what is left again.
                conflicts += 1
                if conflicts > MAX_CONFLICTS:
                    raise
                log.debug("beaten", conflict=" ".join(str(conflict).split()))

    async def _missing(self, contract_range: ContractRange) -> list[ContractRange]:
        return plan_missing(
            await coverage.load(self.conn, contract_range.addresses), contract_range.first, contract_range.last
        )

    async def _fill(self, gap: ContractRange, final: FinalBlock) -> None:
        planned = await epoch.current(self.conn)
        ready: Ready = asyncio.Queue(BATCHES_AHEAD)
        failures: list[RpcError] = []
        await run_all(self._fetch(gap, final, ready, failures), self._commit_all(planned, ready, gap.last))
        if failures:
            raise failures[0]

    async def _fetch(self, gap: ContractRange, final: FinalBlock, ready: Ready, failures: list[RpcError]) -> None:
        """Put the log batches of the gap into `ready` in chain order, with some requests ahead of the commit.

        A request that fails ends this: its error goes to `failures`, and what others answered is still committed.
        """
        in_flight: deque[asyncio.Task[list[LogBatch]]] = deque()
        at = gap.first
        try:
            while in_flight or at <= gap.last:
                # The first request runs alone, until its answer shows how dense the chain is there.
                while at <= gap.last and len(in_flight) < (FETCHES_AHEAD if at > gap.first else 1):
                    last = self._end(at, gap.last)
                    part = ContractRange(at, last, gap.addresses)
                    in_flight.append(asyncio.create_task(fetch_range(self.pool, part, self._time_fields, final)))
                    at = last + 1
                try:
                    await ready.put(await in_flight[0])
                except RpcError as error:
                    failures.append(error)
                    at = gap.last + 1  # nothing more is asked for
                    await ready.put([])
                in_flight.popleft()
            await ready.put(None)
        finally:
            await cancel_and_wait(*in_flight)

    def _end(self, at: int, last: int) -> int:
        """Return where the next request ends: equal parts of what is left, within the endpoint's current size."""
        left, size = last - at + 1, self.pool.ordered()[0].ranges.size
        return at + -(-left // -(-left // size)) - 1

    async def _commit_all(self, planned: int, ready: Ready, last: int) -> None:
        """Commit in groups; the next group gathers while the server writes."""
        group = await _next_group(ready, last)
        while group:
            async with background_task(_next_group(ready, last)) as following:
                await self._commit(planned, group)
                group = await following

    async def _commit(self, planned: int, batches: list[LogBatch]) -> None:
        batch = merge_batches(batches)
        await raw_logs.ensure_partitions(self.conn, batch.first, batch.last)
        began = time.monotonic()
        async with self.conn.transaction():
            await epoch.lock_shared(self.conn, planned)
            await raw_logs.commit_batch(self.conn, batch)
            hit("work.before_commit")
        hit("work.committed")
        await self._on_commit(IngestCommit(batch, planned, len(batches), time.monotonic() - began))


async def _next_group(ready: Ready, last: int) -> list[LogBatch]:
    """Return the next group, empty at the end. Waits for its first batch as long as that takes, then not much longer.

    A small remainder up to block `last` joins the group as well: a small projection step next to a large one leaves one
    of its two sides, computing and writing, waiting for the other.
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
            ready.put_nowait(None)  # so that the next call sees the end as well
            break
        if not more and group:
            break
        until = until or time.monotonic() + GROUP_SECONDS
        group += more
    return group


def _group_is_full(group: Sequence[LogBatch], last: int) -> bool:
    logs = sum(len(batch.logs) for batch in group)
    if len(group) < GROUP_BATCHES and logs < GROUP_LOGS:
        return False
    blocks, left = group[-1].last - group[0].first + 1, last - group[-1].last
    return left > blocks // 2 or len(group) >= 2 * GROUP_BATCHES or logs >= 2 * GROUP_LOGS


async def fetch_range(
    pool: Pool, contract_range: ContractRange, time_fields: TimeFields = NO_TIME_FIELDS,
    final: FinalBlock = NOTHING_FINAL,
) -> list[LogBatch]:  # fmt: skip
    """Fetch all blocks of a contract range as confirmed log batches, in one request if the endpoint serves it at once.

    Each batch is from one endpoint; two of them may be from two, which is why their parent links are compared, too.

    Args:
        pool: The endpoints.
        contract_range: Blocks and contracts to fetch.
        time_fields: Events that carry the time of their block.
        final: A final block at or above the range. Without it (an estimate, which stores nothing), nothing shows that
            the range is final.

    Raises:
        RpcError: No endpoint served it.
    """
    batches: list[LogBatch] = []
    rest = contract_range
    while rest.first <= rest.last:
        # A default binds `rest` now. The call ends before `rest` changes, but nothing else in the code says so.
        async def fetch(reader: Reader, part: ContractRange = rest) -> LogBatch:
            return await fetch_batch(reader, part, final, None, time_fields, plain=True)

        batches.append(await pool.with_failover(fetch))
        rest = rest._replace(first=batches[-1].last + 1)
    return batches
