"""What is left to attest, and doing it piece by piece: it remembers what holds, and what could not be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from indexer.attest.attestor import Attester, AttestResult
from indexer.attest.cross_check import cross_check
from indexer.attest.proof import ProofFailure
from indexer.chain.ranges import BlockRange, ContractRange, RangeSet, covered_ranges
from indexer.store import attestations
from indexer.store.attestations import ANY, PROVEN, Grade
from indexer.store.index_state import IndexState


class Backlog:
    """Of one grade, for the deployment's contracts. `again`: what was attested before does not count."""

    def __init__(self, attestor: Attester, grade: Grade, *, again: bool = False) -> None:
        self.attestor, self.grade, self.ignore_previous = attestor, grade, again
        self.addresses = [c.address for c in attestor.deployment.contracts]
        self._held = {a: RangeSet() for a in self.addresses}
        self._settled = {a: RangeSet() for a in self.addresses}  # held, or put aside
        self._mark: int | None = None
        self._healed: set[BlockRange] = set()

    async def refresh(self) -> None:
        """Reads what holds, when that may have shrunk: attestations of other processes are seen at the next time."""
        conn = self.attestor.conn
        mark: int = await conn.fetchval("SELECT COALESCE(max(id), 0) FROM indexer.attestation WHERE grade = 'void'")
        if mark != self._mark and not self.ignore_previous:
            grades = PROVEN if self.grade == "proven" else ANY
            loaded = await attestations.load(conn, self.addresses, grades)
            self._held = {address: RangeSet(spans) for address, spans in loaded.items()}
            self.try_again()
        self._mark = mark

    def try_again(self) -> None:
        """Nothing is put aside any more."""
        self._settled = {address: RangeSet(spans) for address, spans in self._held.items()}

    def remaining(self, state: IndexState, first: int, last: int) -> Iterator[ContractRange]:
        """What of first..last is ingested and neither held nor put aside, in chain order."""
        for part in covered_ranges(state.coverage, first, last):
            at = part.first
            while (found := self._gap(part, at)) is not None:
                yield found
                at = found.last + 1

    def _gap(self, part: ContractRange, at: int) -> ContractRange | None:
        """The first blocks from `at` on that the same contracts lack."""
        gaps = {a: next(self._settled[a].gaps(at, part.last), None) for a in part.addresses}
        open_ = {a: gap for a, gap in gaps.items() if gap is not None}
        if not open_:
            return None
        first = min(gap.first for gap in open_.values())
        ends = [gap.last if gap.first == first else gap.first - 1 for gap in open_.values()]
        return ContractRange(first, min(ends), tuple(sorted(a for a, gap in open_.items() if gap.first == first)))

    def extent(self, origin: int) -> tuple[int, int]:
        """Attested without a gap from the origin up to which block, and the end of the newest attested range."""
        gaps = [next(spans.gaps(origin, 2**62)) for spans in self._held.values()]
        return min(gap.first for gap in gaps) - 1, min(spans.end for spans in self._held.values())

    def mark_attested(self, spans: Iterable[BlockRange], addresses: Sequence[str]) -> None:
        """Notes what was attested, here or with a better grade."""
        for span in spans:
            for address in addresses:
                self._held[address].add(span)
                self._settled[address].add(span)

    def skip(self, spans: Iterable[BlockRange]) -> None:
        """What could not be done is not tried again until `try_again`."""
        for span in spans:
            for settled in self._settled.values():
                settled.add(span)

    async def step(self, state: IndexState, segment: ContractRange) -> AttestResult:
        """One piece of what is left, from its beginning on. Raises what attesting raises."""
        if self.grade == "proven":
            result = await self.attestor.prove(state, segment)
            if result is None:
                result = AttestResult(segment.first, segment.last, unproven=[BlockRange(segment.first, segment.last)])
                detail = f"no stored block from {segment.first} on to chain headers to"
                result.reasons = [ProofFailure("", segment.first, "no anchor", detail)]
        else:
            result = await cross_check(self.attestor, state, segment)
        self.mark_attested(result.attested, segment.addresses)
        if result.proved:
            await self._resolve(result)
        # What keeps its grade, and what differs after it was healed or must not be healed: or it would be for ever.
        self.skip(result.unproven)
        if result.differences and not result.healed:
            self.skip([BlockRange(result.first, result.last)])
        self.skip(span for span in result.healed if span in self._healed)
        self._healed |= set(result.healed)
        return result

    async def _resolve(self, result: AttestResult) -> None:
        """Ends the incidents of endpoints that could not prove such blocks once and now did, when all are proven."""
        conn = self.attestor.conn
        open_ = await conn.fetch(
            "SELECT id, first_block, last_block FROM indexer.incident WHERE kind = 'unprovable' AND resolved_at IS NULL"
            " AND first_block <= $2 AND last_block >= $1"
            " AND EXISTS (SELECT FROM unnest($3::text[]) e WHERE starts_with(subject, e || ': '))",
            result.first,
            result.last,
            sorted(result.proved),
        )
        for id_, first, last in open_:
            if not any(next(held.gaps(first, last), None) for held in self._held.values()):
                await conn.execute("UPDATE indexer.incident SET resolved_at = clock_timestamp() WHERE id = $1", id_)
