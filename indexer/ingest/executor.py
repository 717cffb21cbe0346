"""Who ingests: this process, a crew of processes beside it, or a cluster. All of them do `ingest/work.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.db.connection import Connection, close
from indexer.decode.block_times import TimeFields
from indexer.ingest.ingestor import IngestCommit, Ingestor
from indexer.ingest.worker import CommitReport
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import request_purpose

MAX_TASK_BLOCKS = 100_000  # of one task
MAX_TASKS = 100_000  # whatever height a node claims
TASKS_EACH = 8  # tasks of a worker, when there are not many blocks: the last ones should end together

# Told of each commit: of one's own with its logs, of others' in numbers.
OnCommit = Callable[[IngestCommit | CommitReport], Awaitable[None]]


class IngestExecutor(Protocol):
    """`width`: tasks that can be done at once; `heard_at`: the last sign of life from elsewhere, monotonic seconds."""

    parallelism: int

    @property
    def last_heartbeat_at(self) -> float: ...

    async def ingest(self, segment: ContractRange, final: FinalBlock, tell: OnCommit) -> None:
        """Ingests what coverage lacks of a segment, all of it at or below the `final` block.

        Raises what `Ingestor.ingest` raises, WrongChainError and DatabaseUnreachableError; what was told of stays."""

    async def close(self) -> None: ...


class InlineExecutor:
    """This process: what it ingests need not be read again to be projected."""

    parallelism = 1
    last_heartbeat_at = 0.0  # nobody is elsewhere

    def __init__(self, pool: Pool, connect: Callable[[], Awaitable[Connection]], stamps: TimeFields) -> None:
        self.pool, self._connect, self._stamps = pool, connect, stamps

    async def ingest(self, segment: ContractRange, final: FinalBlock, tell: OnCommit) -> None:
        conn = await self._connect()
        try:
            with request_purpose("backfill"):
                await Ingestor(self.pool, conn, tell, self._stamps).ingest(segment, final)
        finally:
            await close(conn)

    async def close(self) -> None:
        pass


def split_into_tasks(segments: Sequence[ContractRange], width: int, unit: int) -> list[ContractRange]:
    """The segments cut into tasks for so many hands, in chain order: whole multiples of `unit` blocks but the last."""
    if width == 1:
        return list(segments)
    total = sum(s.last - s.first + 1 for s in segments)
    size = max(min(MAX_TASK_BLOCKS, -(-total // (width * TASKS_EACH))), -(-total // MAX_TASKS))
    size = -(-size // unit) * unit
    return [
        s._replace(first=at, last=min(at + size - 1, s.last))
        for s in segments
        for at in range(s.first, s.last + 1, size)
    ]
