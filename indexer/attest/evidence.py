"""Evidence about stored logs: what is stored, what other endpoints have, what headers and receipts prove. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from indexer.chain.ranges import BlockRange, ContractRange
from indexer.chain.types import BlockRef, Header, Log
from indexer.ingest.proof_rules import ProofFailure


class LogDifference(NamedTuple):
    """A way in which block `block` is not stored as it is on the chain.

    `what` is "hash", "time", "no row", "missing log", "foreign log" or "changed log"; the last three have a
    `log_index`.
    """

    block: int
    what: str
    log_index: int | None = None


class StoredRange(NamedTuple):
    """The stored part of a contract range: its block refs, and the logs of its contracts, both ascending."""

    segment: ContractRange
    block_refs: list[BlockRef]
    logs: list[Log]

    @property
    def hashes(self) -> dict[int, bytes]:
        """Hashes of the stored blocks, by number."""
        return {r.number: r.hash for r in self.block_refs}


class Comparison(NamedTuple):
    """What is stored of a contract range, and the logs that one endpoint has there (`read`)."""

    stored: StoredRange
    endpoint: str
    read: list[Log]
    differences: list[LogDifference]

    @property
    def segment(self) -> ContractRange:
        """The contract range that was compared."""
        return self.stored.segment


@dataclass(slots=True)
class Proof:
    """The proof of a contract range: its headers, ascending, and the contracts' logs in all but the `unproven` blocks.

    `headers` lacks the blocks whose header nobody gives so that it leads to the stored chain; they are unproven.
    """

    stored: StoredRange
    headers: list[Header] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    unproven: set[int] = field(default_factory=set)
    failures: list[ProofFailure] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    # The endpoint whose receipts proved a block. All other blocks were proven by their headers.
    prover_by_block: dict[int, str] = field(default_factory=dict)

    @property
    def segment(self) -> ContractRange:
        """The contract range that was to be proven."""
        return self.stored.segment

    @property
    def hashes(self) -> dict[int, bytes]:
        """Hashes of the stored blocks and of the proven headers, by number."""
        return self.stored.hashes | {h.number: h.hash for h in self.headers}

    def proven(self) -> list[ContractRange]:
        """Return the runs of proven blocks."""
        return ranges_without(self.segment, self.unproven)

    def prover(self, block: int) -> str:
        """Return the endpoint that proved a block."""
        return self.prover_by_block.get(block, self.endpoints[0])

    def differences(self) -> list[LogDifference]:
        """Return the differences between the stored and the proven logs, in proven blocks only.

        There are none without headers: then the stored logs themselves were proven before.
        """
        if not self.headers:
            return []

        def proven(logs: Sequence[Log]) -> list[Log]:
            return [g for g in logs if g.block_number not in self.unproven]

        refs = [r for r in self.stored.block_refs if r.number not in self.unproven]
        numbers = {r.number for r in refs}
        headers = [h for h in self.headers if h.number in numbers]
        return differences(refs, proven(self.stored.logs), headers, proven(self.logs))


@dataclass(slots=True)
class CrossCheck:
    """What endpoints that did not serve the stored logs say about the first part of a contract range.

    `servers`: who served them; empty if nothing says who. `segment`: the part that everybody was asked about.
    `agreeing`: who has the same logs. `failures`: why answers say nothing about the logs. `newest`: the last answer
    that says something. `right`, `wrong`: blocks whose stored logs headers and receipts proved right, or wrong, after
    an endpoint had other ones.
    """

    segment: ContractRange
    servers: list[str]
    agreeing: list[str] = field(default_factory=list)
    failures: list[ProofFailure] = field(default_factory=list)
    unreadable: bool = False  # Only the first block is known to be so; the rest is left to the next part.
    newest: Comparison | None = None
    right: list[BlockRange] = field(default_factory=list)
    wrong: set[int] = field(default_factory=set)

    @property
    def confirmed(self) -> bool:
        """Whether enough endpoints agree: one, or two where no serving endpoint is stored for the logs."""
        return len(self.agreeing) >= (1 if self.servers else 2)

    @property
    def dispute(self) -> Comparison | None:
        """The answer of an endpoint that has other logs of the same blocks."""
        return self.newest if self.newest is not None and self.newest.differences else None

    def add(self, answer: Comparison | ProofFailure) -> None:
        """Add the answer of one more endpoint, or why its answer is unreadable."""
        if isinstance(answer, ProofFailure):
            self.failures.append(answer)
            self.unreadable = True
            return
        self.segment = answer.segment
        other = next((d for d in answer.differences if d.what == "hash"), None)
        if other is not None:
            detail = f"block {other.block} is stored with another hash; `reya-indexer reorg verify` compares them"
            self.failures.append(ProofFailure(answer.endpoint, other.block, "chain", detail))
            return
        self.newest = answer
        if not answer.differences:
            self.agreeing.append(answer.endpoint)


def differences(
    stored_blocks: Iterable[BlockRef], stored: Iterable[Log], headers: Iterable[Header], logs: Iterable[Log]
) -> list[LogDifference]:
    """Return the differences between stored and served blocks and logs, ascending by block.

    Args:
        stored_blocks: Every stored block.
        stored: The stored logs.
        headers: The chain's headers, one for every stored block.
        logs: The logs that the endpoint has.
    """
    found: list[LogDifference] = []
    refs = {r.number: r for r in stored_blocks}
    for header in headers:
        ref = refs[header.number]
        if ref.hash != header.hash:
            found.append(LogDifference(header.number, "hash"))
        elif ref.timestamp != header.timestamp:
            found.append(LogDifference(header.number, "time"))
    local = {g.identity: g for g in stored}
    remote = {g.identity: g for g in logs}
    found += [LogDifference(n, "no row") for n in sorted({n for n, _ in {*remote, *local}} - set(refs))]
    found += [LogDifference(n, "missing log", i) for n, i in remote.keys() - local.keys()]
    found += [LogDifference(n, "foreign log", i) for n, i in local.keys() - remote.keys()]
    # Block hashes and times were compared above; only the log's own content remains.
    found += [
        LogDifference(n, "changed log", i)
        for (n, i), g in remote.items()
        if (n, i) in local and local[n, i].content != g.content
    ]
    return sorted(found, key=lambda d: (d.block, d.log_index or 0, d.what))


def ranges_without(segment: ContractRange, without: Iterable[int]) -> list[ContractRange]:
    """Return the parts of a contract range between the blocks `without`, which are left out."""
    edges = [segment.first - 1, *sorted(n for n in without if segment.first <= n <= segment.last), segment.last + 1]
    return [ContractRange(a + 1, b - 1, segment.addresses) for a, b in pairwise(edges) if a + 1 < b]
