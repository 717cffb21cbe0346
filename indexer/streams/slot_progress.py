"""What a worker says of its slot, for `status`, `/ready` and metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from indexer.errors import error_label
from indexer.feed.commits import Commit
from indexer.feed.feed_reader import FeedPosition
from indexer.feed.marker import Marker


@dataclass(slots=True)
class SlotProgress:
    """The state of one slot's worker, in this process.

    `state`: what it does. `error`: why it was interrupted last, None since something was delivered. `delivered`:
    windows and snapshots that were confirmed. `rows`: changes in them. `seq`, `block`: of the last. `lag_commits`:
    commits that are not delivered yet.
    """

    name: str
    state: str = "starting"
    error: str | None = None
    delivered: int = 0
    rows: int = 0
    retractions: int = 0
    seq: int = 0
    block: int | None = None
    lag_commits: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    _renewed: float = field(default_factory=time.monotonic)

    def fail(self, error: BaseException) -> None:
        """Note an interruption."""
        self.state, self.error = "interrupted", str(error)
        label = error_label(error)
        self.errors[label] = self.errors.get(label, 0) + 1

    def confirm(self, marker: Marker) -> None:
        """Note a delivery that the sink has confirmed."""
        self.error, self.seq, self.block = None, marker.seq, marker.to_block
        self.delivered += 1
        self.rows += sum(marker.counts.values())
        self.retractions += marker.kind == "rollback"
        self._renewed = time.monotonic()

    def pending(self, newest: Commit | None, position: FeedPosition) -> None:
        """Note how far the log is ahead."""
        self.lag_commits = 0 if newest is None else newest.seq - position.seq

    def renewal_due(self, interval_s: float) -> bool:
        """Return whether the claim was not extended for so long (s); it is due once."""
        now = time.monotonic()
        if now - self._renewed < interval_s:
            return False
        self._renewed = now
        return True
