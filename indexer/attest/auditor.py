"""The auditor: attests in the background of the daemon what has become final, and what of the history nobody did.

It comes last: its requests have a cap of their own, it stands by whenever the head is not followed closely, and it
pauses the daemon only to heal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from indexer.attest.attestor import Attester, AttestResult
from indexer.attest.backlog import Backlog
from indexer.chain.finality import FinalityTracker
from indexer.chain.ranges import BlockRange, ContractRange
from indexer.config import Deployment
from indexer.db.connection import Connection, close
from indexer.db.database_errors import DATABASE_ERRORS
from indexer.errors import IndexerError, NoSecondEndpointError
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import request_purpose
from indexer.runtime.progress import ATTEST_STARTING, AttestProgress, DaemonProgress
from indexer.store.index_state import IndexState, binding, load_index_state
from indexer.store.provenance import EndpointFault

MAX_LAG_BLOCKS = 20  # blocks between head and projected from which on the head needs everything: five seconds
MIN_PIECE_BLOCKS = 100  # final blocks that are proven at once
BUSY_WAIT_S = 30.0  # seconds that fewer may wait for more
LOOK_INTERVAL_S = 2.0  # seconds between looks when there is nothing to do
TRY_AGAIN, SELDOM = 600.0, 21_600.0  # seconds until what could not be attested is tried again; doubled each time
MAX_FRUITLESS = 3  # pieces in a row
MAX_PAUSE_S = 60.0  # seconds, while there is trouble

log = structlog.get_logger()


class Auditor:
    """`connect` opens its own connection, `pool` holds endpoints of its own; `progress` is the daemon's, who is told
    whom the auditor `blamed`; `finality` is the daemon's too: the evidence against a lying tag is there.

    It works while this process is the projector: of several daemons one audits.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, progress: DaemonProgress, connect: Callable[[],
        Awaitable[Connection]],
        finality: FinalityTracker, blamed: Callable[[EndpointFault], None] = lambda blame: None,
    ) -> None:  # fmt: skip
        self.deployment, self.pool, self.progress, self._connect = deployment, pool, progress, connect
        self._finality, self._blamed = finality, blamed
        self.gauges: AttestProgress = progress.attest
        self.gauges.state = ATTEST_STARTING
        self._conn: Connection | None = None
        self._proving: Backlog | None = None
        self._checking: Backlog | None = None
        self._proved_at = float("-inf")
        self._retry_in = TRY_AGAIN
        self._retry_at = time.monotonic() + TRY_AGAIN
        self._alone = len(pool.readers) < 2  # no second endpoint was found
        self._troubles = 0  # turns in a row that failed
        self._fruitless = 0  # pieces in a row of which nothing was proven

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            with request_purpose("attest"):
                while True:
                    if not await self.run_once():
                        await asyncio.sleep(min(LOOK_INTERVAL_S * 2**self._troubles, MAX_PAUSE_S))
        finally:
            await self.close()

    async def close(self) -> None:
        """Its connection; the next turn opens another. Never raises."""
        conn, self._conn, self._proving, self._checking = self._conn, None, None, None
        await close(conn)

    async def run_once(self) -> bool:
        """One piece, when others do not come first. Whether there was any. Trouble is named, and for the next turn."""
        waits = self._waits()
        if waits:
            self._state(waits)
            return False
        try:
            worked = await self._turn()
            self._troubles = 0
            return worked
        except DATABASE_ERRORS as error:
            self._trouble(error)
            await self.close()
        except IndexerError as error:
            self._trouble(error)  # an endpoint's, a reorg in between, or a heal for which others did not pause
        except Exception as error:
            # The head is followed on whatever happens here, but not in silence.
            self._trouble(error)
            log.error("attestation_failed", exc_info=True)
        return False

    def _trouble(self, error: Exception) -> None:
        self._troubles += 1
        self._state(f"waits: {' '.join(str(error).split()) or type(error).__name__}")

    def _waits(self) -> str:
        """What comes first, "" for nothing."""
        p = self.progress
        if not p.holder:
            return "stands by: another process projects"
        if p.waiting or p.mode != "following":
            return f"stands by: {p.waiting or p.mode}"
        if p.finalized < 0 or p.lag_blocks > MAX_LAG_BLOCKS:
            return "stands by: the head is not reached"
        return ""

    async def _breathe(self) -> None:
        while waits := self._waits():
            self._state(waits)
            await asyncio.sleep(0.1)

    def _state(self, state: str) -> None:
        if state != self.gauges.state:
            self.gauges.state = state
            log.info("attestation", state=state)

    async def _turn(self) -> bool:
        if self._conn is None:
            self._conn = await self._connect()
        if self._proving is None or self._checking is None:
            attestor = Attester(self.deployment, self.pool, self._conn, self._breathe, finality=self._finality)
            self._proving, self._checking = Backlog(attestor, "proven"), Backlog(attestor, "cross-checked")
        if await binding(self._conn) is None:
            return False
        state = await load_index_state(self._conn, [c.address for c in self.deployment.contracts])
        self._forget_aside()
        for work in (self._proving, self._checking):
            await work.refresh()
        found = self._next(state)
        if found is None:
            self._tell(state, "up to date")
            return False
        work, segment = found
        self._state("attesting")
        try:
            result = await work.step(state, segment)
        except NoSecondEndpointError:
            self._alone = True
            log.warning("no_second_endpoint", reason="all that answer served the history: it is not cross-checked")
            return False
        if work is self._proving:
            self._proved_at = time.monotonic()
            self._checking.mark_attested(result.attested, segment.addresses)
            self._fruitless = 0 if result.attested or result.healed else self._fruitless + 1
            if self._fruitless >= MAX_FRUITLESS:
                # Roots that are labels, or no receipts anywhere: what is left here would only cost requests.
                work.skip([BlockRange(0, segment.last)])
        self._count(work, result)
        self._tell(state, "attesting")
        return True

    def _next(self, state: IndexState) -> tuple[Backlog, ContractRange] | None:
        """New blocks are proven first; then the history is cross-checked, the oldest blocks first."""
        assert self._proving is not None and self._checking is not None
        origin, last = state.binding.origin, min(self.progress.finalized, state.contiguous_end)
        recent = max(origin, self.progress.finalized - self.deployment.attest.recent_blocks + 1)
        new = next(self._proving.remaining(state, recent, last), None)
        enough = new is not None and last - new.first + 1 >= MIN_PIECE_BLOCKS
        if new is not None and (enough or time.monotonic() - self._proved_at > BUSY_WAIT_S):
            return self._proving, new
        # What is about to be proven need not be cross-checked; what could not be is.
        below = new.first - 1 if new is not None else last
        history = None if self._alone else next(self._checking.remaining(state, origin, below), None)
        return None if history is None else (self._checking, history)

    def _forget_aside(self) -> None:
        if time.monotonic() > self._retry_at:
            self._retry_in = min(2 * self._retry_in, SELDOM)
            self._retry_at, self._alone = time.monotonic() + self._retry_in, len(self.pool.readers) < 2
            for work in (self._proving, self._checking):
                if work is not None:
                    work.try_again()

    def _count(self, work: Backlog, result: AttestResult) -> None:
        g = self.gauges
        g.blocks[work.grade] += sum(s.last - s.first + 1 for s in result.attested)
        g.healed += len(result.healed)
        g.unprovable += sum(s.last - s.first + 1 for s in result.unproven)
        for blame in result.blamed:
            g.blamed[blame.endpoint] += 1
            self._blamed(blame)
        g.requests = self.pool.requests
        log.debug("attested", grade=work.grade, first=result.first, last=result.last, logs=result.logs)

    def _tell(self, index_state: IndexState, state: str) -> None:
        for work in (self._proving, self._checking):
            assert work is not None
            reached = work.extent(index_state.binding.origin)
            self.gauges.up_to[work.grade], self.gauges.newest[work.grade] = reached
        self._state(state)
