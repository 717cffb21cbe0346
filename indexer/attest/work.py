"""What is left to attest, and doing it piece by piece: it remembers what holds, and what could not be done."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.attest.attestor import Attestor, Result, todo
from indexer.attest.crosscheck import cross_check
from indexer.attest.proof import Complaint
from indexer.ingest.planner import Segment, Span
from indexer.store import attestations
from indexer.store.attestations import ANY, PROVEN, Attested, Grade
from indexer.store.standing import Standing


class Work:
    """Of one grade, for the deployment's contracts. `again`: what was attested before does not count."""

    def __init__(self, attestor: Attestor, grade: Grade, *, again: bool = False) -> None:
        self.attestor, self.grade, self.again = attestor, grade, again
        self.addresses = [c.address for c in attestor.deployment.contracts]
        self.aside: list[Span] = []  # what could not be done: not tried again until it is emptied
        self._held: dict[str, list[Span]] = {a: [] for a in self.addresses}
        self._mark: int | None = None
        self._healed: set[Span] = set()

    async def refresh(self) -> None:
        """Reads what holds, when that may have shrunk: attestations of other processes are seen at the next time."""
        conn = self.attestor.conn
        mark: int = await conn.fetchval("SELECT COALESCE(max(id), 0) FROM indexer.attestation WHERE grade = 'void'")
        if mark != self._mark and not self.again:
            grades = PROVEN if self.grade == "proven" else ANY
            self._held = await attestations.load(conn, self.addresses, grades)
        self._mark = mark

    def left(self, standing: Standing, first: int, last: int) -> list[Segment]:
        """What of first..last is neither held nor put aside."""
        return todo(standing, {a: attestations.joined([*s, *self.aside]) for a, s in self._held.items()}, first, last)

    def attested(self, origin: int) -> Attested:
        return attestations.summary(self._held, origin)

    def took(self, spans: Sequence[Span], addresses: Sequence[str]) -> None:
        """Notes what was attested, here or with a better grade."""
        for address in addresses:
            self._held[address] = attestations.joined([*self._held[address], *spans])

    async def step(self, standing: Standing, segment: Segment) -> Result:
        """One piece of what is left, from its beginning on. Raises what attesting raises."""
        if self.grade == "proven":
            result = await self.attestor.prove(standing, segment)
            if result is None:
                result = Result(segment.first, segment.last, kept=[Span(segment.first, segment.last)])
                detail = f"no stored block from {segment.first} on to chain headers to"
                result.left = [Complaint("", segment.first, "no anchor", detail)]
        else:
            result = await cross_check(self.attestor, standing, segment)
        self.took(result.attested, segment.addresses)
        self._put_aside(result)
        return result

    def _put_aside(self, result: Result) -> None:
        """What keeps its grade, and what differs after it was healed or must not be healed: or it would be for ever."""
        stuck = list(result.kept)
        if result.differences and not result.healed:
            stuck.append(Span(result.first, result.last))
        stuck += [span for span in result.healed if span in self._healed]
        self._healed |= set(result.healed)
        self.aside = attestations.joined([*self.aside, *stuck])
