"""Ingest workers in separate processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Sequence

import structlog

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.errors import IndexerError
from indexer.ingest.executor import OnCommit
from indexer.ingest.worker import CommitReport, LearnedLimitsByEndpoint, Task, TaskDone, WorkerConfig
from indexer.ingest.worker_fork import ForkedWorker
from indexer.ingest.worker_protocol import encode_message, read_message
from indexer.rpc.pool import Pool, Traffic

MAX_DEATHS = 5  # of workers within one task before they are an error
PIPE_BYTES = 1 << 22  # read ahead from a worker
SILENT_TIMEOUT_S = 30.0  # without a message from a worker, which sends a heartbeat every five seconds
END_TIMEOUT_S = 3.0  # for a worker to exit by itself

log = structlog.get_logger()


class WorkerPool:
    """Executor with `parallelism` worker processes: first those in `forked`, then new ones.

    A worker that dies costs the range it was working on once more.
    """

    def __init__(self, config: WorkerConfig, parallelism: int, forked: Sequence[ForkedWorker] = ()) -> None:
        self.parallelism, self._config, self._forked = parallelism, config, list(forked)
        self._idle: asyncio.Queue[Process | ForkedWorker | None] = asyncio.Queue()
        self._all: list[Process | ForkedWorker] = []
        self._limits: LearnedLimitsByEndpoint = {}
        self._latest_reports: dict[int, CommitReport] = {}  # the newest report of each process
        self._first_answer = asyncio.Event()
        self._started = False
        self.last_heartbeat_at = 0.0

    async def start(self) -> None:
        """Start the processes, without waiting until they are ready."""
        for _ in range(self.parallelism):
            self._idle.put_nowait(await self._spawned())

    def traffic(self, own: Pool) -> Traffic:
        """Return the traffic of all workers plus that of this process's `own` pool."""
        reports, own_traffic = list(self._latest_reports.values()), own.traffic()
        errors = sum((Counter(report.errors) for report in reports), Counter(own_traffic.errors))
        sizes = [limits.size for report in reports for limits in report.limits.values()]
        return Traffic(
            own_traffic.requests + sum(r.requests for r in reports), dict(errors), max(sizes, default=own_traffic.size)
        )

    async def ingest(self, contract_range: ContractRange, final: FinalBlock, on_commit: OnCommit) -> None:
        """Run one task on an idle worker, and on another one if that worker dies.

        Raises the error of the task, and IndexerError after MAX_DEATHS deaths.
        """
        for _ in range(MAX_DEATHS):
            # The first task runs alone and meets the endpoint's limits; the others begin with what it learned.
            if self._started:
                await self._first_answer.wait()
            self._started = True
            process = await self._idle.get() or await self._spawned()
            reusable: Process | ForkedWorker | None = None
            try:
                outcome = await self._run_task(process, Task(contract_range, final), on_commit)
                reusable = process if outcome is not None else None
            finally:
                self._first_answer.set()
                self._idle.put_nowait(reusable)
                if reusable is None:  # dead, or interrupted in the middle of its task
                    await _end(process)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                return
            log.warning(
                "worker_died",
                pid=process.pid,
                code=process.returncode,
                first=contract_range.first,
                last=contract_range.last,
            )
        raise IndexerError(
            f"{MAX_DEATHS} workers died on blocks {contract_range.first} to {contract_range.last}",
            "See the log for the cause",
        )

    async def _run_task(
        self, process: Process | ForkedWorker, task: Task, on_commit: OnCommit
    ) -> TaskDone | Exception | None:
        """Run a task. Returns how it ended, or None if the worker died or fell silent."""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(encode_message(self._limits) + encode_message(task))
            await process.stdin.drain()
        while True:
            try:
                async with asyncio.timeout(SILENT_TIMEOUT_S):
                    message = await read_message(process.stdout)
            except TimeoutError:
                log.warning("worker_silent", pid=process.pid, seconds=SILENT_TIMEOUT_S)
                return None
            self.last_heartbeat_at = time.monotonic()
            match message:
                case CommitReport():
                    self._limits, self._latest_reports[process.pid] = message.limits, message
                    self._first_answer.set()
                    await on_commit(message)
                case TaskDone() | Exception() | None:
                    return message

    async def _spawned(self) -> Process | ForkedWorker:
        process: Process | ForkedWorker
        if self._forked:
            process = self._forked.pop()
            await process.open(PIPE_BYTES)
        else:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "indexer.ingest.worker_process", stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES
            )
        assert process.stdin is not None
        process.stdin.write(encode_message(self._config))
        self._all.append(process)
        return process

    async def close(self) -> None:
        """End all workers."""
        await asyncio.gather(*(_end(process) for process in self._all))


async def _end(process: Process | ForkedWorker) -> None:
    """End a worker by closing its input; what it was working on is rolled back."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
