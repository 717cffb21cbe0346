"""Where the stored chain and the node's chain part. Pure: says which blocks to compare, is told their hashes.

Blocks are chained by their parents, so of the stored anchors the lower ones are common and the higher ones are not:
the search gallops down from the top, then splits the interval. The blocks of one round fit one batch; a fork one
block deep takes one round, a window of 20,000 blocks four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from indexer.chain.types import BlockRef, Header

_SPLIT = 16  # blocks compared per round once the interval is known


class ForkSearchOutcome(Enum):
    """COMMON: `fork` is the highest common anchor. BELOW_RETAINED: not even the lowest anchor is on the node's chain.
    INCONCLUSIVE: the node's answers contradict each other or are missing; nothing is concluded from them."""

    COMMON = "common"
    BELOW_RETAINED = "below retained"
    INCONCLUSIVE = "inconclusive"


class ForkSearch:
    """`anchors` ascending by number, none above the node's head. Ask, tell, until there is an outcome."""

    def __init__(self, anchors: Sequence[BlockRef]) -> None:
        self._anchors = anchors
        self._index = {anchor.number: i for i, anchor in enumerate(anchors)}
        self._common = -1  # the highest anchor known to be common
        self._parted = len(anchors)  # the lowest anchor known not to be
        self.outcome: ForkSearchOutcome | None = None if anchors else ForkSearchOutcome.BELOW_RETAINED

    @property
    def fork(self) -> BlockRef:
        """The fork point; only when the outcome is COMMON."""
        assert self.outcome is ForkSearchOutcome.COMMON
        return self._anchors[self._common]

    def ask(self) -> list[int]:
        """The numbers of the blocks to compare next, highest first; empty when there is an outcome."""
        if self.outcome is not None:
            return []
        if self._common < 0:
            step, wanted = 1, []
            while self._parted - step > 0:
                wanted.append(self._parted - step)
                step *= 2
            wanted.append(0)
        else:
            width = self._parted - self._common
            wanted = sorted(
                {self._common + width * k // _SPLIT for k in range(1, _SPLIT)} - {self._common}, reverse=True
            )
        return [self._anchors[i].number for i in wanted]

    def tell(self, hashes: Mapping[int, bytes | None]) -> None:
        """The hashes of the blocks that were asked for; None for a block that the node does not have."""
        for number in sorted(hashes):
            at, found = self._index[number], hashes[number]
            if found is None:
                self.outcome = ForkSearchOutcome.INCONCLUSIVE
                return
            if found != self._anchors[at].hash:
                self._parted = min(self._parted, at)
            elif at > self._parted:
                # Common above a block that is not: the node changed its chain between two answers.
                self.outcome = ForkSearchOutcome.INCONCLUSIVE
                return
            else:
                self._common = max(self._common, at)
        if self._parted == 0:
            self.outcome = ForkSearchOutcome.BELOW_RETAINED
        elif self._common >= 0 and self._parted == self._common + 1:
            self.outcome = ForkSearchOutcome.COMMON


class HeadRelation(Enum):
    """EVEN: the head is the stored tip. AHEAD: there is more to read; the seam will tell whether it joins. BEHIND: a
    lagging node, or the same chain seen earlier. FORK: a stored block is not on the node's chain."""

    EVEN = "even"
    AHEAD = "ahead"
    BEHIND = "behind"
    FORK = "fork"


def compare_head(tip: BlockRef | None, head: Header, stored_at_head: bytes | None) -> HeadRelation:
    """`stored_at_head` is the hash stored for the head's number, None when that block is not stored.

    A head that went back is a lagging node until a hash proves a fork: only a differing hash does.
    """
    if tip is None or head.number > tip.number:
        return HeadRelation.AHEAD
    if stored_at_head is not None and stored_at_head != head.hash:
        return HeadRelation.FORK
    return HeadRelation.EVEN if head.number == tip.number else HeadRelation.BEHIND


class ClaimKind(Enum):
    """What one endpoint's chain is to the stored one. FORK: they part above the floor. SAME: nothing stored is denied.
    DEEP: they part below the floor. LAGGING: its head is below the floor. UNCLEAR: no answer, or a torn one."""

    FORK = "fork"
    SAME = "same"
    DEEP = "deep"
    LAGGING = "lagging"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class ForkClaim:
    """One endpoint's answer to the fork search; `fork` with FORK and SAME, `head` its latest block. `behind`: that is
    below a block known to be final, so that what it denies is its own lag: a node stuck on an orphaned branch."""

    endpoint: str
    kind: ClaimKind
    fork: BlockRef | None = None
    head: BlockRef | None = None
    detail: str = ""
    behind: bool = False
