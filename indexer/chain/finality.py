"""Which blocks are final: the node's tag where it behaves, a depth where it does not (finality is a tag).

Pure. One FinalityTracker per process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from indexer.chain.types import Header, Heads

MISSING_TAG_S = 600.0  # A tag that is missing for longer counts as absent; until then it may come back (s).
UNREACHED_S = 60.0  # A final block that no head reaches for longer was never there: one endpoint claimed it (s).
PACE = 10  # A tag that moves by less than a tenth of what latest moves by counts as standing still.


class FinalityStatus(NamedTuple):
    """Finalized and safe block numbers; -1 if nothing is final yet.

    `source`: "unknown" if neither the tag nor the depth is used now: what was final stays final, and nothing becomes
    final. `reason` says why the tag is not used; "" if it is used.
    """

    finalized: int
    safe: int
    source: Literal["tag", "depth", "unknown"]
    reason: str


class FinalBlock(NamedTuple):
    """The highest block known to be final. `hash` is empty if a depth names the block and no tag does.

    A number alone says nothing about the node that serves a range: its block of that number may be an orphan. Whatever
    is called final must therefore come from an answer that also holds a witness: the block `hash`, or a head `depth`
    blocks above.
    """

    number: int
    hash: bytes = b""
    depth: int = 0

    @property
    def witness(self) -> list[int | str]:
        """The block to request along with the data; empty while nothing is final."""
        return [] if self.number < 0 else [self.number if self.hash else "latest"]

    def final_up_to(self, witness: Header | None) -> int:
        """Return the block up to which the answer's chain is final; -1 if the node lacks the final block."""
        if witness is None or self.number < 0:
            return -1
        if self.hash:
            return self.number if witness.hash == self.hash else -1
        return max(-1, min(self.number, witness.number - self.depth))


NOTHING_FINAL = FinalBlock(-1)


@dataclass(frozen=True, slots=True)
class HeadView:
    """One endpoint's head, and the finality derived from it.

    `final`: the block that everything final must join, whoever serves it; the numbers in `finality` alone make nothing
    final.
    """

    heads: Heads
    finality: FinalityStatus
    endpoint: str
    final: FinalBlock


class FinalityTracker:
    """Believes the `finalized` tag until the tag itself gives evidence against it.

    Evidence: while `latest` advanced by more than `depth` blocks, the tag stood still or nearly so, or was never below
    `latest`. A node whose `latest` stands still (an archive copy, a replay) may call its head finalized and is
    believed.

    A tag that is missing is no evidence. Where it fails, or where it was seen before, it may come back in a moment, and
    what the depth made final meanwhile could be above it: for MISSING_TAG_S nothing becomes final. A node that never
    had the tag leaves nothing to wait for.

    A single false head, far above the chain, would name a final block that no range can ever join. If heads move on for
    UNREACHED_S and all stay below the final block, it is forgotten; what is stored as final stays so. A head that does
    not move is no evidence: its node is stuck, perhaps on an orphaned branch.

    Args:
        depth: Depth below `latest` at which blocks count as final where there is no believable tag (blocks).
        clock: Monotonic clock (s).
    """

    def __init__(self, depth: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.depth, self._clock = depth, clock
        self.final = NOTHING_FINAL  # The highest final block observed so far.
        self.remark = ""  # What is odd about a tag that is used.
        self._still: tuple[int, int] | None = None  # The tag, and latest when the tag last kept pace with it.
        self._at_head: int | None = None  # Latest when the tag first equaled it; it has ever since.
        self._was_seen = False
        self._missing_since: float | None = None
        self._unreached: tuple[float, int] | None = None  # Since when (s) heads are below the final block; the first.

    def observe(self, heads: Heads) -> FinalityStatus:
        """Return the finality for one endpoint's heads: never above `latest`, and otherwise never lower than before.

        A lagging node's `latest` may be below a block that was already final; finality rises again with the next head.
        """
        latest, tag = heads.latest.number, heads.finalized
        source, reason = self._judge(heads)
        if source == "tag":
            assert tag is not None
            block = tag if tag.number <= latest else heads.latest
            candidate = FinalBlock(block.number, block.hash, self.depth)
        elif source == "depth":
            candidate = FinalBlock(latest - self.depth, depth=self.depth)
        else:
            candidate = NOTHING_FINAL
        if self._is_out_of_reach(latest):
            self.remark = f"final block {self.final.number} is forgotten: for {UNREACHED_S:.0f} s no head reached it"
            self.final, self._unreached = NOTHING_FINAL, None
            self._still = self._at_head = None  # The false head may be among this evidence, too.
        # For the same number the newest tag counts: a node whose final block changed is left to the fork search.
        if candidate.number > self.final.number or (candidate.number == self.final.number and candidate.hash):
            self.final = candidate
        finalized = min(self.final.number, latest)
        safe = heads.safe.number if heads.safe is not None and source != "depth" else finalized
        return FinalityStatus(finalized, max(finalized, min(safe, latest)), source, reason)

    def _judge(self, heads: Heads) -> tuple[Literal["tag", "depth", "unknown"], str]:
        latest, tag = heads.latest.number, heads.finalized
        self.remark = ""
        if tag is not None:
            self._was_seen, self._missing_since = True, None
            doubt = self._doubt(latest, tag.number)
            if not doubt and latest - tag.number > self.depth:
                self.remark = f"tag, which is more than {self.depth} blocks below latest"
            return ("depth", doubt) if doubt else ("tag", "")
        now = self._clock()
        if self._missing_since is None:
            self._missing_since = now
        reason = "the finalized tag fails" if heads.failing else "the node has no finalized tag"
        if (heads.failing or self._was_seen) and now - self._missing_since <= MISSING_TAG_S:
            return "unknown", f"{reason}: nothing becomes final until it is served again"
        return "depth", reason

    def _is_out_of_reach(self, latest: int) -> bool:
        now = self._clock()
        if latest >= self.final.number:
            self._unreached = None
        elif self._unreached is None:
            self._unreached = now, latest
        return self._unreached is not None and now - self._unreached[0] > UNREACHED_S and latest > self._unreached[1]

    def _doubt(self, latest: int, tag: int) -> str:
        if self._still is None or tag < self._still[0] or self._keeps_pace(latest, tag, *self._still):
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

    @staticmethod
    def _keeps_pace(latest: int, tag: int, tag_before: int, latest_before: int) -> bool:
        return tag > tag_before and PACE * (tag - tag_before) >= latest - latest_before
