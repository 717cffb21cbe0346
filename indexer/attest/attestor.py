"""Attesting ranges: what the daemon's auditor and `verify` both do, one piece at a time.

A piece is attested, or healed, or keeps its grade for a reason that is stored. Nothing is healed and nobody is blamed
unless logs differ and headers prove which are right: a root that does not match while the logs do is the endpoint's
trouble.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog

from indexer.attest.compare import LogDifference, StoredRange, differences
from indexer.attest.log_set import diff_logs, digest
from indexer.attest.proof import Proof, ProofFailure, YieldToFollower, prove
from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.finality import FinalityTracker
from indexer.chain.ranges import BlockRange, ContractRange, merge_ranges
from indexer.chain.types import Log
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.reorg.recovery import Recovery
from indexer.rpc.pool import Pool
from indexer.store import attestations, coverage, epoch, provenance
from indexer.store.attestations import Attestation, Grade
from indexer.store.incidents import record
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault

PIECE = 500  # blocks proven at once: bounds memory, and what an interruption costs
METHODS: dict[Grade, str] = {"proven": "header, bloom and receipts", "cross-checked": "second endpoint"}

log = structlog.get_logger()


@dataclass(slots=True)
class AttestResult:
    """What became of blocks `first`..`last`. `kept`: these keep their grade, for the reasons in `left`. `healed`: what
    was not equal and is now; it is attested when it is looked at again."""

    first: int
    last: int
    attested: list[BlockRange] = field(default_factory=list)
    unproven: list[BlockRange] = field(default_factory=list)
    reasons: list[ProofFailure] = field(default_factory=list)
    differences: list[LogDifference] = field(default_factory=list)
    healed: list[BlockRange] = field(default_factory=list)
    blamed: list[EndpointFault] = field(default_factory=list)
    proved: set[str] = field(default_factory=set)  # endpoints that proved all they were asked
    logs: int = 0

    def add(self, other: AttestResult) -> None:
        """What became of a part of these blocks."""
        for name in ("attested", "kept", "left", "differences", "healed", "blamed"):
            getattr(self, name).extend(getattr(other, name))
        self.logs += other.logs


class Attester:
    """Over one connection, on which nothing else is done meanwhile. `heal`: whether what is proven to differ is put
    right; else it is only told. `breathe` is awaited before each request; `finality` as in Recovery."""

    def __init__(
        self, deployment: Deployment, pool: Pool, conn: Connection, breathe: YieldToFollower, *, heal: bool = True,
        finality: FinalityTracker | None = None,
    ) -> None:  # fmt: skip
        self.deployment, self.pool, self.conn, self.yield_to_follower, self.heal = deployment, pool, conn, breathe, heal
        self._finality = finality

    async def prove(self, state: IndexState, segment: ContractRange) -> AttestResult | None:
        """The first piece of a segment; None when no stored block is left in it to chain headers to.

        Raises RpcError when no endpoint answers, EpochChangedError when something was rolled back or healed meanwhile,
        RefusedError when a heal could not have the lease.
        """
        end = await self._end(segment)
        if end is None:
            return None
        proof = await prove(self.pool.ordered(), self.conn, segment._replace(last=end), self.yield_to_follower)
        result = AttestResult(segment.first, end, reasons=[c for c in proof.complaints if c.block in proof.unproven])
        result.unproven = merge_ranges(BlockRange(number, number) for number in proof.unproven)
        result.differences = _differences(proof)
        await self.record_failures(proof.complaints)
        if result.differences:
            log.error("logs_differ", first=segment.first, last=end, differences=len(result.differences))
            if self.heal:
                await self._heal(proof, result)
            return result
        hashes = {s.header.number: s.header.hash for s in proof.headers}
        spans = [BlockRange(run.first, run.last) for run in proof.proven()]
        await self.record_attestation(
            state, proof.segment, spans, "proven", proof.stored, hashes, proof.endpoints, result
        )
        result.proved = {*proof.endpoints} - {c.endpoint for c in proof.complaints}
        return result

    async def _end(self, segment: ContractRange) -> int | None:
        """The highest stored block of the first piece, else the next one above."""
        found: int | None = await self.conn.fetchval(
            "SELECT COALESCE((SELECT max(number) FROM indexer.block WHERE number BETWEEN $1 AND $2),"
            " (SELECT min(number) FROM indexer.block WHERE number BETWEEN $1 AND $3))",
            segment.first,
            min(segment.last, segment.first + PIECE - 1),
            segment.last,
        )
        return found

    async def record_attestation(
        self, state: IndexState, segment: ContractRange, spans: Sequence[BlockRange], grade: Grade,
        stored: StoredRange,
        hashes: Mapping[int, bytes], endpoints: Sequence[str], result: AttestResult,
    ) -> None:  # fmt: skip
        """Stores what is attested of a segment, unless a rollback or a heal came in between: raises
        EpochChangedError."""
        async with self.conn.transaction():
            await epoch.lock_shared(self.conn, state.epoch)
            for span in spans:
                logs: list[Log] = [g for g in stored.logs if span.first <= g.block_number <= span.last]
                result.logs += len(logs)
                await attestations.add(
                    self.conn,
                    Attestation(
                        *span, segment.addresses, grade, METHODS[grade], hashes.get(span.first), hashes.get(span.last),
                        len(logs), digest(logs), tuple(dict.fromkeys(endpoints)),
                    ),
                )  # fmt: skip
        result.attested += spans

    async def record_failures(self, complaints: Sequence[ProofFailure]) -> None:
        """Stores why an endpoint proves nothing: an incident for each of its reasons."""
        by_subject: dict[str, list[ProofFailure]] = defaultdict(list)
        for complaint in complaints:
            by_subject[f"{complaint.endpoint}: {complaint.why}"].append(complaint)
        for subject, of in by_subject.items():
            await self.incident("unprovable", subject, of[0].detail, [c.block for c in of])

    async def incident(self, kind: str, subject: str, detail: str, blocks: Sequence[int]) -> None:
        """Opens one, or counts it again."""
        log.warning(kind, subject=subject, detail=detail, blocks=len(blocks))
        row = {"kind": kind, "subject": subject, "detail": detail, "count": len(blocks)}
        await record(self.conn, [row | {"first_block": min(blocks), "last_block": max(blocks)}])

    async def _heal(self, proof: Proof, result: AttestResult) -> None:
        """Makes the stored logs the proven ones, run by run, and stores whose fault they were."""
        headers = {s.header.number: s.header for s in proof.headers}
        for run in proof.proven():
            wrong = [d.block for d in result.differences if run.first <= d.block <= run.last]
            if not wrong:
                continue
            first, last = min(wrong), max(wrong)
            true, said = (
                [g for g in logs if first <= g.block_number <= last] for logs in (proof.logs, proof.stored.logs)
            )
            blocks = [headers[n] for n in range(first, last + 1)]
            prover = proof.by.get(first, proof.endpoints[0])
            unit = LogBatch(first, last, run.addresses, true, blocks, (ServedRange(first, last, prover),))
            blames = await self._served_by(proof, said, true)
            cause = f"attestation: {', '.join(sorted({b.endpoint for b in blames})) or 'a stored row'} was wrong"
            recovery = Recovery(self.deployment, self.pool, self.conn, self._finality)
            try:
                await recovery.heal(ContractRange(first, last, run.addresses), cause, unit, blames)
            except asyncpg.UniqueViolationError as error:
                # A transaction of these blocks is stored in another one too, which then is wrong as well.
                detail = f"blocks {first} to {last} are healed with others that are not final yet: {error.detail}"
                await self.incident("heal_waits", f"block {first}", detail, [first, last])
                result.unproven.append(BlockRange(first, last))
                result.reasons.append(ProofFailure("", first, "heal", detail))
                continue
            log.warning("healed", first=first, last=last, differences=len(wrong), cause=cause)
            result.healed.append(BlockRange(first, last))
            result.blamed += blames

    async def _served_by(self, proof: Proof, said: Sequence[Log], true: Sequence[Log]) -> list[EndpointFault]:
        contracts = sorted((await coverage.contract_ids(self.conn, proof.segment.addresses)).values())
        blames = []
        for block, index, what in diff_logs(said, true):
            sources = await provenance.serving_endpoints(self.conn, contracts, block, block)
            endpoint = sources[-1].endpoint if sources else "unknown"
            blames.append(
                EndpointFault(endpoint, "served", block, index, what, proof.by.get(block, proof.endpoints[0]))
            )
        return blames


def _differences(proof: Proof) -> list[LogDifference]:
    """Of the proven blocks."""

    def among(logs: Sequence[Log]) -> list[Log]:
        return [g for g in logs if g.block_number not in proof.unproven]

    stored = {a.number: (a.hash, a.timestamp) for a in proof.stored.anchors if a.number not in proof.unproven}
    headers = [s.header for s in proof.headers if s.header.number in stored]
    return differences(stored, among(proof.stored.logs), headers, among(proof.logs))
