"""Attestation of contract ranges, one piece at a time, for the daemon's auditor and for `verify`.

A piece is attested, or healed, or keeps its grade for a reason that is stored. Nothing is healed and no endpoint is
blamed unless logs differ and headers prove which ones are right: a root that does not match while the logs do is a
problem of the endpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog

from indexer.attest.compare import LogDifference, StoredRange, differences, load_stored
from indexer.attest.proof import Proof, prove
from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.finality import FinalityTracker
from indexer.chain.log_set import diff_logs, digest
from indexer.chain.ranges import BlockRange, ContractRange, merge_ranges
from indexer.chain.types import Log
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.ingest.block_proof import YieldToFollower
from indexer.ingest.proof_rules import ProofFailure
from indexer.reorg.recovery import Recovery
from indexer.rpc.pool import Pool
from indexer.store import attestations, epoch, head_proofs, provenance
from indexer.store.attestations import METHODS, Attestation, Grade
from indexer.store.incidents import record
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault

PIECE = 500  # Blocks proven at once: this bounds memory, and the work lost to an interruption.

log = structlog.get_logger()


@dataclass(slots=True)
class AttestResult:
    """The result of attesting blocks `first`..`last`.

    The `unproven` blocks keep their grade, for the given `reasons`. The `healed` blocks differed and no longer do; they
    are attested on the next pass.
    """

    first: int
    last: int
    attested: list[BlockRange] = field(default_factory=list)
    unproven: list[BlockRange] = field(default_factory=list)
    reasons: list[ProofFailure] = field(default_factory=list)
    differences: list[LogDifference] = field(default_factory=list)
    healed: list[BlockRange] = field(default_factory=list)
    blamed: list[EndpointFault] = field(default_factory=list)
    proved: set[str] = field(default_factory=set)  # Endpoints that proved everything they were asked for.
    logs: int = 0

    def add(self, other: AttestResult) -> None:
        """Add the result of a part of these blocks."""
        for name in ("attested", "unproven", "reasons", "differences", "healed", "blamed"):
            getattr(self, name).extend(getattr(other, name))
        self.logs += other.logs


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
        self.deployment, self.pool, self.conn, self.heal = deployment, pool, conn, heal
        self.yield_to_follower, self._finality = yield_to_follower, finality

    async def prove(self, state: IndexState, segment: ContractRange, *, again: bool = False) -> AttestResult | None:
        """Prove the first piece of a contract range; None when no stored block is left in it to chain headers to.

        Blocks that were proven before they were final are not proven again unless `again` is set.

        Raises RpcError when no endpoint answers, EpochChangedError when something was rolled back or healed in the
        meantime, RefusedError when a heal could not acquire the lease.
        """
        piece = min(segment.last, segment.first + PIECE - 1)
        known = None if again else await head_proofs.first_run(self.conn, segment.first, piece, segment.addresses)
        if known is not None and known[0].first == segment.first:
            return await self._adopt(state, segment._replace(last=known[0].last), known[1])
        end = await self._end(segment if known is None else segment._replace(last=known[0].first - 1))
        if end is None and known is not None:
            end = known[0].first  # No header of the gap is stored: this one is, and they are chained to it.
        if end is None:
            return None
        proof = await prove(self.pool.ordered(), self.conn, segment._replace(last=end), self.yield_to_follower)
        result = AttestResult(segment.first, end, reasons=[f for f in proof.failures if f.block in proof.unproven])
        result.unproven = merge_ranges(BlockRange(number, number) for number in proof.unproven)
        result.differences = _differences(proof)
        await self.record_failures(proof.failures)
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
        result.proved = {*proof.endpoints} - {f.endpoint for f in proof.failures}
        return result

    async def _adopt(self, state: IndexState, segment: ContractRange, endpoints: Sequence[str]) -> AttestResult:
        """Attest blocks that were proven before they were final; nothing is requested, and `proved` stays empty."""
        stored, result = await load_stored(self.conn, segment), AttestResult(segment.first, segment.last)
        hashes = {r.number: r.hash for r in stored.block_refs}
        spans = [BlockRange(segment.first, segment.last)]
        await self.record_attestation(state, segment, spans, "proven", stored, hashes, endpoints, result)
        result.proved = {*endpoints}
        return result

    async def _end(self, segment: ContractRange) -> int | None:
        """Return the highest stored block of the first piece, or else the next stored one above it."""
        number: int | None = await self.conn.fetchval(
            "SELECT COALESCE((SELECT max(number) FROM indexer.block WHERE number BETWEEN $1 AND $2),"
            " (SELECT min(number) FROM indexer.block WHERE number BETWEEN $1 AND $3))",
            segment.first,
            min(segment.last, segment.first + PIECE - 1),
            segment.last,
        )
        return number

    async def record_attestation(
        self, state: IndexState, segment: ContractRange, spans: Sequence[BlockRange], grade: Grade,
        stored: StoredRange, hashes: Mapping[int, bytes], endpoints: Sequence[str], result: AttestResult,
    ) -> None:  # fmt: skip
        """Store the attested block ranges of a contract range, unless a rollback or heal happened in the meantime.

        Args:
            state: The index state that the attestation is based on; its epoch must still hold.
            segment: The contract range whose addresses are attested.
            spans: The block ranges to attest.
            grade: The grade to store.
            stored: The stored blocks and logs of the contract range.
            hashes: Hashes of the blocks that have a known one, by number.
            endpoints: The endpoints that were asked, in order; repeats are dropped.
            result: Where the attested block ranges and the number of their logs are added.

        Raises:
            EpochChangedError: Something was rolled back or healed since `state` was loaded.
        """
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
                if grade == "proven":
                    await head_proofs.forget(self.conn, *span)
        result.attested += spans

    async def record_failures(self, failures: Sequence[ProofFailure]) -> None:
        """Store why endpoints could not prove blocks: one incident for each endpoint and reason."""
        by_subject: dict[str, list[ProofFailure]] = defaultdict(list)
        for failure in failures:
            by_subject[f"{failure.endpoint}: {failure.why}"].append(failure)
        for subject, group in by_subject.items():
            await self.incident("unprovable", subject, group[0].detail, [f.block for f in group])

    async def incident(self, kind: str, subject: str, detail: str, blocks: Sequence[int]) -> None:
        """Open an incident, or count it again if it is open.

        Args:
            kind: The kind of incident; the runbook has an entry for each.
            subject: The endpoint, block or reason it is about.
            detail: One sentence for a person.
            blocks: Numbers of the blocks it affects, at least one.
        """
        log.warning(kind, subject=subject, detail=detail, blocks=len(blocks))
        row = {"kind": kind, "subject": subject, "detail": detail, "count": len(blocks)}
        await record(self.conn, [row | {"first_block": min(blocks), "last_block": max(blocks)}])

    async def _heal(self, proof: Proof, result: AttestResult) -> None:
        """Replace the stored logs with the proven ones, run by run, and store which endpoint was at fault."""
        headers = {s.header.number: s.header for s in proof.headers}
        for run in proof.proven():
            wrong = [d.block for d in result.differences if run.first <= d.block <= run.last]
            if not wrong:
                continue
            first, last = min(wrong), max(wrong)
            true, stored = (
                [g for g in logs if first <= g.block_number <= last] for logs in (proof.logs, proof.stored.logs)
            )
            blocks = [headers[n] for n in range(first, last + 1)]
            prover = proof.prover_by_block.get(first, proof.endpoints[0])
            batch = LogBatch(first, last, run.addresses, true, blocks, (ServedRange(first, last, prover),))
            provers = {n: proof.prover_by_block.get(n, proof.endpoints[0]) for n in wrong}
            faults = await provenance.faults_of_servers(self.conn, diff_logs(stored, true), [*stored, *true], provers)
            cause = f"attestation: {', '.join(sorted({f.endpoint for f in faults})) or 'a stored row'} was wrong"
            recovery = Recovery(self.deployment, self.pool, self.conn, self._finality)
            try:
                await recovery.heal(ContractRange(first, last, run.addresses), cause, batch, faults)
            except asyncpg.UniqueViolationError as error:
                # A transaction of these blocks is also stored in another block, which must then be wrong too.
                detail = f"blocks {first} to {last} are healed with others that are not final yet: {error.detail}"
                await self.incident("heal_waits", f"block {first}", detail, [first, last])
                result.unproven.append(BlockRange(first, last))
                result.reasons.append(ProofFailure("", first, "heal", detail))
                continue
            log.warning("healed", first=first, last=last, differences=len(wrong), cause=cause)
            result.healed.append(BlockRange(first, last))
            result.blamed += faults


def _differences(proof: Proof) -> list[LogDifference]:
    """Return the differences between the stored and the proven logs, in proven blocks only."""

    def proven(logs: Sequence[Log]) -> list[Log]:
        return [g for g in logs if g.block_number not in proof.unproven]

    stored = {r.number: (r.hash, r.timestamp) for r in proof.stored.block_refs if r.number not in proof.unproven}
    headers = [s.header for s in proof.headers if s.header.number in stored]
    return differences(stored, proven(proof.stored.logs), headers, proven(proof.logs))
