"""Proof at the head: each committed block above finalized is proven within seconds, by a budget of its own.

What an endpoint left out, misnumbered or invented would otherwise stay until the block is final, which can take more
than an hour. The follower's answers hold whole headers, so a block whose bloom filter lacks the watched contracts costs
no request here, and any other block costs one. Proofs are stored; this task remembers nothing that a restart needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from indexer.attest.attester import report
from indexer.attest.background import BackgroundTask
from indexer.attest.verdict import unprovable
from indexer.chain.log_set import diff_logs
from indexer.chain.types import Header, address_bytes
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import EpochChangedError
from indexer.ingest.block_proof import BlockProofs, prove_blocks
from indexer.ingest.proof_rules import ProofFailure
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import doubled_pause
from indexer.runtime.progress import ATTEST_STARTING, DaemonProgress, HeadProofProgress
from indexer.store import epoch, head_proofs, raw_logs
from indexer.store.index_state import block_refs_between

PIECE = 200  # Blocks proven at once, the newest first.
LOOK_INTERVAL_S = 1.0  # Time between looks for work when no commit is announced (s).
FIRST_RETRY_S, MAX_RETRY_S = 0.25, 600.0  # Time until a block that could not be proven is tried again (s); doubled.
INCIDENT_AFTER_S = 10.0  # A receipt that is not served yet is no incident (s).
MAX_FRUITLESS = 5  # Looks in a row without any proof by receipts, before looks become rare.
MAX_OFFERED = 2_000  # Headers of committed blocks that are kept in memory.

log = structlog.get_logger()


@dataclass(slots=True)
class _Open:
    """A block without a proof: when it was first tried, how often, and when it is due again (monotonic, s)."""

    due: float = 0.0
    since: float = 0.0
    tries: int = 0


class HeadProver(BackgroundTask):
    """Proves committed blocks above the rollback floor while this process is the projector.

    Args:
        deployment: The deployment whose contracts are proven.
        pool: Endpoints of its own.
        progress: The daemon's progress.
        connect: Opens a connection of its own.
        on_wrong: Called with the first block whose stored logs are proven to be wrong; the follower heals it.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, progress: DaemonProgress,
        connect: Callable[[], Awaitable[Connection]], on_wrong: Callable[[int], None],
    ) -> None:  # fmt: skip
        super().__init__(connect, "head_proof", LOOK_INTERVAL_S)
        self.deployment, self.pool, self.progress, self._on_wrong = deployment, pool, progress, on_wrong
        self.addresses = deployment.addresses
        self.gauges: HeadProofProgress = progress.head_proof
        self.gauges.state = ATTEST_STARTING
        self._committed = asyncio.Event()
        self._offered: dict[int, tuple[Header, str]] = {}
        self._open: dict[int, _Open] = {}
        self._epoch = self._seen = -1  # The epoch that `_open` is of, and the last block that was looked for.
        self._fruitless = 0

    def offer(self, headers: Sequence[Header], endpoint: str) -> None:
        """Take the headers of blocks that were committed just now and that an endpoint served, and wake up."""
        self._offered |= {h.number: (h, endpoint) for h in headers if h.receipts_root}
        while len(self._offered) > MAX_OFFERED:
            del self._offered[next(iter(self._offered))]
        self._committed.set()

    async def pause(self, seconds: float) -> None:
        """Wait until a block is committed, or for a due block; after fruitless looks at least as long as asked."""
        if self._fruitless >= MAX_FRUITLESS:
            await asyncio.sleep(doubled_pause(1.0, self._fruitless - MAX_FRUITLESS, 60.0))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if self._errors else min(seconds, FIRST_RETRY_S)):
                await self._committed.wait()
        self._committed.clear()

    async def close(self) -> None:
        """Close the connection, and forget what was read over it. Never raises."""
        self._epoch = -1
        await super().close()

    def standby_reason(self) -> str:
        """Return why nothing is proven now; empty if something may be."""
        p = self.progress
        if not p.holder:
            return f"stands by: {p.not_holding}"
        return "stands by: the head is not reached" if p.finalized < 0 or p.head < 0 else ""

    def show_state(self, state: str) -> None:
        """Show what the prover does, or why it waits; only waits are logged, as the rest changes with each block."""
        if state != self.gauges.state:
            self.gauges.state = state
            (log.info if state.startswith(("stands by", "waits")) else log.debug)("head_proof", state=state)

    async def work(self, conn: Connection) -> bool:
        """Prove the newest blocks that lack a proof; return whether there were any."""
        row = await conn.fetchrow(
            "SELECT c.number, c.rollback_floor, e.value, c.digest FROM indexer.checkpoint c, indexer.epoch e"
        )
        assert row is not None, "the migration made the row"
        checkpoint, floor, planned = row["number"], row["rollback_floor"], row["value"]
        if checkpoint is None:
            return False
        if row["digest"] != self.deployment.digest:
            # A contract may be new: that its logs are not ingested yet is nobody's fault.
            self.show_state("stands by: the rows were projected with another configuration")
            return False
        await self._look_for_blocks(conn, checkpoint, -1 if floor is None else floor, planned)
        now = time.monotonic()
        due = sorted((n for n, block in self._open.items() if block.due <= now), reverse=True)
        numbers = sorted(due[: PIECE if self._fruitless < MAX_FRUITLESS else 1])
        if not numbers:
            self._publish("up to date" if not self._open else f"cannot prove {len(self._open)} blocks yet")
            return False
        await self._prove(conn, numbers, planned)
        return self._fruitless == 0

    async def _look_for_blocks(self, conn: Connection, checkpoint: int, floor: int, planned: int) -> None:
        """Add blocks that lack a proof: new ones, or all of them after a start, a rollback or a heal."""
        if planned != self._epoch:
            self._open, self._epoch, self._seen = {}, planned, floor
            self.gauges.newest = await head_proofs.newest(conn)
        for number in [n for n in self._open if n <= floor]:
            del self._open[number]  # Final: the auditor's.
        first = max(self._seen, floor) + 1
        if first <= checkpoint:
            for number in await head_proofs.unproven(conn, first, checkpoint, self.addresses):
                self._open[number] = _Open(since=time.monotonic())
            self._seen = checkpoint

    async def _prove(self, conn: Connection, numbers: list[int], planned: int) -> None:
        refs = {r.number: r for r in await block_refs_between(conn, numbers[0], numbers[-1])}
        blocks, served_by = [], dict[int, str]()  # While the proof is awaited, older headers are forgotten.
        for number in numbers:
            ref = refs.get(number)
            if ref is not None:  # Else it is gone since, and the epoch tells.
                offered, served_by[number] = self._offered.get(number, (Header(ref.number, b"", b"", 0), ""))
                blocks.append(offered if offered.hash == ref.hash else Header(ref.number, ref.hash, b"", ref.timestamp))
        watched = {address_bytes(a) for a in self.addresses}
        stored = (await raw_logs.read_blocks(conn, numbers, strict=False)).logs
        logs = [g for g in stored if g.address in watched]
        self.show_state("proving")
        proofs = await prove_blocks(self.pool.ordered(), blocks, logs, self.addresses)
        wrong = diff_logs((g for g in logs if g.block_number in proofs.proven_by), proofs.logs)
        if wrong:
            log.error("logs_differ_at_head", first=wrong[0].block, differences=len(wrong))
        # From the first wrong block on everything is replaced, so nothing above it is recorded.
        good = {
            b.number: (b.hash, proofs.proven_by[b.number] or served_by[b.number])
            for b in blocks
            if b.number in proofs.proven_by and (not wrong or b.number < wrong[0].block)
        }
        try:
            async with conn.transaction():
                await epoch.lock_shared(conn, planned)
                await head_proofs.add(conn, good, self.addresses)
        except EpochChangedError:
            return  # What was compared may be gone: the next look begins anew.
        self._settle(good)
        await self._postpone(conn, [n for n in numbers if n not in proofs.proven_by], proofs)
        self._publish("proving")
        if wrong:
            self._on_wrong(wrong[0].block)
            for number in [n for n in self._open if n >= wrong[0].block]:
                self._open[number].due = time.monotonic() + FIRST_RETRY_S

    def _settle(self, good: Collection[int]) -> None:
        for number in good:
            self._open.pop(number, None)
            self._offered.pop(number, None)
        self.gauges.blocks += len(good)
        self.gauges.newest = max(self.gauges.newest, max(good, default=-1))
        self._fruitless = 0 if good else self._fruitless

    async def _postpone(self, conn: Connection, failed: list[int], proofs: BlockProofs) -> None:
        """Try blocks again later, each time after a longer while, and open an incident for those that lasted."""
        if not failed:
            return
        now, lasting = time.monotonic(), set[int]()
        for number in failed:
            block = self._open[number]
            block.due, block.tries = now + doubled_pause(FIRST_RETRY_S, block.tries, MAX_RETRY_S), block.tries + 1
            if now - block.since >= INCIDENT_AFTER_S:
                lasting.add(number)
        if not proofs.proven_by:
            self._fruitless += 1
        failures: list[ProofFailure] = [f for f in proofs.failures if f.block in lasting]
        if failures:
            await report(conn, unprovable(failures))

    def _publish(self, state: str) -> None:
        self.gauges.unproven, self.gauges.requests = len(self._open), self.pool.requests
        self.show_state(state)
