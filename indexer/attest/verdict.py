"""Verdicts on stored logs: which are attested, which are healed, which keep their grade, who was wrong. Pure.

Headers and receipts decide, whoever serves them; another endpoint's logs only ever confirm the stored ones. Nothing is
healed, and no endpoint is at fault, unless logs differ and headers prove which ones are right: a root that does not
match while the logs do is a problem of the endpoint that served the receipts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from indexer.attest.evidence import CrossCheck, LogDifference, Proof, StoredRange, ranges_without
from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.log_set import LogFault, diff_logs
from indexer.chain.ranges import BlockRange, ContractRange, merge_ranges
from indexer.chain.types import Log
from indexer.ingest.proof_rules import ProofFailure

if TYPE_CHECKING:
    from indexer.store.attestations import Grade


class NoAnchor(NamedTuple):
    """Evidence of nothing: no block of the contract range is stored, to which headers could be chained."""

    segment: ContractRange


class BlockedHeal(NamedTuple):
    """Evidence that a heal of blocks first..last must wait: one of their transactions is also stored elsewhere."""

    first: int
    last: int
    detail: str


class Attestable(NamedTuple):
    """The runs of blocks whose stored logs are right, and on whose word. `hashes`: known ones, by block."""

    grade: Grade
    runs: list[BlockRange]
    stored: StoredRange
    hashes: dict[int, bytes]
    endpoints: list[str]


class Correction(NamedTuple):
    """Stored logs that are proven wrong.

    `batch`: every header of the blocks and their true logs. `wrong`: the blocks that differ, once per difference.
    `faults`: of whoever served the stored logs. `logs`: the stored and the true ones. `provers`: who proved the wrong
    blocks.
    """

    batch: LogBatch
    wrong: list[int]
    faults: list[LogFault]
    logs: list[Log]
    provers: dict[int, str]


class IncidentReport(NamedTuple):
    """What an operator should know: the kind of incident (the runbook has an entry), what it is about, and where."""

    kind: str
    subject: str
    detail: str
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from evidence about `blocks`.

    `attestable`: what is to be attested; None if nothing is now. `corrections`: what is to be healed. `unproven`: what
    keeps its grade, for the given `reasons`. `differences`: how the stored logs differ from the proven ones. `proved`:
    endpoints that proved everything they were asked for. `faults`: the logs that the endpoint `asked` has wrong.
    """

    blocks: BlockRange
    attestable: Attestable | None = None
    corrections: Sequence[Correction] = ()
    unproven: Sequence[BlockRange] = ()
    reasons: Sequence[ProofFailure] = ()
    differences: Sequence[LogDifference] = ()
    proved: frozenset[str] = frozenset()
    asked: str = ""
    faults: Sequence[LogFault] = ()
    incidents: Sequence[IncidentReport] = ()


def decide(evidence: Proof | CrossCheck | NoAnchor | BlockedHeal) -> Verdict:
    """Return what follows from the evidence: which grade, what to heal, whom to blame.

    How many endpoints must agree, and which answers say nothing about logs, is in `evidence.CrossCheck`.
    """
    match evidence:
        case Proof():
            return _by_proof(evidence)
        case CrossCheck(dispute=None, confirmed=True):
            return _by_agreement(evidence)
        case CrossCheck(dispute=None):
            return _by_failures(evidence)
        case CrossCheck():
            return _by_dispute(evidence)
        case NoAnchor(segment):
            blocks, detail = BlockRange(segment.first, segment.last), f"no stored block from {segment.first} on"
            reason = ProofFailure("", segment.first, "no anchor", f"{detail} to chain headers to")
            return Verdict(blocks, unproven=[blocks], reasons=[reason])
        case BlockedHeal(first, last):
            detail = f"blocks {first} to {last} are healed with others that are not final yet: {evidence.detail}"
            incident = IncidentReport("heal_waits", f"block {first}", detail, [first, last])
            blocks, reason = BlockRange(first, last), ProofFailure("", first, "heal", detail)
            return Verdict(blocks, unproven=[blocks], reasons=[reason], incidents=[incident])


def _by_proof(proof: Proof) -> Verdict:
    """Where proven logs differ, heal and attest nothing: a heal starts a new epoch, and the rest is attested then."""
    found = proof.differences()
    failing = {f.endpoint for f in proof.failures}
    runs = [BlockRange(run.first, run.last) for run in proof.proven()]
    return Verdict(
        BlockRange(proof.segment.first, proof.segment.last),
        None if found else Attestable("proven", runs, proof.stored, proof.hashes, proof.endpoints),
        _corrections(proof, found),
        merge_ranges(BlockRange(number, number) for number in proof.unproven),
        [f for f in proof.failures if f.block in proof.unproven],
        found,
        frozenset() if found else frozenset(proof.endpoints) - failing,
        incidents=unprovable(proof.failures),
    )


def _corrections(proof: Proof, found: Sequence[LogDifference]) -> list[Correction]:
    """Return what replaces the wrong logs: for each proven run, the blocks from the first wrong one to the last."""
    headers, corrections = {h.number: h for h in proof.headers}, []
    for run in proof.proven():
        wrong = [d.block for d in found if run.first <= d.block <= run.last]
        if not wrong:
            continue
        first, last = min(wrong), max(wrong)
        true, stored = (
            [g for g in logs if first <= g.block_number <= last] for logs in (proof.logs, proof.stored.logs)
        )
        blocks = [headers[n] for n in range(first, last + 1)]
        sources = (ServedRange(first, last, proof.prover(first)),)
        batch = LogBatch(first, last, run.addresses, true, blocks, sources)
        provers = {n: proof.prover(n) for n in wrong}
        corrections.append(Correction(batch, wrong, diff_logs(stored, true), [*stored, *true], provers))
    return corrections


def _by_agreement(check: CrossCheck) -> Verdict:
    """Attest what enough endpoints agree on."""
    blocks = BlockRange(check.segment.first, check.segment.last)
    return Verdict(blocks, _cross_checked(check, [blocks], check.agreeing), proved=frozenset(check.agreeing))


def _by_failures(check: CrossCheck) -> Verdict:
    """Attest nothing where no answer can be compared: the endpoint is on another chain, or unreadable."""
    first, last = check.segment.first, check.segment.first if check.unreadable else check.segment.last
    blocks = BlockRange(first, last)
    return Verdict(blocks, unproven=[blocks], reasons=check.failures, incidents=unprovable(check.failures))


def _by_dispute(check: CrossCheck) -> Verdict:
    """Attest what both endpoints have; where they differ, blame the asked one only if the stored logs are proven."""
    dispute, first, last = check.dispute, check.segment.first, check.segment.last
    assert dispute is not None
    disputed = {d.block for d in dispute.differences}
    right = {n for n in disputed if any(run.first <= n <= run.last for run in check.right)}
    faults = [
        fault
        for fault in diff_logs(dispute.read, dispute.stored.logs)
        if any(run.first <= fault.block <= run.last for run in check.right)
    ]
    open_, reasons, incidents = sorted(disputed - right - check.wrong), [], []
    if open_:
        detail = f"{dispute.endpoint} has other logs than stored in block {open_[0]}, and no receipts decide"
        reasons = [ProofFailure(dispute.endpoint, open_[0], "disagrees", detail)]
        incidents = [IncidentReport("endpoints_disagree", dispute.endpoint, detail, open_)]
    runs = [BlockRange(run.first, run.last) for run in ranges_without(check.segment, disputed)]
    return Verdict(
        BlockRange(first, last), _cross_checked(check, runs, [dispute.endpoint]),
        unproven=[BlockRange(number, number) for number in open_], reasons=reasons, asked=dispute.endpoint,
        faults=faults, incidents=incidents,
    )  # fmt: skip


def _cross_checked(check: CrossCheck, runs: list[BlockRange], endpoints: Sequence[str]) -> Attestable:
    assert check.newest is not None
    stored = check.newest.stored
    return Attestable("cross-checked", runs, stored, stored.hashes, [*check.servers, *endpoints])


def unprovable(failures: Sequence[ProofFailure]) -> list[IncidentReport]:
    """Return why endpoints could not prove blocks: one incident for each endpoint and reason."""
    by_subject: dict[str, list[ProofFailure]] = defaultdict(list)
    for failure in failures:
        by_subject[f"{failure.endpoint}: {failure.why}"].append(failure)
    return [
        IncidentReport("unprovable", subject, group[0].detail, [f.block for f in group])
        for subject, group in by_subject.items()
    ]
