"""An ingest worker, and what is said to it and by it. It writes raw logs only and needs no lease.

It works in a process beside the projecting one (`ingest/process.py`) or as a task of a cluster (`ingest/cluster.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.db.connection import Connection, close, connect
from indexer.decode.block_times import TimeFields
from indexer.ingest.ingestor import IngestCommit, Ingestor
from indexer.ingest.worker_protocol import dump_batch
from indexer.rpc.adaptive_size import LearnedLimits
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import request_purpose
from indexer.runtime import log_setup

LearnedLimitsByEndpoint = dict[str, LearnedLimits]  # by endpoint


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs to know. `database` and `endpoints` are URLs with their secrets; `rps` is this worker's part
    of the requests a second, None for no cap; `max_blocks` of an eth_getLogs at first; `stamps`: which events
    tell their block's time; `hand_over`: what was committed is sent along to the projection beside it, which need not
    read it; `timeout` of a request in seconds; `budget`: this worker's part of what a backfill may spend, requests a
    second."""

    database: str
    endpoints: tuple[str, ...]
    chain_id: int
    max_blocks: int
    stamps: TimeFields
    rps: float | None = None
    hand_over: bool = False
    log_format: log_setup.LogFormat = "console"
    timeout: float = 20.0
    budget: float | None = None


class Task(NamedTuple):
    """A segment to ingest, and the block known to be final that all of it must join."""

    segment: ContractRange
    final: FinalBlock


@dataclass(frozen=True, slots=True)
class CommitReport:
    """A commit: blocks of the segment, logs and ranges in it. `requests` and `errors` of this worker so far, `sizes`:
    what it learnt of each endpoint's ranges. `body`: the unit itself, frozen, where it is to be handed over."""

    segment: ContractRange
    logs: int
    ranges: int
    requests: int
    errors: dict[str, int]
    sizes: LearnedLimitsByEndpoint
    body: bytes | None = None


class Worker:
    """Ingests one segment at a time."""

    def __init__(self, setup: WorkerConfig) -> None:
        self.setup = setup
        self.pool = Pool(
            setup.endpoints, setup.chain_id, max_blocks=setup.max_blocks, timeout=setup.timeout, rps=setup.rps,
            budgets={} if setup.budget is None else {"backfill": setup.budget},
        )  # fmt: skip
        self._conn: Connection | None = None
        self._opened = False

    async def ingest(self, segment: ContractRange, final: FinalBlock, tell: Callable[[CommitReport], None]) -> None:
        """Raises what Ingestor raises, WrongChainError and DatabaseUnreachableError; the next segment begins with a new
        connection then."""
        if not self._opened:
            await self.pool.open()
            self._opened = True
        if self._conn is None:
            self._conn = await connect(self.setup.database)

        async def told(done: IngestCommit) -> None:
            tell(self._report(done))

        try:
            with request_purpose("backfill"):
                await Ingestor(self.pool, self._conn, told, self.setup.stamps).ingest(segment, final)
        except BaseException:
            conn, self._conn = self._conn, None
            await close(conn)
            raise

    def import_limits(self, sizes: LearnedLimitsByEndpoint) -> None:
        for reader in self.pool.readers:
            if reader.name in sizes:
                reader.ranges.restore(sizes[reader.name])

    def _report(self, done: IngestCommit) -> CommitReport:
        unit = done.unit
        return CommitReport(
            ContractRange(unit.first, unit.last, unit.addresses),
            len(unit.logs),
            done.ranges,
            self.pool.requests,
            dict(self.pool.errors),
            {reader.name: reader.ranges.snapshot() for reader in self.pool.readers},
            dump_batch(unit) if self.setup.hand_over else None,
        )

    async def close(self) -> None:
        await close(self._conn)
        await self.pool.close()


class TaskDone(NamedTuple):
    """The segment is ingested."""


class Heartbeat(NamedTuple):
    """The worker is at work: its event loop turns."""
