"""The backlog of blocks to attest, worked off piece by piece. It remembers what is attested and what was skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from indexer.attest.attester import Attester, AttestResult
from indexer.chain.ranges import BlockRange, ContractRange, RangeSet, covered_ranges
from indexer.store import attestations, incidents
from indexer.store.attestations import ANY, PROVEN, Grade
from indexer.store.index_state import IndexState


class Backlog:
    """The blocks that still lack one grade, for the deployment's contracts.

    With `again`, earlier attestations do not count.
    """

    def __init__(self, attester: Attester, grade: Grade, *, again: bool = False) -> None:
        self.attester, self.grade, self.ignore_previous = attester, grade, again
        self.addresses = [c.address for c in attester.deployment.contracts]
        self._attested = {a: RangeSet() for a in self.addresses}
        self._settled = {a: RangeSet() for a in self.addresses}  # Attested, or skipped.
        self._newest_void: int | None = None
        self._healed: set[BlockRange] = set()

    async def refresh(self) -> None:
        """Load the valid attestations again if any was voided since the last load.

        New attestations of other processes alone cause no load; they are read with the next one.
        """
        conn = self.attester.conn
        newest = await attestations.newest_void(conn)
        if newest != self._newest_void and not self.ignore_previous:
            grades = PROVEN if self.grade == "proven" else ANY
            loaded = await attestations.load(conn, self.addresses, grades)
            self._attested = {address: RangeSet(spans) for address, spans in loaded.items()}
            self.try_again()
        self._newest_void = newest

    def try_again(self) -> None:
        """Forget everything that was skipped."""
        self._settled = {address: RangeSet(spans) for address, spans in self._attested.items()}

    def remaining(self, state: IndexState, first: int, last: int) -> Iterator[ContractRange]:
        """Yield the ingested parts of first..last that are neither attested nor skipped, in chain order."""
        for part in covered_ranges(state.coverage, first, last):
            at = part.first
            while (gap := self._gap(part, at)) is not None:
                yield gap
                at = gap.last + 1

    def _gap(self, part: ContractRange, at: int) -> ContractRange | None:
        """Return the first blocks from `at` on that the same contracts lack; None if there are none."""
        gaps = {a: next(self._settled[a].gaps(at, part.last), None) for a in part.addresses}
        open_ = {a: gap for a, gap in gaps.items() if gap is not None}
        if not open_:
            return None
        first = min(gap.first for gap in open_.values())
        ends = [gap.last if gap.first == first else gap.first - 1 for gap in open_.values()]
        return ContractRange(first, min(ends), tuple(sorted(a for a, gap in open_.items() if gap.first == first)))

    def extent(self, origin: int) -> tuple[int, int]:
        """Return the last block attested without a gap from the origin, and the end of the newest attested range."""
        gaps = [next(spans.gaps(origin, 2**62)) for spans in self._attested.values()]
        return min(gap.first for gap in gaps) - 1, min(spans.end for spans in self._attested.values())

    def mark_attested(self, spans: Iterable[BlockRange], addresses: Sequence[str]) -> None:
        """Record block ranges as attested, by this backlog or with a better grade."""
        for span in spans:
            for address in addresses:
                self._attested[address].add(span)
                self._settled[address].add(span)

    def skip(self, spans: Iterable[BlockRange]) -> None:
        """Leave out block ranges that could not be attested, until `try_again`."""
        for span in spans:
            for settled in self._settled.values():
                settled.add(span)

    async def step(self, state: IndexState, segment: ContractRange) -> AttestResult:
        """Attest one piece from the beginning of a contract range. Raises what Attester raises."""
        if self.grade == "proven":
            result = await self.attester.prove(state, segment, again=self.ignore_previous)
        else:
            result = await self.attester.cross_check(state, segment)
        self.mark_attested(result.attested, segment.addresses)
        if result.proved:
            await self._resolve(result)
        # Skip blocks that keep their grade, and blocks that still differ after a heal or must not be healed. Otherwise
        # they would be tried forever.
        self.skip(result.unproven)
        if result.differences and not result.healed:
            self.skip([BlockRange(result.first, result.last)])
        self.skip(span for span in result.healed if span in self._healed)
        self._healed |= set(result.healed)
        return result

    async def _resolve(self, result: AttestResult) -> None:
        """Resolve incidents of endpoints that once could not prove such blocks and now did, if all are attested."""
        conn, blocks = self.attester.conn, BlockRange(result.first, result.last)
        for number, touched in await incidents.open_about(conn, "unprovable", blocks, result.proved):
            if not any(next(spans.gaps(*touched), None) for spans in self._attested.values()):
                await incidents.resolve_one(conn, number)
