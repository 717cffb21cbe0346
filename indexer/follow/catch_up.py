"""Catching up below finalized: ingesting and projecting concurrently, until everything there is done.

`run` uses it after a long stop, and `backfill` from the start. Ingest workers write raw logs in any order, and the
projection follows the contiguous end. Without the lease only raw logs are ingested; whoever holds it projects them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from indexer.chain.batch import LogBatch
from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import BlockRange, ContractRange, contiguous_end, merge_ranges
from indexer.db.connection import Connect, Connection, close
from indexer.errors import RpcError
from indexer.ingest.executor import IngestExecutor, OnCommit, split_into_tasks
from indexer.ingest.ingestor import IngestCommit
from indexer.ingest.worker import CommitReport
from indexer.ingest.worker_protocol import load_batch
from indexer.projector.pipeline import STEP_LOGS, DatabaseSource, EndedLogs, ProjectionPipeline
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import Writer
from indexer.runtime.tasks import background_task, run_all
from indexer.schema import deferred_indexes
from indexer.store import lease
from indexer.store.raw_logs import StoredLogs

TICK_INTERVAL_S = 1.0
RETRY_PAUSE_S = 0.5  # before a task that failed goes on
log = structlog.get_logger()
DEFER_BLOCKS = 100_000  # an initial load of at least so many blocks builds keys and indexes at its end


class CatchUp:
    """Ingests and projects concurrently.

    Args:
        executor: Who ingests.
        writer: Writes what is projected.
        connect: Opens the connections that are needed besides the caller's.
        on_commit: Called after every commit.
        on_tick: Called now and then, to keep an eye on the head.
        max_blocks: Largest request (blocks); tasks are cut into multiples of it.
        defer_from: Projecting at least this many blocks into empty tables is an initial load, which does without
            indexes until its end (blocks).
    """

    def __init__(
        self, executor: IngestExecutor, writer: Writer, connect: Connect, on_commit: Callable[[StepResult], None],
        on_tick: Callable[[], Awaitable[object]], max_blocks: int, defer_from: int = DEFER_BLOCKS,
    ) -> None:  # fmt: skip
        self.executor, self.writer, self.connect, self.max_blocks = executor, writer, connect, max_blocks
        self.defer_from = defer_from
        self._on_commit, self._on_tick = on_commit, on_tick
        self.contiguous_end = -1  # of coverage, while it runs
        self._source: BufferedSource | None = None
        self._ingest_commits = 0
        self._indexes_complete_for: int | None = None  # lease under which no deferred index was left to build

    async def run(
        self, step: Step, contract_ranges: Sequence[ContractRange], final: FinalBlock, finalized: int
    ) -> None:
        """Ingest the contract ranges and project up to `finalized`. Ends early when another process requests the lease.

        Args:
            step: Its connection is the one that the projection writes on. Without a token, only ingests.
            contract_ranges: What to ingest.
            final: Final block, at or above `finalized`, that all blocks must join.
            finalized: Last block to project.

        Raises:
            RpcError, ParentMismatchError, StoredHashMismatchError, EpochChangedError, LeaseLostError: As raised by
                ingesting and projecting.
        """
        self._indexes_complete_for = None
        state, token = step.state, step.token
        async with self._opened() as reading, self._opened() as watching:
            projecting = token is not None and self.writer.projection_is_current(state)
            origin = state.binding.origin
            source = self._source = BufferedSource(reading, state.coverage, origin, finalized, projecting=projecting)
            coroutines = [self._ingest(contract_ranges, final, source)]
            if token is not None and projecting:
                if state.next_block == origin and finalized - origin + 1 >= self.defer_from:
                    deferred_indexes.log.info(
                        "indexes_deferred", count=await deferred_indexes.drop_indexes(step.conn, token)
                    )
                coroutines.append(ProjectionPipeline(self.writer, step, reading).run(source, self._on_commit))
            await self._until_stopped(watching, token, run_all(*coroutines))

    @property
    def blocked_since(self) -> float | None:
        """Monotonic time since which ingesting has waited for the projection (s); None while it does not wait."""
        return self._source.blocked_since if self._source else None

    @property
    def last_heartbeat_at(self) -> float:
        """Monotonic time of the last message from a worker (s)."""
        return self.executor.last_heartbeat_at

    async def build_indexes(self, conn: Connection, token: int, on_index: Callable[[str, int], None]) -> bool:
        """Build the indexes that an initial load deferred. Returns whether there were any.

        Ends early when another process requests the lease. `on_index` is called with an index's name and how many are
        left. The database is asked once for each lease, and again after each run.
        """
        if self._indexes_complete_for == token:
            return False
        pending = await deferred_indexes.pending(conn)
        if pending:
            async with self._opened() as second, self._opened() as watching:
                await self._until_stopped(watching, token, deferred_indexes.build_indexes([conn, second], on_index))
        self._indexes_complete_for = token
        return bool(pending)

    async def _until_stopped(self, watching: Connection, token: int | None, work: Coroutine[Any, Any, None]) -> None:
        async with background_task(self._tick(watching, token)) as tick, background_task(work) as working:
            await asyncio.wait({tick, working}, return_when=asyncio.FIRST_COMPLETED)
            await (working if working.done() else tick)

    async def _ingest(
        self, contract_ranges: Sequence[ContractRange], final: FinalBlock, source: BufferedSource
    ) -> None:
        async def on_commit(commit: IngestCommit | CommitReport) -> None:
            self._ingest_commits += 1
            contract_range, logs, batch = _parts(commit)
            seconds = commit.seconds if isinstance(commit, IngestCommit) else None
            self._on_commit(StepResult("ingest", contract_range.first, contract_range.last, logs, seconds=seconds))
            await (source.mark_covered(contract_range) if batch is None else source.offer(batch))
            self.contiguous_end = source.block

        remaining = deque(split_into_tasks(contract_ranges, self.executor.parallelism, self.max_blocks))

        async def work_through() -> None:
            while remaining:
                contract_range = remaining.popleft()
                await self._ingest_one(contract_range, final, on_commit)
                await source.mark_covered(contract_range)

        await run_all(*(work_through() for _ in range(self.executor.parallelism)))
        await source.close()

    async def _ingest_one(self, contract_range: ContractRange, final: FinalBlock, on_commit: OnCommit) -> None:
        """Ingest one task, and go on with it after an error for as long as anything is committed in between.

        One refusal must not end what other workers have under way. Raises the RpcError that stays.
        """
        commits = self._ingest_commits
        while True:
            try:
                return await self.executor.ingest(contract_range, final, on_commit)
            except RpcError as error:
                if commits == self._ingest_commits:
                    raise
                commits = self._ingest_commits
                log.warning("endpoint_failed", endpoint=error.endpoint, error=str(error))
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _tick(self, conn: Connection, token: int | None) -> None:
        """End when another process requests the lease. Keep our own while no step is committed."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_INTERVAL_S)
            if await lease.wanted_by(conn) is not None:
                return
            if time.monotonic() - renewed_at > lease.TTL / 3:
                renewed_at = time.monotonic()
                if token is not None:
                    await lease.lock_and_renew(conn, token)
                with contextlib.suppress(RpcError):  # ingesting meets the error, too, and knows whether it matters
                    await self._on_tick()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Connection]:
        conn = await self.connect()
        try:
            yield conn
        finally:
            await close(conn)


def _parts(commit: IngestCommit | CommitReport) -> tuple[ContractRange, int, LogBatch | None]:
    """Return the blocks, the number of logs, and the log batch if it is at hand."""
    if isinstance(commit, CommitReport):
        return commit.contract_range, commit.logs, None if commit.body is None else load_batch(commit.body)
    batch = commit.batch
    return ContractRange(batch.first, batch.last, batch.addresses), len(batch.logs), batch


MAX_BUFFERED_LOGS = 4 * STEP_LOGS  # in memory for the projection; ingesting waits at half of it


class BufferedSource:
    """Source of stored logs: those that this process ingested last from memory, all others from the database.

    Both are the same bytes, because logs are buffered only after their commit.

    Args:
        conn: Connection that stored logs are read on.
        coverage: Ingested block ranges of each contract.
        origin: Block that coverage begins to count at.
        last: Last block to project.
        projecting: Whether this process projects. Otherwise nothing is buffered, because nobody would take it.
    """

    def __init__(
        self, conn: Connection, coverage: Mapping[str, Sequence[BlockRange]], origin: int, last: int, *,
        projecting: bool
    ) -> None:  # fmt: skip
        self._projecting = projecting
        self._stored = DatabaseSource(conn, -1)
        self._coverage, self._origin, self._last = {a: list(s) for a, s in coverage.items()}, origin, last
        self._buffered: dict[int, EndedLogs] = {}  # by first block
        self._complete = False
        self.blocked_since: float | None = None  # monotonic time (s), while ingesting waits for room
        self._changed = asyncio.Condition()
        self.block = min(contiguous_end(self._coverage, origin), last)

    async def mark_covered(self, contract_range: ContractRange) -> None:
        """Record that a contract range is ingested now, by whichever process."""
        new = BlockRange(contract_range.first, contract_range.last)
        for address in contract_range.addresses:
            self._coverage[address] = merge_ranges([*self._coverage[address], new])
        async with self._changed:
            self.block = min(contiguous_end(self._coverage, self._origin), self._last)
            self._changed.notify_all()

    async def offer(self, batch: LogBatch) -> None:
        """Record that a log batch is ingested now, and buffer it until it is projected. Waits if much is buffered."""
        if self._projecting and set(batch.addresses) == set(self._coverage):
            end = batch.blocks[-1]
            ended_logs = EndedLogs(StoredLogs(batch.first, batch.last, batch.logs, batch.times), end.ref())
            async with self._changed:
                if batch.first == self.block + 1:
                    # Wait only where the projection makes room, that is, with logs that it can reach already.
                    self.blocked_since = time.monotonic()
                    await self._changed.wait_for(lambda: self._logs(self.block) < MAX_BUFFERED_LOGS // 2)
                    self.blocked_since = None
                    self._buffered[batch.first] = ended_logs
                elif batch.first > self.block and self._logs(self._last) < MAX_BUFFERED_LOGS:
                    self._buffered[batch.first] = ended_logs
        await self.mark_covered(ContractRange(batch.first, batch.last, batch.addresses))

    async def close(self) -> None:
        """Record that nothing more will be ingested."""
        async with self._changed:
            self._complete = True
            self._changed.notify_all()

    def _logs(self, last: int) -> int:
        """Return the number of buffered logs in batches that begin at or below block `last`."""
        return sum(len(ended_logs.chunk.logs) for first, ended_logs in self._buffered.items() if first <= last)

    async def next(self, first: int) -> EndedLogs | None:
        """Return the stored logs from block `first` on; waits for them. None when no more will come."""
        async with self._changed:
            await self._changed.wait_for(lambda: first <= self.block or self._complete)
            buffered = self._joined(first)
            if buffered is not None:
                self._changed.notify_all()
                return buffered
            # Buffered logs that begin later wait; the database has the blocks before them.
            self._stored.last = min([self.block, *(start - 1 for start in self._buffered if start > first)])
        return await self._stored.next(first)

    def _joined(self, first: int) -> EndedLogs | None:
        """Take the buffered logs from block `first` on, of about one step in total; None if there are none."""
        taken: list[EndedLogs] = []
        at, logs = first, 0
        while logs < STEP_LOGS and at in self._buffered:
            taken.append(self._buffered.pop(at))
            at, logs = taken[-1].chunk.last + 1, logs + len(taken[-1].chunk.logs)
        if len(taken) < 2:
            return taken[0] if taken else None
        chunks = [ended_logs.chunk for ended_logs in taken]
        times = {number: time for chunk in chunks for number, time in chunk.times.items()}
        whole = StoredLogs(first, chunks[-1].last, [log for chunk in chunks for log in chunk.logs], times)
        return EndedLogs(whole, taken[-1].anchor)
