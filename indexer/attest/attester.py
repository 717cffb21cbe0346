"""Attestation of contract ranges, one piece at a time: evidence is read, decided on, and what follows is written here.

A piece is attested, or healed, or keeps its grade for a reason that is stored. The rules are in `attest/verdict.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog

from indexer.attest.compare import ask_others, ranges
from indexer.attest.evidence import Comparison, LogDifference
from indexer.attest.proof import prove_piece
from indexer.attest.verdict import Attestable, BlockedHeal, Correction, IncidentReport, NoAnchor, Verdict, decide
from indexer.chain.finality import FinalityTracker
from indexer.chain.ranges import BlockRange, ContractRange
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.ingest.block_proof import YieldToFollower
from indexer.ingest.proof_rules import ProofFailure
from indexer.reorg.heal import heal_proven
from indexer.reorg.recovery import Recovery
from indexer.rpc.pool import Pool
from indexer.store import attestations, epoch, head_proofs, provenance
from indexer.store.attestations import Attestation
from indexer.store.incidents import record
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault

log = structlog.get_logger()


@dataclass(slots=True)
class AttestResult:
    """The result of attesting blocks `first`..`last`.

    The `unproven` blocks keep their grade, for the given `reasons`. The `healed` blocks differed and no longer do; they
    are attested on the next pass. `proved`: endpoints that proved everything they were asked for. `logs`: how many logs
    the attested blocks have.
    """

    first: int
    last: int
    attested: list[BlockRange] = field(default_factory=list)
    unproven: list[BlockRange] = field(default_factory=list)
    reasons: list[ProofFailure] = field(default_factory=list)
    differences: list[LogDifference] = field(default_factory=list)
    healed: list[BlockRange] = field(default_factory=list)
    blamed: list[EndpointFault] = field(default_factory=list)
    proved: frozenset[str] = frozenset()
    logs: int = 0

    def add(self, part: AttestResult) -> None:
        """Add what became of a part of these blocks. Who proved that part proved no more than it."""
        self.attested += part.attested
        self.unproven += part.unproven
        self.reasons += part.reasons
        self.differences += part.differences
        self.healed += part.healed
        self.blamed += part.blamed
        self.logs += part.logs


class Attester:
    """Attests contract ranges, and heals the stored logs that are proven wrong.

    Args:
        deployment: The deployment whose contracts are attested.
        pool: The endpoints to ask.
        conn: The connection to read and write with; nothing else may use it meanwhile.
        yield_to_follower: Awaited before each request.
        heal: Whether to correct what is proven to differ; if not, differences are only reported.
        finality: The process's finality tracker, as in Recovery.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, conn: Connection, yield_to_follower: YieldToFollower, *,
        heal: bool = True, finality: FinalityTracker | None = None,
    ) -> None:  # fmt: skip
        self.deployment, self.conn = deployment, conn
        self._pool, self._yield_to_follower, self._heal, self._finality = pool, yield_to_follower, heal, finality

    async def prove(self, state: IndexState, segment: ContractRange, *, again: bool = False) -> AttestResult:
        """Prove the first piece of a contract range by headers and receipts.

        Blocks that were proven before they were final are not proven again unless `again` is set.

        Raises RpcError when no endpoint answers, EpochChangedError when something was rolled back or healed in the
        meantime, RefusedError when a heal could not acquire the lease.
        """
        proof = await prove_piece(self._pool.ordered(), self.conn, segment, self._yield_to_follower, again=again)
        return await self._apply(state, decide(NoAnchor(segment) if proof is None else proof))

    async def cross_check(self, state: IndexState, segment: ContractRange) -> AttestResult:
        """Cross-check the first part of a contract range, as large as a second endpoint serves.

        If the two disagree, headers and receipts decide. If no serving endpoint is stored for the logs, two endpoints
        must agree with them. Raises what `prove` raises, and NoSecondEndpointError.
        """
        check = await ask_others(self.conn, self._pool, segment, self._yield_to_follower)
        if check.dispute is None:
            return await self._apply(state, decide(check))
        result = await self._prove_disputed(state, segment, check.dispute)
        if result.healed:
            return result  # The rest is checked again: a heal starts a new epoch, and `state` is of the old one.
        check.right, check.wrong = list(result.attested), {d.block for d in result.differences}
        result.add(await self._apply(state, decide(check)))
        return result

    async def _prove_disputed(self, state: IndexState, segment: ContractRange, dispute: Comparison) -> AttestResult:
        """Prove each part of a contract range in which an endpoint has other logs, until something is healed."""
        result = AttestResult(dispute.segment.first, dispute.segment.last)
        for part in ranges(dispute.segment, dispute.differences):
            at = part.first
            while at <= part.last and not result.healed:
                rest = segment._replace(first=at)
                proof = await prove_piece(self._pool.ordered(), self.conn, rest, self._yield_to_follower)
                if proof is None:
                    break
                result.add(await self._apply(state, decide(proof)))
                at = proof.segment.last + 1
        return result

    async def _apply(self, state: IndexState, verdict: Verdict) -> AttestResult:
        """Write what follows from the verdict: faults and incidents, then corrections or attestations."""
        result = AttestResult(
            *verdict.blocks, unproven=list(verdict.unproven), reasons=list(verdict.reasons),
            differences=list(verdict.differences), proved=verdict.proved,
        )  # fmt: skip
        result.blamed += [EndpointFault(verdict.asked, "asked", *fault, "the stored logs") for fault in verdict.faults]
        if result.blamed:
            async with self.conn.transaction():
                await provenance.record_faults(self.conn, result.blamed)
        await report(self.conn, verdict.incidents)
        if verdict.differences:
            log.error("logs_differ", first=result.first, last=result.last, differences=len(verdict.differences))
        for correction in verdict.corrections if self._heal else ():
            result.add(await self._correct(state, correction))
        if verdict.attestable is not None:
            result.logs += await self._attest(state, verdict.attestable)
            result.attested += verdict.attestable.runs
        return result

    async def _attest(self, state: IndexState, attestable: Attestable) -> int:
        """Store attestations, and return how many logs the blocks have.

        Raises EpochChangedError if something was rolled back or healed since `state` was loaded.
        """
        grade, runs, stored, hashes, endpoints = attestable
        logs = 0
        async with self.conn.transaction():
            await epoch.lock_shared(self.conn, state.epoch)
            for run in runs:
                attested = [g for g in stored.logs if run.first <= g.block_number <= run.last]
                logs += len(attested)
                blocks = ContractRange(*run, stored.segment.addresses)
                await attestations.add(self.conn, Attestation.of(blocks, grade, hashes, attested, endpoints))
                if grade == "proven":
                    await head_proofs.forget(self.conn, *run)
        return logs

    async def _correct(self, state: IndexState, correction: Correction) -> AttestResult:
        """Replace wrong stored logs with the proven ones, rows included, and store which endpoints were at fault."""
        batch = correction.batch
        faults = await provenance.faults_of_servers(self.conn, correction.faults, correction.logs, correction.provers)
        cause = f"attestation: {', '.join(sorted({f.endpoint for f in faults})) or 'a stored row'} was wrong"
        recovery = Recovery(self.deployment, self._pool, self.conn, self._finality)
        try:
            await heal_proven(recovery, batch, cause, faults)
        except asyncpg.UniqueViolationError as error:
            # A transaction of these blocks is also stored in another block, which must then be wrong too.
            return await self._apply(state, decide(BlockedHeal(batch.first, batch.last, str(error.detail))))
        log.warning("healed", first=batch.first, last=batch.last, differences=len(correction.wrong), cause=cause)
        healed = [BlockRange(batch.first, batch.last)]
        return AttestResult(batch.first, batch.last, healed=healed, blamed=faults)


async def report(conn: Connection, incidents: Sequence[IncidentReport]) -> None:
    """Open each incident, or count it again if it is open."""
    for kind, subject, detail, blocks in incidents:
        log.warning(kind, subject=subject, detail=detail, blocks=len(blocks))
        row = {"kind": kind, "subject": subject, "detail": detail, "count": len(blocks)}
        await record(conn, [row | {"first_block": min(blocks), "last_block": max(blocks)}])
