"""Ingest workers in a Dask cluster (extra `[dask]`), on as many machines as it has.

All of them must reach the endpoints and PostgreSQL by the same URLs, and have this program installed.
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

CONNECT_TIMEOUT_S = 20.0


def ingest_task(config: WorkerConfig, limits: LearnedLimitsByEndpoint, task: Task) -> list[CommitReport]:
    """Run one task in a thread of a Dask worker. Commits made before a failure stay and are not repeated."""

    async def run() -> list[CommitReport]:
        worker, reports = Worker(config), list[CommitReport]()
        worker.import_limits(limits)
        try:
            await worker.ingest(*task, reports.append)
        finally:
            await worker.close()
        return reports

    try:
        return asyncio.run(run())
    except Exception as error:
        raise picklable_error(error) from None


class DaskExecutor:
    """Executor that submits tasks to a Dask cluster. A worker that dies costs the range it was working on once more.

    Args:
        config: Configuration that every task gets.
        address: The scheduler, such as tcp://host:8786.
        parallelism: Tasks that run concurrently.
    """

    def __init__(self, config: WorkerConfig, address: str, parallelism: int) -> None:
        self.parallelism, self._config, self._address = parallelism, config, address
        self._client: Any = None  # distributed has no types
        self._limits: LearnedLimitsByEndpoint = {}
        self._requests = 0
        self._errors: Counter[str] = Counter()

    async def start(self) -> None:
        """Connect to the scheduler. Raises ConfigError if the extra is not installed or no scheduler answers."""
        try:
            from distributed import Client
        except ImportError as error:
            raise ConfigError(
                "--engine dask requires the extra [dask]",
                "Run `pip install 'reya-indexer[dask]'` here and on every worker",
            ) from error
        try:
            client: Any = Client
            self._client = await client(
                self._address, asynchronous=True, timeout=CONNECT_TIMEOUT_S, set_as_default=False
            )
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"--scheduler {self._address}: {' '.join(str(error).split())}",
                "Use the address that `dask scheduler` prints",
            ) from error

    @property
    def last_heartbeat_at(self) -> float:
        """Return the current time: a task reports nothing before its end, and the scheduler monitors its workers."""
        return time.monotonic()

    def traffic(self, own: Pool) -> Traffic:
        """Return the traffic of all finished tasks plus that of this process's `own` pool."""
        own_traffic = own.traffic()
        size = max((limits.size for limits in self._limits.values()), default=own_traffic.size)
        return Traffic(own_traffic.requests + self._requests, self._errors + Counter(own_traffic.errors), size)

    async def ingest(self, contract_range: ContractRange, final: FinalBlock, on_commit: OnCommit) -> None:
        """Run one task on the cluster, and report its commits when it has ended. Raises the task's error."""
        assert self._client is not None, "start() comes first"
        future = self._client.submit(
            ingest_task, self._config, self._limits, Task(contract_range, final), pure=False, retries=0
        )
        try:
            reports: list[CommitReport] = await future
        finally:
            # A task that is abandoned here must not go on there.
            await self._client.cancel([future], force=True)
        for report in reports:
            await on_commit(report)
        if reports:
            self._limits = reports[-1].limits
            self._requests += reports[-1].requests
            self._errors.update(reports[-1].errors)

    async def close(self) -> None:
        """Disconnect from the scheduler."""
        if self._client is not None:
            await self._client.close()
