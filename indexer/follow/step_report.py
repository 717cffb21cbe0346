"""What is told of a commit: counted in the progress, and a log line."""

from __future__ import annotations

import time

import structlog

from indexer.projector.writer import StepResult
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress

log = structlog.get_logger()


class StepReporter:
    def __init__(self, progress: DaemonProgress, pool: Pool) -> None:
        self.progress, self.pool = progress, pool
        self._last = time.monotonic(), 0  # when the last commit of the bulk work was told of, and requests then

    def report_bulk(self, done: StepResult, front: int) -> None:
        """A commit of the bulk work, whose gapless coverage ends at block `front`."""
        p = self.progress
        if done.projected:
            p.projected = done.last
        else:
            p.blocks += done.last - done.first + 1
            p.ingested = front
        now, asked = time.monotonic(), self.pool.requests
        self.report(done, now - self._last[0], asked - self._last[1])
        self._last = now, asked

    def report(self, done: StepResult, elapsed: float, requests: int) -> None:
        """A commit that took `elapsed` seconds and so many requests."""
        p = self.progress
        p.steps[done.kind] += 1
        p.rows.update(done.rows)
        if done.projected:
            p.events += done.logs
        if done.kind != "project":
            p.logs += done.logs
        p.last_step_at = p.clock()
        p.step_blocks[done.kind].observe(done.last - done.first + 1)
        if done.seconds is not None:
            p.commit_seconds[done.kind].observe(done.seconds)
        log.info(
            "step",
            kind=done.kind,
            first=done.first,
            last=done.last,
            logs=done.logs,
            rows=sum(done.rows.values()),
            requests=requests,
            elapsed_ms=round(elapsed * 1000, 1),
            lag_blocks=max(0, p.head - done.last),
        )
