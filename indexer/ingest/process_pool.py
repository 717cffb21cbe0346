"""Ingest workers in processes of their own on this machine."""

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

MAX_DEATHS = 5  # of workers within one task before it is an error
PIPE_BYTES = 1 << 22  # read ahead from a worker
SILENT_TIMEOUT_S = 30.0  # seconds without a word from a worker, which sends a beat every five
END_TIMEOUT_S = 3.0  # seconds a worker gets to end by itself

log = structlog.get_logger()


class WorkerPool:
    """`width` processes: those that were `forked`, and new ones. One that dies costs the range that it had in hand once
    more."""

    def __init__(self, setup: WorkerConfig, width: int, forked: Sequence[ForkedWorker] = ()) -> None:
        self.parallelism, self._setup, self._forked = width, setup, list(forked)
        self._idle: asyncio.Queue[Process | ForkedWorker | None] = asyncio.Queue()
        self._all: list[Process | ForkedWorker] = []
        self._sizes: LearnedLimitsByEndpoint = {}
        self._numbers: dict[int, CommitReport] = {}  # the newest report of each process
        self._first_answer = asyncio.Event()
        self._begun = False
        self.last_heartbeat_at = 0.0

    async def start(self) -> None:
        """Starts the processes; they get ready by themselves."""
        for _ in range(self.parallelism):
            self._idle.put_nowait(await self._spawned())

    def traffic(self, own: Pool) -> Traffic:
        """What all workers asked, and this process with its own pool."""
        reports, mine = list(self._numbers.values()), own.traffic()
        errors = sum((Counter(report.errors) for report in reports), Counter(mine.errors))
        sizes = [size.size for report in reports for size in report.sizes.values()]
        return Traffic(mine.requests + sum(r.requests for r in reports), dict(errors), max(sizes, default=mine.size))

    async def ingest(self, segment: ContractRange, final: FinalBlock, tell: OnCommit) -> None:
        for _ in range(MAX_DEATHS):
            # One alone meets the endpoint's limits first; the others begin with what it learnt.
            if self._begun:
                await self._first_answer.wait()
            self._begun = True
            process = await self._idle.get() or await self._spawned()
            kept: Process | ForkedWorker | None = None
            try:
                outcome = await self._work(process, Task(segment, final), tell)
                kept = process if outcome is not None else None
            finally:
                self._first_answer.set()
                self._idle.put_nowait(kept)
                if kept is None:  # dead, or left in the middle of its work
                    await _end(process)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                return
            log.warning("worker_died", pid=process.pid, code=process.returncode, first=segment.first, last=segment.last)
        raise IndexerError(
            f"{MAX_DEATHS} workers died on blocks {segment.first} to {segment.last}", "See the log for why"
        )

    async def _work(self, process: Process | ForkedWorker, task: Task, tell: OnCommit) -> TaskDone | Exception | None:
        """How the worker's work ended; None when the worker died, or says nothing any more."""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(encode_message(self._sizes) + encode_message(task))
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
                    self._sizes, self._numbers[process.pid] = message.sizes, message
                    self._first_answer.set()
                    await tell(message)
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
        process.stdin.write(encode_message(self._setup))
        self._all.append(process)
        return process

    async def close(self) -> None:
        await asyncio.gather(*(_end(process) for process in self._all))


async def _end(process: Process | ForkedWorker) -> None:
    """The end of its input tells a worker to end; what it had in hand is rolled back."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
