"""What the follower does next: (state, observation) -> action. Pure, so that every history of heads, forks, lies and
silences can be played against it without a node or a database.

Of a fork it believes one endpoint as far as rows can be taken back. A claim that reaches deeper is put to every
endpoint: if one of them still serves the stored chain, the others are set aside; if none does, the follower halts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from indexer.chain.forks import ClaimKind, ForkClaim, HeadRelation, compare_head
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef, Header


class Mode(Enum):
    """STANDBY: another process projects. WAITING: for a replacement that nobody serves yet, or for endpoints that agree
    with themselves. HALTED: a person must decide. PAUSED: a recovery works."""

    FOLLOWING = "following"
    STANDBY = "standby"
    PAUSED = "paused"
    SEARCHING = "searching a fork point"
    WAITING = "waiting"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """A look at one endpoint's head, beside where the database stands. `at_head`: the hash stored for its number.

    `segments`: what coverage lacks. `stale`: the public tables were projected with other contracts, ABIs or origin.
    `unconfirmed`: the stored block at the front, when rows are to be projected up to it and this look did not yet find
    it on the chain.
    """

    head: Header
    at_head: bytes | None
    tip: BlockRef | None
    checkpoint: int
    contiguous_end: int
    floor: int
    holder: bool
    stale: bool
    unconfirmed: BlockRef | None
    ranges: tuple[ContractRange, ...]


@dataclass(frozen=True, slots=True)
class Paused:
    """A recovery asks for the lease."""

    by: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """What an endpoint served does not join what is stored around block `number`."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Claims:
    """Answers to a search; `everyone`: of all endpoints."""

    claims: tuple[ForkClaim, ...]
    everyone: bool


@dataclass(frozen=True, slots=True)
class ReplacementUnavailable:
    """Blocks first..last of the replacement were not served in a form that can be believed."""

    first: int
    last: int
    why: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A swap was committed, or another process came first: look again."""


Observation = HeadSeen | Paused | Conflict | Claims | ReplacementUnavailable | StateChanged


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until the next look; `reason` names a wait, "" when everything known is done."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Look at the head again at once."""


@dataclass(frozen=True, slots=True)
class Project:
    last: int


@dataclass(frozen=True, slots=True)
class Reproject:
    last: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Compare the stored block with the chain before what was stored up to it is projected: it may have been reorged
    away while nobody looked, and what counts as final now would put orphaned rows below the floor for good."""

    block: BlockRef


@dataclass(frozen=True, slots=True)
class Ingest:
    segment: ContractRange


@dataclass(frozen=True, slots=True)
class SearchFork:
    everyone: bool
    cause: str


@dataclass(frozen=True, slots=True)
class ReplaceFork:
    claim: ForkClaim
    cause: str


@dataclass(frozen=True, slots=True)
class SetEndpointsAside:
    endpoints: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    reason: str
    remedy: str


Action = Wait | Refresh | Project | Reproject | Confirm | Ingest | SearchFork | ReplaceFork | SetEndpointsAside | Halt


class Follower:
    """One process's follower. What it remembers between observations is only why it searches, so that a restart, which
    forgets that, merely looks again."""

    def __init__(self) -> None:
        self.mode = Mode.FOLLOWING
        self._cause = ""
        self._conflict: int | None = None
        self._floor = -1
        self._tip: BlockRef | None = None
        self._holder = False

    def observe(self, seen: Observation) -> Action:
        """The next action."""
        match seen:
            case Paused(by):
                self.mode = Mode.PAUSED
                return Wait(f"paused: {by}")
            case HeadSeen():
                return self._seen(seen)
            case Conflict(number, why):
                return self._search(why, number)
            case Claims(claims, everyone):
                return self._decide_on_claims(claims, everyone)
            case ReplacementUnavailable(first, last, why):
                self.mode = Mode.WAITING
                return Wait(f"a replacement of blocks {first} to {last} that an endpoint serves: {why}")
            case StateChanged():
                self.mode = Mode.FOLLOWING
                return Refresh()

    def _seen(self, s: HeadSeen) -> Action:
        self._floor, self._tip, self._holder = s.floor, s.tip, s.holder
        if compare_head(s.tip, s.head, s.at_head) is HeadRelation.FORK:
            return self._search("the head is not on the stored chain", s.head.number)
        self.mode = Mode.FOLLOWING if s.holder else Mode.STANDBY
        self._conflict = None
        # What was projected before stays readable until the past of a new contract is there.
        if s.holder and (s.contiguous_end >= s.checkpoint if s.stale else s.contiguous_end > s.checkpoint):
            # What is stored may have been reorged away, also while blocks below it were ingested that did not join it.
            if s.unconfirmed is not None and s.unconfirmed.number > s.floor:
                return Confirm(s.unconfirmed)
            return Reproject(s.contiguous_end) if s.stale else Project(s.contiguous_end)
        return Ingest(s.ranges[0]) if s.ranges else Wait()

    def _search(self, cause: str, number: int) -> Action:
        if not self._holder or self._tip is None:
            # Rows change only by the holder's hand; it finds the same fork.
            self.mode = Mode.STANDBY
            return Wait()
        self.mode, self._cause, self._conflict = Mode.SEARCHING, cause, number
        return SearchFork(False, cause)

    def _decide_on_claims(self, claims: Sequence[ForkClaim], everyone: bool) -> Action:
        of = {finding: [c for c in claims if c.kind is finding] for finding in ClaimKind}
        if not everyone:
            return (
                ReplaceFork(of[ClaimKind.FORK][0], self._cause) if of[ClaimKind.FORK] else SearchFork(True, self._cause)
            )
        if of[ClaimKind.DEEP] and (of[ClaimKind.FORK] or of[ClaimKind.SAME]):
            self.mode = Mode.FOLLOWING
            return SetEndpointsAside(
                tuple(c.endpoint for c in of[ClaimKind.DEEP]),
                f"alone serves another chain below block {max(self._floor, 0)}",
            )
        if of[ClaimKind.FORK]:
            return ReplaceFork(of[ClaimKind.FORK][0], self._cause)
        deep = [c for c in of[ClaimKind.DEEP] if not c.behind]
        if deep:
            return self._halt(
                f"{deep[0].endpoint} serves another chain than the stored one, from block {max(self._floor, 0)} down",
                "Nothing was deleted. Compare it with another endpoint; if the chain really changed below finalized,"
                " `reya-indexer reorg plan` shows what a recovery would do",
            )
        if of[ClaimKind.SAME] and self._conflict is not None and self._conflict <= self._floor:
            return self._halt(
                f"block {self._conflict} is stored with a hash that the chain does not have, below finalized",
                "Nothing was changed. `reya-indexer reorg verify --heal` compares the stored range and repairs it",
            )
        self.mode = Mode.WAITING
        why = "; ".join(c.detail for c in claims if c.detail) or self._cause
        return Wait(f"endpoints that agree with themselves: {why}")

    def _halt(self, reason: str, remedy: str) -> Halt:
        self.mode = Mode.HALTED
        return Halt(reason, remedy)
