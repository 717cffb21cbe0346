"""Catching up below finalized: ingesting and projecting side by side, until everything there is done.

The same for `run` after a long stop and for `backfill`. Ingest workers write raw logs in any order, and the projection
follows the gapless front. Without the lease only raw logs are ingested; whoever holds it projects them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from indexer.chain.batch import LogBatch
from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import BlockRange, ContractRange, contiguous_end, merge_ranges
from indexer.chain.types import BlockRef
from indexer.db.connection import Connect, Connection, close
from indexer.errors import RpcError
from indexer.ingest.executor import IngestExecutor, split_into_tasks
from indexer.ingest.ingestor import IngestCommit
from indexer.ingest.worker import CommitReport
from indexer.ingest.worker_protocol import load_batch
from indexer.projector.pipeline import STEP_LOGS, DatabaseSource, EndedLogs, ProjectionPipeline
from indexer.projector.writer import StepResult, Writer
from indexer.runtime.tasks import background_task, run_all
from indexer.schema import deferred_indexes
from indexer.store import lease
from indexer.store.index_state import IndexState
from indexer.store.raw_logs import StoredLogs

TICK_INTERVAL_S = 1.0  # seconds
DEFER_BLOCKS = 100_000  # blocks of an initial load from which on keys and indexes are built at its end


class CatchUp:
    """`committed` is told of every commit; `glance` is called now and then, to keep an eye on the head."""

    def __init__(
        self, hands: IngestExecutor, writer: Writer, connect: Connect, committed: Callable[[StepResult], None],
        glance: Callable[[], Awaitable[object]], unit: int, defer_from: int = DEFER_BLOCKS,
    ) -> None:  # fmt: skip
        """`unit`: blocks that are asked for at once at most, to cut tasks by. `defer_from`: so many blocks to project
        into empty tables are an initial load, that does without indexes until its end."""
        self.executor, self.writer, self.connect, self.max_blocks = hands, writer, connect, unit
        self.defer_from = defer_from
        self._committed, self._on_tick = committed, glance
        self.source = -1  # the end of gapless coverage while it runs
        self._source: BufferedSource | None = None

    async def run(
        self, conn: Connection, state: IndexState, segments: Sequence[ContractRange], final: FinalBlock,
        finalized: int,
        token: int | None,
    ) -> None:  # fmt: skip
        """Ingests the segments and projects up to `finalized`, all of which must join the `final` block at or above it.
        Ends early when another asks for the lease.

        Raises what ingesting and projecting raise: RpcError, ParentMismatchError, StoredHashMismatchError,
        EpochChangedError, LeaseLostError.
        """
        async with self._opened() as reading, self._opened() as watching:
            projecting = token is not None and self.writer.projection_is_current(state)
            origin = state.binding.origin
            front = self._source = BufferedSource(reading, state.coverage, origin, finalized, projecting=projecting)
            works = [self._ingest(segments, final, front)]
            if token is not None and projecting:
                if state.next_block == origin and finalized - origin + 1 >= self.defer_from:
                    deferred_indexes.log.info(
                        "indexes_deferred", count=await deferred_indexes.drop_indexes(conn, token)
                    )
                works.append(ProjectionPipeline(self.writer, conn, reading, state, token).run(front, self._committed))
            await self._until_stopped(watching, token, run_all(*works))

    @property
    def blocked_since(self) -> float | None:
        """Since when ingesting waits for the projection, monotonic seconds; None while it does not."""
        return self._source.blocked_since if self._source else None

    @property
    def last_heartbeat_at(self) -> float:
        """The last sign of life from workers elsewhere, monotonic seconds."""
        return self.executor.last_heartbeat_at

    async def build_indexes(self, conn: Connection, token: int, tell: Callable[[str, int], None]) -> bool:
        """Builds what an initial load put off; whether there was any. Ends early when another asks for the lease."""
        if not await deferred_indexes.pending(conn):
            return False
        async with self._opened() as second, self._opened() as watching:
            await self._until_stopped(watching, token, deferred_indexes.build_indexes([conn, second], tell))
        return True

    async def _until_stopped(self, watching: Connection, token: int | None, works: Coroutine[Any, Any, None]) -> None:
        async with background_task(self._tick(watching, token)) as watch, background_task(works) as work:
            await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
            await (work if work.done() else watch)

    async def _ingest(self, segments: Sequence[ContractRange], final: FinalBlock, front: BufferedSource) -> None:
        async def tell(news: IngestCommit | CommitReport) -> None:
            segment, logs, unit = _parts(news)
            seconds = news.seconds if isinstance(news, IngestCommit) else None
            self._committed(StepResult("ingest", segment.first, segment.last, logs, seconds=seconds))
            await (front.mark_covered(segment) if unit is None else front.offer(unit))
            self.source = front.block

        left = deque(split_into_tasks(segments, self.executor.parallelism, self.max_blocks))

        async def hand() -> None:
            while left:
                segment = left.popleft()
                await self.executor.ingest(segment, final, tell)
                await front.mark_covered(segment)

        await run_all(*(hand() for _ in range(self.executor.parallelism)))
        await front.close()

    async def _tick(self, conn: Connection, token: int | None) -> None:
        """Ends when another asks for the lease. Keeps ours while no step is committed."""
        held = time.monotonic()
        while True:
            await asyncio.sleep(TICK_INTERVAL_S)
            if await lease.wanted_by(conn) is not None:
                return
            if time.monotonic() - held > lease.TTL / 3:
                held = time.monotonic()
                if token is not None:
                    await lease.lock_and_renew(conn, token)
                with contextlib.suppress(RpcError):  # ingesting meets it too, and knows better whether it matters
                    await self._on_tick()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Connection]:
        conn = await self.connect()
        try:
            yield conn
        finally:
            await close(conn)


def _parts(news: IngestCommit | CommitReport) -> tuple[ContractRange, int, LogBatch | None]:
    """Blocks, number of logs, and the unit where it is at hand."""
    if isinstance(news, CommitReport):
        return news.segment, news.logs, None if news.body is None else load_batch(news.body)
    unit = news.unit
    return ContractRange(unit.first, unit.last, unit.addresses), len(unit.logs), unit


MAX_BUFFERED_LOGS = 4 * STEP_LOGS  # logs kept in memory for the projection; at half of it ingesting waits


class BufferedSource:
    """A source of stored blocks. Those that this process ingested last are taken from memory, all others from the
    database; both are the same bytes, because a stretch is handed over only after its commit."""

    def __init__(
        self, conn: Connection, coverage: Mapping[str, Sequence[BlockRange]], origin: int, last: int, *,
        projecting: bool
    ) -> None:  # fmt: skip
        """`last`: how far is to be projected at most; `projecting`: whether this process does. Else nothing is held,
        for nobody would come for it."""
        self._projecting = projecting
        self._stored = DatabaseSource(conn, -1)
        self._coverage, self._origin, self._last = {a: list(s) for a, s in coverage.items()}, origin, last
        self._buffered: dict[int, EndedLogs] = {}  # by first block
        self._complete = False
        self.blocked_since: float | None = None  # monotonic seconds, while ingesting waits for room
        self._changed = asyncio.Condition()
        self.block = min(contiguous_end(self._coverage, origin), last)

    async def mark_covered(self, segment: ContractRange) -> None:
        """Blocks of a segment are ingested now, by whomever."""
        new = BlockRange(segment.first, segment.last)
        for address in segment.addresses:
            self._coverage[address] = merge_ranges([*self._coverage[address], new])
        async with self._changed:
            self.block = min(contiguous_end(self._coverage, self._origin), self._last)
            self._changed.notify_all()

    async def offer(self, unit: LogBatch) -> None:
        """The same for a unit at hand, which is held until it is projected. Waits while much is held."""
        if self._projecting and set(unit.addresses) == set(self._coverage):
            end = unit.blocks[-1]
            stretch = EndedLogs(
                StoredLogs(unit.first, unit.last, unit.logs, unit.times), BlockRef(*end[:2], end.timestamp)
            )
            async with self._changed:
                if unit.first == self.block + 1:
                    # Room is waited for only where the projection makes it: of what it can reach already.
                    self.blocked_since = time.monotonic()
                    await self._changed.wait_for(lambda: self._logs(self.block) < MAX_BUFFERED_LOGS // 2)
                    self.blocked_since = None
                    self._buffered[unit.first] = stretch
                elif unit.first > self.block and self._logs(self._last) < MAX_BUFFERED_LOGS:
                    self._buffered[unit.first] = stretch
        await self.mark_covered(ContractRange(unit.first, unit.last, unit.addresses))

    async def close(self) -> None:
        """Nothing more will be ingested."""
        async with self._changed:
            self._complete = True
            self._changed.notify_all()

    def _logs(self, last: int) -> int:
        """Logs held of stretches that begin up to block `last`."""
        return sum(len(stretch.chunk.logs) for first, stretch in self._buffered.items() if first <= last)

    async def next(self, first: int) -> EndedLogs | None:
        async with self._changed:
            await self._changed.wait_for(lambda: first <= self.block or self._complete)
            held = self._joined(first)
            if held is not None:
                self._changed.notify_all()
                return held
            # What begins later waits; the database has what is before it.
            self._stored.last = min([self.block, *(start - 1 for start in self._buffered if start > first)])
        return await self._stored.next(first)

    def _joined(self, first: int) -> EndedLogs | None:
        """Held stretches from block `first` on, of about one step together."""
        found: list[EndedLogs] = []
        at, logs = first, 0
        while logs < STEP_LOGS and at in self._buffered:
            found.append(self._buffered.pop(at))
            at, logs = found[-1].chunk.last + 1, logs + len(found[-1].chunk.logs)
        if len(found) < 2:
            return found[0] if found else None
        chunks = [stretch.chunk for stretch in found]
        times = {number: time for chunk in chunks for number, time in chunk.times.items()}
        whole = StoredLogs(first, chunks[-1].last, [log for chunk in chunks for log in chunk.logs], times)
        return EndedLogs(whole, found[-1].anchor)
