"""State machine of the follower: (state, observation) -> action.

Pure, so that every history of heads, forks, lies and silences can be played against it without a node or a database.

One endpoint's word is enough for a fork above the rollback floor. A claim that reaches deeper is put to every endpoint:
if one of them still serves the stored chain, the others are set aside; if none does, the follower halts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from indexer.chain.forks import ClaimKind, ForkClaim, HeadRelation, compare_head
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef, Header


class Mode(Enum):
    """Mode of the follower.

    STANDBY: another process projects. WAITING: for a replacement that nobody serves yet, or for endpoints that do not
    contradict themselves. HALTED: a person must decide. PAUSED: a recovery is at work.
    """

    FOLLOWING = "following"
    STANDBY = "standby"
    PAUSED = "paused"
    SEARCHING = "searching a fork point"
    WAITING = "waiting"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """A look at one endpoint's head, together with the index state.

    Args:
        head: The head.
        at_head: Hash that is stored for the head's number, if any.
        tip: Highest stored block, if any.
        checkpoint: Last projected block; below the origin if there is none.
        contiguous_end: Last block up to which every contract is ingested.
        floor: Rollback floor.
        holder: Whether this process holds the lease.
        stale: Whether the public tables were projected with other contracts, ABIs or origin.
        unconfirmed: The stored block at the contiguous end, if rows are to be projected up to it and this look has not
            yet found it on the chain.
        ranges: Contract ranges that coverage lacks.
        wrong_from: The first block above the floor whose stored logs are proven to be wrong, if any.
        unproven_from: The first stored block that must not be projected before it is proven; only in strict mode.
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
    wrong_from: int | None = None
    unproven_from: int | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """A recovery requests the lease."""

    by: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """An endpoint's answer does not join what is stored around block `number`."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Claims:
    """Answers to a fork search. `everyone`: every endpoint was asked."""

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
    """A replacement was committed, or another process came first: look again."""


Observation = HeadSeen | Paused | Conflict | Claims | ReplacementUnavailable | StateChanged


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until the next look. `reason`: the name of a wait, "" when everything known is done."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Look at the head again at once."""


@dataclass(frozen=True, slots=True)
class Project:
    """Project stored blocks up to `last`."""

    last: int


@dataclass(frozen=True, slots=True)
class Reproject:
    """Project again from the origin up to `last`, because the public tables are stale."""

    last: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Compare the stored block with the chain before rows up to it are projected.

    It may have been reorged away while nobody looked, and what counts as final now would put orphaned rows below the
    floor for good.
    """

    block: BlockRef


@dataclass(frozen=True, slots=True)
class Ingest:
    """Ingest a contract range that coverage lacks."""

    contract_range: ContractRange


@dataclass(frozen=True, slots=True)
class HealHead:
    """Replace the stored blocks from `first` on with proven ones: their hashes are right, their logs are not."""

    first: int


@dataclass(frozen=True, slots=True)
class SearchFork:
    """Search the fork point, on one endpoint or on every one."""

    everyone: bool
    cause: str


@dataclass(frozen=True, slots=True)
class ReplaceFork:
    """Replace the stored blocks above the fork point that an endpoint claims."""

    claim: ForkClaim
    cause: str


@dataclass(frozen=True, slots=True)
class SetEndpointsAside:
    """Set endpoints aside that serve another chain below the floor."""

    endpoints: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop until a person decides; nothing was changed."""

    reason: str
    remedy: str


Action = (
    Wait | Refresh | Project | Reproject | Confirm | Ingest | HealHead
    | SearchFork | ReplaceFork | SetEndpointsAside | Halt
)  # fmt: skip


class Follower:
    """One process's follower.

    All that it remembers between observations is why it searches, so that a restart, which forgets that, merely looks
    again.
    """

    def __init__(self) -> None:
        self.mode = Mode.FOLLOWING
        self._cause = ""
        self._conflict: int | None = None
        self._floor = -1
        self._tip: BlockRef | None = None
        self._holder = False

    def observe(self, seen: Observation) -> Action:
        """Return the next action."""
        match seen:
            case Paused(by):
                self.mode = Mode.PAUSED
                return Wait(f"paused: {by}")
            case HeadSeen():
                return self._seen(seen)
            case Conflict(number, why):
                return self._search(why, number)
            case Claims(claims, everyone):
                return self._decide_on_claims(claims, everyone=everyone)
            case ReplacementUnavailable(first, last, why):
                self.mode = Mode.WAITING
                return Wait(f"a replacement of blocks {first} to {last} that an endpoint serves: {why}")
            case StateChanged():
                self.mode = Mode.FOLLOWING
                return Refresh()

    def _seen(self, seen: HeadSeen) -> Action:
        self._floor, self._tip, self._holder = seen.floor, seen.tip, seen.holder
        if compare_head(seen.tip, seen.head, seen.at_head) is HeadRelation.FORK:
            return self._search("the head is not on the stored chain", seen.head.number)
        self.mode = Mode.FOLLOWING if seen.holder else Mode.STANDBY
        self._conflict = None
        end = seen.contiguous_end if seen.unproven_from is None else min(seen.contiguous_end, seen.unproven_from - 1)
        # Rows that were projected before stay readable until the past of a new contract is ingested.
        if seen.holder and (end >= seen.checkpoint if seen.stale else end > seen.checkpoint):
            # Stored blocks may have been reorged away, even while blocks below that do not join them were ingested.
            if seen.unconfirmed is not None and seen.unconfirmed.number > seen.floor:
                return Confirm(seen.unconfirmed)
            return Reproject(end) if seen.stale else Project(end)
        if seen.holder and seen.wrong_from is not None and seen.wrong_from > seen.floor:
            return HealHead(seen.wrong_from)
        if seen.ranges:
            return Ingest(seen.ranges[0])
        if seen.holder and seen.unproven_from is not None:
            blocks = f"{seen.unproven_from} to {seen.contiguous_end}"
            return Wait(f"a proof of the stored blocks {blocks}: before_commit = true in [attest]")
        return Wait()

    def _search(self, cause: str, number: int) -> Action:
        if not self._holder or self._tip is None:
            # Only the lease holder changes rows, and it finds the same fork.
            self.mode = Mode.STANDBY
            return Wait()
        self.mode, self._cause, self._conflict = Mode.SEARCHING, cause, number
        return SearchFork(False, cause)

    def _decide_on_claims(self, claims: Sequence[ForkClaim], *, everyone: bool) -> Action:
        by_kind = {kind: [c for c in claims if c.kind is kind] for kind in ClaimKind}
        if not everyone:
            return (
                ReplaceFork(by_kind[ClaimKind.FORK][0], self._cause)
                if by_kind[ClaimKind.FORK]
                else SearchFork(True, self._cause)
            )
        if by_kind[ClaimKind.DEEP] and (by_kind[ClaimKind.FORK] or by_kind[ClaimKind.SAME]):
            self.mode = Mode.FOLLOWING
            return SetEndpointsAside(
                tuple(c.endpoint for c in by_kind[ClaimKind.DEEP]),
                f"alone serves another chain below block {max(self._floor, 0)}",
            )
        if by_kind[ClaimKind.FORK]:
            return ReplaceFork(by_kind[ClaimKind.FORK][0], self._cause)
        deep = [c for c in by_kind[ClaimKind.DEEP] if not c.behind]
        if deep:
            return self._halt(
                f"{deep[0].endpoint} serves another chain than the stored one, from block {max(self._floor, 0)} down",
                "Nothing was deleted. Compare it with another endpoint; if the chain really changed below finalized,"
                " `reya-indexer reorg plan` shows what a recovery would do",
            )
        if by_kind[ClaimKind.SAME] and self._conflict is not None and self._conflict <= self._floor:
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
