"""Reports of commits: each updates the progress counters and writes one log line."""

from __future__ import annotations

import time

import structlog

from indexer.chain.finality import FinalityStatus
from indexer.projector.writer import StepResult
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress

log = structlog.get_logger()


class StepReporter:
    """Reports each commit, with the time and the requests that it took."""

    def __init__(self, progress: DaemonProgress, pool: Pool) -> None:
        self.progress, self.pool = progress, pool
        self._last = time.monotonic(), 0  # when the last commit while catching up was reported, and requests then

    def report_finality(self, status: FinalityStatus, remark: str) -> None:
        """Publish what is final and why, and log it where its source changed. `remark`: what is odd about the tag."""
        p, state = self.progress, status.reason or remark or status.source
        p.safe, p.finalized = status.safe, status.finalized
        if state != p.finality_source:
            p.finality_source = state
            log.info("finality", source=status.source, state=state, finalized=status.finalized)

    def report_bulk(self, done: StepResult, contiguous_end: int) -> None:
        """Report a commit made while catching up. `contiguous_end`: the contiguous end of coverage after it."""
        p = self.progress
        if done.projected:
            p.projected = done.last
        else:
            p.blocks += done.last - done.first + 1
            p.ingested = contiguous_end
        now, asked = time.monotonic(), self.pool.requests
        self.report(done, now - self._last[0], asked - self._last[1])
        self._last = now, asked

    def report(self, done: StepResult, elapsed: float, requests: int) -> None:
        """Report a commit that took `elapsed` (s) and so many `requests`."""
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
