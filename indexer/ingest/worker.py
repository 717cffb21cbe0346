"""An ingest worker, and the messages to and from it. It writes raw logs only and needs no lease.

It runs in a process next to the projector (`ingest/process_pool.py`) or as a task of a Dask cluster
(`ingest/dask_cluster.py`).
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

LearnedLimitsByEndpoint = dict[str, LearnedLimits]  # by name


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Everything that a worker needs to know.

    Args:
        database: URL with its secrets.
        endpoints: URLs with their secrets.
        chain_id: Chain that the endpoints must serve.
        max_blocks: Initial range of an eth_getLogs request (blocks).
        time_fields: Events that carry the time of their block.
        rps: This worker's share of the request rate (requests/s); None for no cap.
        hand_over: Whether a commit is sent with its logs to the projector next to it, which then need not read them.
        log_format: Format of the log lines.
        timeout: Timeout of a request (s).
        budget: This worker's share of what a backfill may spend (requests/s); None for no limit.
    """

    database: str
    endpoints: tuple[str, ...]
    chain_id: int
    max_blocks: int
    time_fields: TimeFields
    rps: float | None = None
    hand_over: bool = False
    log_format: log_setup.LogFormat = "console"
    timeout: float = 20.0
    budget: float | None = None


class Task(NamedTuple):
    """A contract range to ingest, and the block known to be final that all of it must join."""

    contract_range: ContractRange
    final: FinalBlock


@dataclass(frozen=True, slots=True)
class CommitReport:
    """One commit of a worker.

    Args:
        contract_range: Blocks and contracts of the commit.
        logs: Number of logs in it.
        ranges: Number of ranges it was fetched in.
        requests: Requests of this worker so far.
        errors: Errors of this worker so far, by class.
        limits: What it learned about each endpoint's ranges.
        body: The log batch itself, from `dump_batch`, if it is to be handed over.
    """

    contract_range: ContractRange
    logs: int
    ranges: int
    requests: int
    errors: dict[str, int]
    limits: LearnedLimitsByEndpoint
    body: bytes | None = None


class Worker:
    """Ingests one contract range at a time."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.pool = Pool(
            config.endpoints, config.chain_id, max_blocks=config.max_blocks, timeout=config.timeout, rps=config.rps,
            budgets={} if config.budget is None else {"backfill": config.budget},
        )  # fmt: skip
        self._conn: Connection | None = None
        self._opened = False

    async def ingest(
        self, contract_range: ContractRange, final: FinalBlock, report: Callable[[CommitReport], None]
    ) -> None:
        """Ingest one contract range, and report each commit.

        Raises what Ingestor raises, WrongChainError and DatabaseUnreachableError; the next range then begins with a new
        connection.
        """
        if not self._opened:
            await self.pool.open()
            self._opened = True
        if self._conn is None:
            self._conn = await connect(self.config.database)

        async def on_commit(commit: IngestCommit) -> None:
            report(self._report(commit))

        try:
            with request_purpose("backfill"):
                await Ingestor(self.pool, self._conn, on_commit, self.config.time_fields).ingest(contract_range, final)
        except BaseException:
            conn, self._conn = self._conn, None
            await close(conn)
            raise

    def import_limits(self, limits: LearnedLimitsByEndpoint) -> None:
        """Adopt the range limits that other workers learned about the same endpoints."""
        for reader in self.pool.readers:
            if reader.name in limits:
                reader.ranges.restore(limits[reader.name])

    def _report(self, commit: IngestCommit) -> CommitReport:
        batch = commit.batch
        return CommitReport(
            ContractRange(batch.first, batch.last, batch.addresses),
            len(batch.logs),
            commit.ranges,
            self.pool.requests,
            dict(self.pool.errors),
            {reader.name: reader.ranges.snapshot() for reader in self.pool.readers},
            dump_batch(batch) if self.config.hand_over else None,
        )

    async def close(self) -> None:
        """Close the connection and the endpoint pool."""
        await close(self._conn)
        await self.pool.close()


class TaskDone(NamedTuple):
    """The contract range is ingested."""


class Heartbeat(NamedTuple):
    """The worker is alive: its event loop runs."""
