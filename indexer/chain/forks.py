"""Fork detection: a head compared with what is stored, and the search for the fork point.

Pure: `compare_head` tells a fork from a lagging node by hash. `ForkSearch` names the blocks to compare and is given
their hashes. Blocks are chained by their parents, so the lower stored blocks are common and the higher ones are not:
the search gallops down from the top, then splits the interval. The blocks of one round fit into one batch; a fork one
block deep takes one round, a window of 20,000 blocks four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from indexer.chain.types import BlockRef, Header

_SPLIT = 16  # Blocks compared per round once the interval is known.


class ForkSearchOutcome(Enum):
    """Outcome of a fork search.

    COMMON: `fork` is the highest common block. BELOW_RETAINED: not even the lowest stored block is on the node's chain.
    INCONCLUSIVE: the node's answers contradict each other or are missing; nothing is concluded from them.
    """

    COMMON = "common"
    BELOW_RETAINED = "below retained"
    INCONCLUSIVE = "inconclusive"


class ForkSearch:
    """Search for the highest of the stored `refs` that is on the node's chain.

    `refs` ascend by number, none above the node's head. Alternate `ask` and `tell` until there is an outcome.
    """

    def __init__(self, refs: Sequence[BlockRef]) -> None:
        self._refs = refs
        self._index = {ref.number: i for i, ref in enumerate(refs)}
        self._common = -1  # Index of the highest block known to be common.
        self._differing = len(refs)  # Index of the lowest block known to differ.
        self.outcome: ForkSearchOutcome | None = None if refs else ForkSearchOutcome.BELOW_RETAINED

    @property
    def fork(self) -> BlockRef:
        """The fork point; only when the outcome is COMMON."""
        assert self.outcome is ForkSearchOutcome.COMMON
        return self._refs[self._common]

    def ask(self) -> list[int]:
        """Return the numbers of the blocks to compare next, highest first; empty once there is an outcome."""
        if self.outcome is not None:
            return []
        if self._common < 0:
            step, wanted = 1, []
            while self._differing - step > 0:
                wanted.append(self._differing - step)
                step *= 2
            wanted.append(0)
        else:
            width = self._differing - self._common
            wanted = sorted(
                {self._common + width * k // _SPLIT for k in range(1, _SPLIT)} - {self._common}, reverse=True
            )
        return [self._refs[i].number for i in wanted]

    def tell(self, hashes: Mapping[int, bytes | None]) -> None:
        """Take the hashes of the requested blocks; None for a block that the node does not have."""
        for number in sorted(hashes):
            index, answer = self._index[number], hashes[number]
            if answer is None:
                self.outcome = ForkSearchOutcome.INCONCLUSIVE
                return
            if answer != self._refs[index].hash:
                self._differing = min(self._differing, index)
            elif index > self._differing:
                # A common block above a differing one: the node changed its chain between two answers.
                self.outcome = ForkSearchOutcome.INCONCLUSIVE
                return
            else:
                self._common = max(self._common, index)
        if self._differing == 0:
            self.outcome = ForkSearchOutcome.BELOW_RETAINED
        elif self._common >= 0 and self._differing == self._common + 1:
            self.outcome = ForkSearchOutcome.COMMON


class HeadRelation(Enum):
    """How an endpoint's head relates to the stored tip.

    EVEN: the head is the stored tip. AHEAD: there is more to read; whether it joins the stored chain shows when it is
    read. BEHIND: a lagging node, or the same chain seen earlier. FORK: a stored block is not on the node's chain.
    """

    EVEN = "even"
    AHEAD = "ahead"
    BEHIND = "behind"
    FORK = "fork"


def compare_head(tip: BlockRef | None, head: Header, stored_at_head: bytes | None) -> HeadRelation:
    """Compare an endpoint's head with the stored tip.

    `stored_at_head` is the hash stored for the head's number, None if that block is not stored. A head that goes back
    is a lagging node until a hash proves a fork: only a differing hash does.
    """
    if tip is None or head.number > tip.number:
        return HeadRelation.AHEAD
    if stored_at_head is not None and stored_at_head != head.hash:
        return HeadRelation.FORK
    return HeadRelation.EVEN if head.number == tip.number else HeadRelation.BEHIND


class ClaimKind(Enum):
    """How an endpoint's chain relates to the stored chain.

    FORK: they part above the floor. SAME: nothing stored is denied. DEEP: they part below the floor. LAGGING: its head
    is below the floor. UNCLEAR: no answer, or a torn one.
    """

    FORK = "fork"
    SAME = "same"
    DEEP = "deep"
    LAGGING = "lagging"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class ForkClaim:
    """One endpoint's answer to the fork search.

    `fork` is set for FORK and SAME; `head` is the endpoint's latest block. `behind`: that head is below a block known
    to be final, so whatever the endpoint denies is its own lag: a node stuck on an orphaned branch.
    """

    endpoint: str
    kind: ClaimKind
    fork: BlockRef | None = None
    head: BlockRef | None = None
    detail: str = ""
    behind: bool = False
