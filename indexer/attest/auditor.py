"""The auditor: attests newly final blocks, and history not attested yet, in the background of the daemon.

It has the lowest priority: its requests have their own cap, it stands by whenever the head is not followed closely, and
it pauses the daemon only to heal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from indexer.attest.attester import Attester, AttestResult, report
from indexer.attest.background import BackgroundTask
from indexer.attest.backlog import Backlog
from indexer.attest.proof import PIECE
from indexer.attest.verdict import IncidentReport
from indexer.chain.finality import FinalityTracker
from indexer.chain.ranges import BlockRange, ContractRange, count_blocks
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import NoSecondEndpointError, RpcError
from indexer.rpc.pool import Pool
from indexer.runtime.progress import ATTEST_STARTING, AttestProgress, DaemonProgress
from indexer.store.index_state import IndexState, binding, load_index_state
from indexer.store.provenance import EndpointFault

MAX_LAG_BLOCKS = 20  # Behind the head by more than this (blocks, about 5 s), the follower gets all requests.
MIN_PIECE_BLOCKS = 100  # Final blocks proven at once.
BUSY_WAIT_S = 30.0  # How long fewer than MIN_PIECE_BLOCKS final blocks may wait for more (s).
LOOK_INTERVAL_S = 2.0  # Time between checks for work when there is none (s).
RETRY_S, MAX_RETRY_S = 600.0, 21_600.0  # Time until skipped blocks are tried again (s); doubled each time.
MAX_REFUSALS = 5  # Failures of one piece in a row, after which later pieces come first.
MAX_FRUITLESS = 3  # Pieces in a row without any proof, before proving is given up for a while.

log = structlog.get_logger()


class Auditor(BackgroundTask):
    """Attests while this process is the projector, so that only one of several daemons audits.

    Args:
        deployment: The deployment to attest.
        pool: Endpoints of its own.
        progress: The daemon's progress.
        connect: Opens a connection of its own.
        finality: The daemon's finality tracker, which has the evidence against a lying tag.
        on_fault: Called for each fault of an endpoint.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, progress: DaemonProgress,
        connect: Callable[[], Awaitable[Connection]], finality: FinalityTracker,
        on_fault: Callable[[EndpointFault], None] = lambda fault: None,
    ) -> None:  # fmt: skip
        super().__init__(connect, "attest", LOOK_INTERVAL_S)
        self.deployment, self.pool, self.progress = deployment, pool, progress
        self._finality, self._on_fault = finality, on_fault
        self.gauges: AttestProgress = progress.attest
        self.gauges.state = ATTEST_STARTING
        self._proving: Backlog | None = None
        self._checking: Backlog | None = None
        self._proved_at = float("-inf")
        self._retry_in = RETRY_S
        self._retry_at = time.monotonic() + RETRY_S
        self._no_second_endpoint = len(pool.readers) < 2
        self._fruitless = 0  # Pieces in a row without any proof.
        self._refused: tuple[str, int, int] = "", -1, 0  # The piece that failed last, and how often in a row.

    async def close(self) -> None:
        """Close the connection, and forget what was read over it. Never raises."""
        self._proving = self._checking = None
        await super().close()

    def standby_reason(self) -> str:
        """Return why other work has priority; empty if none has."""
        p = self.progress
        if not p.holder:
            return f"stands by: {p.not_holding}"
        if self.deployment.attest.before_commit:
            return ""  # The follower may be waiting for what is proven here.
        if p.waiting or p.mode != "following":
            return f"stands by: {p.waiting or p.mode}"
        if p.finalized < 0 or p.lag_blocks > MAX_LAG_BLOCKS:
            return "stands by: the head is not reached"
        return ""

    async def _yield_to_follower(self) -> None:
        while reason := self.standby_reason():
            self.show_state(reason)
            await asyncio.sleep(0.1)

    def show_state(self, state: str) -> None:
        """Show what the auditor does, or why it waits; each change is logged."""
        if state != self.gauges.state:
            self.gauges.state = state
            log.info("attestation", state=state)

    async def work(self, conn: Connection) -> bool:
        """Attest one piece; return whether there was one."""
        if self._proving is None or self._checking is None:
            attester = Attester(self.deployment, self.pool, conn, self._yield_to_follower, finality=self._finality)
            self._proving, self._checking = Backlog(attester, "proven"), Backlog(attester, "cross-checked")
        if await binding(conn) is None:
            return False
        state = await load_index_state(conn, [c.address for c in self.deployment.contracts])
        self._retry_skipped()
        for backlog in (self._proving, self._checking):
            await backlog.refresh()
        task = self._next(state)
        if task is None:
            self._publish(state, "up to date")
            return False
        backlog, segment = task
        self.show_state("attesting")
        try:
            result = await backlog.step(state, segment)
        except NoSecondEndpointError:
            self._no_second_endpoint = True
            log.warning("no_second_endpoint", reason="all that answer served the history: it is not cross-checked")
            return False
        except RpcError as error:
            await self._refuse(conn, backlog, segment, error)
            raise
        if backlog is self._proving:
            self._proved_at = time.monotonic()
            self._checking.mark_attested(result.attested, segment.addresses)
            self._fruitless = 0 if result.attested or result.healed else self._fruitless + 1
            if self._fruitless >= MAX_FRUITLESS:
                # Roots are mere labels on this chain, or no endpoint has receipts: going on would only cost requests.
                backlog.skip([BlockRange(0, segment.last)])
        self._count(backlog, result)
        self._publish(state, "attesting")
        return True

    async def _refuse(self, conn: Connection, backlog: Backlog, segment: ContractRange, error: RpcError) -> None:
        """Leave a piece that fails again and again for later, although the head is followed: others need not wait."""
        grade, first, times = self._refused
        times = times + 1 if (grade, first) == (backlog.grade, segment.first) else 1
        self._refused = backlog.grade, segment.first, times
        if times >= MAX_REFUSALS:
            last = min(segment.last, segment.first + PIECE - 1)
            detail = f"blocks {segment.first} to {last} are not {backlog.grade}: {error.message}"
            blocks = [segment.first, last]
            await report(conn, [IncidentReport("unprovable", f"{error.endpoint}: no answer", detail, blocks)])
            backlog.skip([BlockRange(segment.first, last)])

    def _next(self, state: IndexState) -> tuple[Backlog, ContractRange] | None:
        """Return the next task: newly final blocks are proven first, then history is cross-checked, oldest first."""
        assert self._proving is not None and self._checking is not None
        origin, last = state.binding.origin, min(self.progress.finalized, state.contiguous_end)
        attest = self.deployment.attest
        recent = origin if attest.before_commit else max(origin, self.progress.finalized - attest.recent_blocks + 1)
        new = next(self._proving.remaining(state, recent, last), None)
        enough = new is not None and last - new.first + 1 >= MIN_PIECE_BLOCKS
        if new is not None and (enough or attest.before_commit or time.monotonic() - self._proved_at > BUSY_WAIT_S):
            return self._proving, new
        # Blocks about to be proven need no cross-check; blocks that could not be proven do.
        below = new.first - 1 if new is not None else last
        history = None if self._no_second_endpoint else next(self._checking.remaining(state, origin, below), None)
        return None if history is None else (self._checking, history)

    def _retry_skipped(self) -> None:
        """Try again what was skipped, and look for a second endpoint again, when that is due."""
        if time.monotonic() > self._retry_at:
            self._retry_in = min(2 * self._retry_in, MAX_RETRY_S)
            self._retry_at, self._no_second_endpoint = time.monotonic() + self._retry_in, len(self.pool.readers) < 2
            for backlog in (self._proving, self._checking):
                if backlog is not None:
                    backlog.try_again()

    def _count(self, backlog: Backlog, result: AttestResult) -> None:
        g = self.gauges
        g.blocks[backlog.grade] += count_blocks(result.attested)
        g.healed += len(result.healed)
        g.unprovable += count_blocks(result.unproven)
        for fault in result.blamed:
            g.blamed[fault.endpoint] += 1
            self._on_fault(fault)
        g.requests = self.pool.requests
        log.debug("attested", grade=backlog.grade, first=result.first, last=result.last, logs=result.logs)

    def _publish(self, index_state: IndexState, state: str) -> None:
        for backlog in (self._proving, self._checking):
            assert backlog is not None
            reached = backlog.extent(index_state.binding.origin)
            self.gauges.up_to[backlog.grade], self.gauges.newest[backlog.grade] = reached
        self.show_state(state)
