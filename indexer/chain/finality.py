"""What is final (rule 3): the node's tag where it behaves, else a depth. Pure; one instance per process."""

from __future__ import annotations

from typing import Literal, NamedTuple

from indexer.chain.types import Heads


class Verdict(NamedTuple):
    """Block numbers; -1 when nothing is final yet. `reason` says why the tag is not used, "" when it is."""

    finalized: int
    safe: int
    source: Literal["tag", "depth"]
    reason: str


class Finality:
    """Believes the `finalized` tag until the tag itself gives evidence against it.

    Evidence: while `latest` moved on by more than `depth` blocks, the tag stood still, or never was below `latest`. A
    node whose `latest` stands still (an archive copy, a replay) may call its head finalized and is believed.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._highest = -1
        self._still: tuple[int, int] | None = None  # the tag, and latest when the tag was first seen there
        self._at_head: int | None = None  # latest when the tag was first seen to equal it, and ever since

    def observe(self, heads: Heads) -> Verdict:
        """The verdict for one endpoint's heads: never above `latest`, and else never lower than an earlier one.

        A lagging node's `latest` may lie below what was final before; the verdict rises again with the next head.
        """
        latest, tag = heads.latest.number, heads.finalized
        reason = self._doubt(latest, tag.number) if tag is not None else "the node has no finalized tag"
        trusted = tag.number if tag is not None and not reason else latest - self.depth
        self._highest = max(self._highest, min(trusted, latest))
        finalized = min(self._highest, latest)
        safe = heads.safe.number if heads.safe is not None and not reason else finalized
        return Verdict(finalized, max(finalized, min(safe, latest)), "depth" if reason else "tag", reason)

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
