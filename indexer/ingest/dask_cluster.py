"""Ingest workers of a Dask cluster (extra `[dask]`), on as many machines as it has. All of them must reach the
endpoints and the PostgreSQL by the same URLs, and have this program installed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.errors import ConfigError
from indexer.ingest.executor import OnCommit
from indexer.ingest.worker import CommitReport, LearnedLimitsByEndpoint, Task, Worker, WorkerConfig
from indexer.ingest.worker_process import picklable_error
from indexer.rpc.pool import Pool, Traffic

CONNECT_TIMEOUT_S = 20.0  # seconds


def ingest_task(setup: WorkerConfig, sizes: LearnedLimitsByEndpoint, task: Task) -> list[CommitReport]:
    """One task, in a thread of a cluster's worker. What it committed before it fails stays, and is not done again."""

    async def done() -> list[CommitReport]:
        worker, reports = Worker(setup), list[CommitReport]()
        worker.import_limits(sizes)
        try:
            await worker.ingest(*task, reports.append)
        finally:
            await worker.close()
        return reports

    try:
        return asyncio.run(done())
    except Exception as error:
        raise picklable_error(error) from None


class DaskExecutor:
    """`address` of the scheduler, such as tcp://host:8786. One that dies with a range in hand costs it once more."""

    def __init__(self, setup: WorkerConfig, address: str, width: int) -> None:
        self.parallelism, self._setup, self._address = width, setup, address
        self._client: Any = None  # distributed has no types
        self._sizes: LearnedLimitsByEndpoint = {}
        self._requests = 0
        self._errors: Counter[str] = Counter()

    async def start(self) -> None:
        """Raises ConfigError when the extra is not installed, or no scheduler answers."""
        try:
            from distributed import Client
        except ImportError as error:
            raise ConfigError(
                "--engine dask needs the extra [dask]", "pip install 'reya-indexer[dask]' here and on every worker"
            ) from error
        try:
            client: Any = Client
            self._client = await client(
                self._address, asynchronous=True, timeout=CONNECT_TIMEOUT_S, set_as_default=False
            )
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"--scheduler {self._address}: {' '.join(str(error).split())}",
                "Give the address that `dask scheduler` says",
            ) from error

    @property
    def last_heartbeat_at(self) -> float:
        """Now: a task says nothing before its end, and the scheduler watches its workers."""
        return time.monotonic()

    def traffic(self, own: Pool) -> Traffic:
        """What all tasks asked that have ended, and this process with its own pool."""
        mine = own.traffic()
        size = max((size.size for size in self._sizes.values()), default=mine.size)
        return Traffic(mine.requests + self._requests, self._errors + Counter(mine.errors), size)

    async def ingest(self, segment: ContractRange, final: FinalBlock, tell: OnCommit) -> None:
        assert self._client is not None, "start() comes first"
        future = self._client.submit(ingest_task, self._setup, self._sizes, Task(segment, final), pure=False, retries=0)
        try:
            reports: list[CommitReport] = await future
        finally:
            # Given up here, it is given up there.
            await self._client.cancel([future], force=True)
        for report in reports:
            await tell(report)
        if reports:
            self._sizes = reports[-1].sizes
            self._requests += reports[-1].requests
            self._errors.update(reports[-1].errors)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
