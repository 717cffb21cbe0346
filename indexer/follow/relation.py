"""What a head says about the stored tip (rule 4). Pure."""

from __future__ import annotations

from enum import Enum

from indexer.chain.types import Anchor, Header


class Relation(Enum):
    """EVEN: the head is the stored tip. AHEAD: there is more to read; the seam will tell whether it joins. BEHIND: a
    lagging node, or the same chain seen earlier. FORK: a stored block is not on the node's chain."""

    EVEN = "even"
    AHEAD = "ahead"
    BEHIND = "behind"
    FORK = "fork"


def relate(tip: Anchor | None, head: Header, stored_at_head: bytes | None) -> Relation:
    """`stored_at_head` is the hash stored for the head's number, None when that block is not stored.

    A head that went back is a lagging node until a hash proves a fork: only a differing hash does.
    """
    if tip is None or head.number > tip.number:
        return Relation.AHEAD
    if stored_at_head is not None and stored_at_head != head.hash:
        return Relation.FORK
    return Relation.EVEN if head.number == tip.number else Relation.BEHIND
