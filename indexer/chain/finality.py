"""What is final (finality is a tag): the node's tag where it behaves, else a depth. Pure; one instance per process."""

from __future__ import annotations

from typing import Literal, NamedTuple

from indexer.chain.types import Header, Heads


class FinalityStatus(NamedTuple):
    """Block numbers; -1 when nothing is final yet. `reason` says why the tag is not used, "" when it is."""

    finalized: int
    safe: int
    source: Literal["tag", "depth"]
    reason: str


class FinalBlock(NamedTuple):
    """The highest block known to be final. `hash` is empty where a depth names it, and no tag.

    A number alone says nothing of the node that serves a range: its block of that number may be an orphan. What is
    final must come from an answer that holds a witness as well: the block `hash`, or a head `depth` blocks above.
    """

    number: int
    hash: bytes = b""
    depth: int = 0

    @property
    def witness(self) -> list[int | str]:
        """The block to ask for in the same request; none while nothing is final."""
        return [] if self.number < 0 else [self.number if self.hash else "latest"]

    def final_up_to(self, witness: Header | None) -> int:
        """Up to which block the chain in the answer is final; -1 for a node that does not have the final block."""
        if witness is None or self.number < 0:
            return -1
        if self.hash:
            return self.number if witness.hash == self.hash else -1
        return max(-1, min(self.number, witness.number - self.depth))


NOTHING_FINAL = FinalBlock(-1)


class FinalityTracker:
    """Believes the `finalized` tag until the tag itself gives evidence against it.

    Evidence: while `latest` moved on by more than `depth` blocks, the tag stood still, or never was below `latest`. A
    node whose `latest` stands still (an archive copy, a replay) may call its head finalized and is believed.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.final = NOTHING_FINAL  # what the looks so far found
        self._still: tuple[int, int] | None = None  # the tag, and latest when the tag was first seen there
        self._at_head: int | None = None  # latest when the tag was first seen to equal it, and ever since

    def observe(self, heads: Heads) -> FinalityStatus:
        """The verdict for one endpoint's heads: never above `latest`, and else never lower than an earlier one.

        A lagging node's `latest` may lie below what was final before; the verdict rises again with the next head.
        """
        latest, tag = heads.latest.number, heads.finalized
        reason = self._doubt(latest, tag.number) if tag is not None else "the node has no finalized tag"
        if tag is None or reason:
            said = FinalBlock(latest - self.depth, depth=self.depth)
        else:
            block = tag if tag.number <= latest else heads.latest
            said = FinalBlock(block.number, block.hash, self.depth)
        # Of one number the newest tag counts: a node whose final block changed is for the fork search to judge.
        if said.number > self.final.number or (said.number == self.final.number and said.hash):
            self.final = said
        finalized = min(self.final.number, latest)
        safe = heads.safe.number if heads.safe is not None and not reason else finalized
        return FinalityStatus(finalized, max(finalized, min(safe, latest)), "depth" if reason else "tag", reason)

    def _doubt(self, latest: int, tag: int) -> str:
        if self._still is None or tag != self._still[0]:
            self._still = (tag, latest)
        if tag < latest:
            self._at_head = None
        elif self._at_head is None:
            self._at_head = latest
        if self._at_head is not None and latest - self._at_head > self.depth:
            return f"the finalized tag equals latest, which moved on by more than {self.depth} blocks"
        if latest - self._still[1] > self.depth:
            return f"the finalized tag stands still, while latest moved on by more than {self.depth} blocks"
        return ""
