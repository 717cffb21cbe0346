"""Reports of commits and of waits: each updates the progress counters; a commit, and news of a wait, is a log line."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import structlog

from indexer.chain.finality import FinalityStatus
from indexer.errors import DatabaseUnreachableError, IndexerError, WriteInterceptedError, error_label
from indexer.projector.step import StepResult
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.store.provenance import EndpointFault

HALT_RETRY_S = 10.0  # Between attempts that the database refuses for good (s).
MAX_WORDINGS = 20  # of one wait that are logged: nodes word the same trouble in many ways

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
        p.end_step()
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

    def report_faults(self, faults: Sequence[EndpointFault]) -> None:
        """Count logs that were proven wrong, and set the endpoints at fault aside."""
        for fault in faults:
            self.progress.attest.blamed[fault.endpoint] += 1
            self.pool.set_aside_wrong(fault.endpoint, fault.reason)


class WaitReporter:
    """Reports what a process waits out: errors of endpoints, of the database, and stalled steps."""

    def __init__(self, progress: DaemonProgress) -> None:
        self.progress = progress
        self._failing_since: float | None = None
        self._worded: set[str] = set()  # what was logged of the wait under way

    def observe(self, name: str, error: Exception, timeout_s: float | None, detail: str = "") -> float:
        """Publish a wait, and log it if its words are new. Returns how long to wait (s).

        Args:
            name: Name of the wait, constant for metrics.
            error: What is waited out.
            timeout_s: Time without a commit after which it is raised (s); None for never.
            detail: Text for /ready, after the name.

        Raises:
            IndexerError: The error has lasted for too long.
        """
        p, now = self.progress, self.progress.clock()
        if self._failing_since is None or p.last_step_at > self._failing_since:
            # What moves is not stuck: a commit since the first error begins another wait.
            self._failing_since, self._worded = now, set()
        p.errors[error_label(error)] += 1
        p.set_wait(f"{name}: {detail}" if detail else name, until_step=True)
        wording = f"{name}: {re.sub('[0-9]+', 'N', detail)}"
        if wording not in self._worded and len(self._worded) < MAX_WORDINGS:
            self._worded.add(wording)
            log.warning("waiting", waiting_for=name, error=one_line(error))
        if timeout_s is not None and now - self._failing_since > timeout_s:
            if isinstance(error, IndexerError):
                raise error
            raise DatabaseUnreachableError(
                f"the database has been unavailable for {timeout_s:.0f} seconds: {error}", "See the server's log"
            ) from error
        return min(0.5 + (now - self._failing_since) / 4, 10.0)

    def halt(self, error: WriteInterceptedError) -> float:
        """Publish that the database keeps the next step from taking effect. Returns how long to wait (s)."""
        p, reason = self.progress, f"halted: {one_line(error)}"
        p.errors[error_label(error)] += 1
        p.mode = "halted"
        if p.set_wait(reason, until_step=True):
            log.error("halted", reason=reason)
        if self._failing_since is None:
            self._failing_since = p.clock()
        return HALT_RETRY_S

    def end(self, waited_for: str) -> None:
        """Record that a cycle ended without an error; `waited_for` is logged if it had been waited for."""
        if waited_for and self._failing_since is not None:
            log.info("recovered", waited_for=waited_for)
        self._failing_since = None


def one_line(error: Exception) -> str:
    """Return the error's text as one line."""
    return " ".join(str(error).split())
