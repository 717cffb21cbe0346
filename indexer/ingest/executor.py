"""Executors of a backfill: this process, a worker pool, or a Dask cluster. All of them run `ingest/ingestor.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange, count_blocks
from indexer.db.connection import Connection, close
from indexer.decode.block_times import TimeFields
from indexer.ingest.ingestor import IngestCommit, Ingestor
from indexer.ingest.worker import CommitReport
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import request_purpose

MAX_TASK_BLOCKS = 100_000  # per task
MAX_TASKS = 100_000  # in all, whatever height a node claims
TASKS_PER_WORKER = 8  # per worker, when there are not many blocks, so that all workers end at about the same time

# Awaited after each commit. A commit of this process comes with its logs, a worker's in numbers.
OnCommit = Callable[[IngestCommit | CommitReport], Awaitable[None]]


class IngestExecutor(Protocol):
    """Runs ingest tasks, in this process or elsewhere.

    `parallelism`: tasks that run concurrently. `last_heartbeat_at`: monotonic time of the last message from a worker
    (s).
    """

    parallelism: int

    @property
    def last_heartbeat_at(self) -> float: ...

    async def ingest(self, contract_range: ContractRange, final: FinalBlock, on_commit: OnCommit) -> None:
        """Ingest the part of a contract range that coverage lacks; all of it is at or below the `final` block.

        Raises what `Ingestor.ingest` raises, WrongChainError and DatabaseUnreachableError; commits already reported to
        `on_commit` stay.
        """

    async def close(self) -> None: ...


class InlineExecutor:
    """Executor in this process: what it ingests need not be read from the database again to be projected."""

    parallelism = 1
    last_heartbeat_at = 0.0  # there is no worker that could send one

    def __init__(self, pool: Pool, connect: Callable[[], Awaitable[Connection]], time_fields: TimeFields) -> None:
        self.pool, self._connect, self._time_fields = pool, connect, time_fields

    async def ingest(self, contract_range: ContractRange, final: FinalBlock, on_commit: OnCommit) -> None:
        """Ingest on a connection of its own, with the endpoint budget of a backfill."""
        conn = await self._connect()
        try:
            with request_purpose("backfill"):
                await Ingestor(self.pool, conn, on_commit, self._time_fields).ingest(contract_range, final)
        finally:
            await close(conn)

    async def close(self) -> None:
        """Do nothing: there are no workers to end."""


def split_into_tasks(
    contract_ranges: Sequence[ContractRange], parallelism: int, batch_blocks: int
) -> list[ContractRange]:
    """Cut contract ranges into tasks for `parallelism` workers, in chain order.

    Each task but the last of a contract range is a whole multiple of `batch_blocks` (blocks).
    """
    if parallelism == 1:
        return list(contract_ranges)
    total = count_blocks(contract_ranges)
    size = max(min(MAX_TASK_BLOCKS, -(-total // (parallelism * TASKS_PER_WORKER))), -(-total // MAX_TASKS))
    size = -(-size // batch_blocks) * batch_blocks
    return [
        s._replace(first=at, last=min(at + size - 1, s.last))
        for s in contract_ranges
        for at in range(s.first, s.last + 1, size)
    ]
