"""What the follower does next: (state, observation) -> action. Pure, so that every history of heads, forks, lies and
silences can be played against it without a node or a database.

Of a fork it believes one endpoint as far as rows can be taken back. A claim that reaches deeper is put to every
endpoint: if one of them still serves the stored chain, the others are set aside; if none does, the follower halts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from indexer.chain.forks import Claim, Finding, Relation, relate
from indexer.chain.ranges import Segment
from indexer.chain.types import Anchor, Header


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
class Seen:
    """A look at one endpoint's head, beside where the database stands. `at_head`: the hash stored for its number.

    `segments`: what coverage lacks. `stale`: the public tables were projected with other contracts, ABIs or origin.
    `unconfirmed`: the stored block at the front, when rows are to be projected up to it and this look did not yet find
    it on the chain.
    """

    head: Header
    at_head: bytes | None
    tip: Anchor | None
    checkpoint: int
    front: int
    floor: int
    holder: bool
    stale: bool
    unconfirmed: Anchor | None
    segments: tuple[Segment, ...]


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

    claims: tuple[Claim, ...]
    everyone: bool


@dataclass(frozen=True, slots=True)
class Unserved:
    """Blocks first..last of the replacement were not served in a form that can be believed."""

    first: int
    last: int
    why: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """A swap was committed, or another process came first: look again."""


Observation = Seen | Paused | Conflict | Claims | Unserved | Replaced


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until the next look; `reason` names a wait, "" when everything known is done."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Look at the head again at once."""


@dataclass(frozen=True, slots=True)
class Project:
    last: int


@dataclass(frozen=True, slots=True)
class ProjectAgain:
    last: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Compare the stored block with the chain before what was stored up to it is projected: it may have been reorged
    away while nobody looked, and what counts as final now would put orphaned rows below the floor for good."""

    block: Anchor


@dataclass(frozen=True, slots=True)
class Ingest:
    segment: Segment


@dataclass(frozen=True, slots=True)
class Search:
    everyone: bool
    cause: str


@dataclass(frozen=True, slots=True)
class Replace:
    claim: Claim
    cause: str


@dataclass(frozen=True, slots=True)
class SetAside:
    endpoints: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    reason: str
    remedy: str


Action = Rest | Look | Project | ProjectAgain | Confirm | Ingest | Search | Replace | SetAside | Halt


class Follower:
    """One process's follower. What it remembers between observations is only why it searches, so that a restart, which
    forgets that, merely looks again."""

    def __init__(self) -> None:
        self.mode = Mode.FOLLOWING
        self._cause = ""
        self._conflict: int | None = None
        self._floor = -1
        self._tip: Anchor | None = None
        self._holder = False

    def observe(self, seen: Observation) -> Action:
        """The next action."""
        match seen:
            case Paused(by):
                self.mode = Mode.PAUSED
                return Rest(f"paused: {by}")
            case Seen():
                return self._seen(seen)
            case Conflict(number, why):
                return self._search(why, number)
            case Claims(claims, everyone):
                return self._judge(claims, everyone)
            case Unserved(first, last, why):
                self.mode = Mode.WAITING
                return Rest(f"a replacement of blocks {first} to {last} that an endpoint serves: {why}")
            case Replaced():
                self.mode = Mode.FOLLOWING
                return Look()

    def _seen(self, s: Seen) -> Action:
        self._floor, self._tip, self._holder = s.floor, s.tip, s.holder
        if relate(s.tip, s.head, s.at_head) is Relation.FORK:
            return self._search("the head is not on the stored chain", s.head.number)
        self.mode = Mode.FOLLOWING if s.holder else Mode.STANDBY
        self._conflict = None
        # What was projected before stays readable until the past of a new contract is there.
        if s.holder and (s.front >= s.checkpoint if s.stale else s.front > s.checkpoint):
            # What is stored may have been reorged away, also while blocks below it were ingested that did not join it.
            if s.unconfirmed is not None and s.unconfirmed.number > s.floor:
                return Confirm(s.unconfirmed)
            return ProjectAgain(s.front) if s.stale else Project(s.front)
        return Ingest(s.segments[0]) if s.segments else Rest()

    def _search(self, cause: str, number: int) -> Action:
        if not self._holder or self._tip is None:
            # Rows change only by the holder's hand; it finds the same fork.
            self.mode = Mode.STANDBY
            return Rest()
        self.mode, self._cause, self._conflict = Mode.SEARCHING, cause, number
        return Search(False, cause)

    def _judge(self, claims: Sequence[Claim], everyone: bool) -> Action:
        of = {finding: [c for c in claims if c.finding is finding] for finding in Finding}
        if not everyone:
            return Replace(of[Finding.FORK][0], self._cause) if of[Finding.FORK] else Search(True, self._cause)
        if of[Finding.DEEP] and (of[Finding.FORK] or of[Finding.SAME]):
            self.mode = Mode.FOLLOWING
            return SetAside(
                tuple(c.endpoint for c in of[Finding.DEEP]),
                f"alone serves another chain below block {max(self._floor, 0)}",
            )
        if of[Finding.FORK]:
            return Replace(of[Finding.FORK][0], self._cause)
        deep = [c for c in of[Finding.DEEP] if not c.behind]
        if deep:
            return self._halt(
                f"{deep[0].endpoint} serves another chain than the stored one, from block {max(self._floor, 0)} down",
                "Nothing was deleted. Compare it with another endpoint; if the chain really changed below finalized,"
                " `reya-indexer reorg plan` shows what a recovery would do",
            )
        if of[Finding.SAME] and self._conflict is not None and self._conflict <= self._floor:
            return self._halt(
                f"block {self._conflict} is stored with a hash that the chain does not have, below finalized",
                "Nothing was changed. `reya-indexer reorg verify --heal` compares the stored range and repairs it",
            )
        self.mode = Mode.WAITING
        why = "; ".join(c.detail for c in claims if c.detail) or self._cause
        return Rest(f"endpoints that agree with themselves: {why}")

    def _halt(self, reason: str, remedy: str) -> Halt:
        self.mode = Mode.HALTED
        return Halt(reason, remedy)
