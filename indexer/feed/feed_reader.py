"""A reader: what a consumer gets next, from its position on. The only way in which rows leave the indexer.

Each turn has one of three results: a window of changes, the need of a snapshot, or nothing new. A snapshot is needed
where the change log does not have the rows: after commits that were not captured, and after one that voided everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Literal, NamedTuple

from indexer.db.connection import Connection
from indexer.feed import log_reader
from indexer.feed.changes import Change
from indexer.feed.commits import Commit, Level, next_window, uncaptured
from indexer.feed.marker import Marker, marker_of
from indexer.feed.net import net
from indexer.feed.snapshot import Snapshot, take

CHANNEL = "reya_feed"  # PostgreSQL notifies it of each captured commit.
MAX_ROWS = 20_000  # Rows of one window, unless a single commit has more: bounds memory, and what a crash repeats.


class Window(NamedTuple):
    """The net change of some commits, and the marker that closes it."""

    changes: list[Change]
    marker: Marker


class FeedPosition(NamedTuple):
    """What a consumer has: everything up to the commit `seq`, in `generation`."""

    seq: int
    generation: int


class FeedReader:
    """Reads for one consumer. The first window after a start or a snapshot is a redelivery: no delete is left out.

    `slot`: the slot that keeps the changes. `tables`: those that the consumer wants; None for all.
    """

    def __init__(
        self, conn: Connection, slot: str, level: Level, tables: Iterable[str] | None, position: FeedPosition
    ) -> None:  # fmt: skip
        self.position, self.level = position, level
        self.tables = None if tables is None else sorted(tables)
        self._conn, self._slot = conn, slot
        self._commits: list[Commit] = []  # Visible ones in order of `seq`, from the position on.
        self._redelivery = True
        self._notified = asyncio.Event()

    async def listen(self) -> None:
        """Let the database say when there is something new. Without it, a reader finds it when it looks."""
        await self._conn.add_listener(CHANNEL, lambda *_: self._notified.set())

    async def wait(self, timeout_s: float) -> None:
        """Wait until a commit is captured, or for `timeout_s` (s)."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._notified.wait(), timeout_s)
        self._notified.clear()

    async def next(self) -> Window | Literal["snapshot"] | None:
        """Return what the consumer gets next; None: nothing new. The position stays until `delivered`.

        Raises FeedResetError when the slot no longer keeps the changes, StoreDamagedError when one cannot be decoded.
        """
        await self._look()
        window = self._next_window()
        if not window:
            return None
        if uncaptured(window) or any(commit.kind == "reproject" for commit in window):
            return "snapshot"
        seq, generation = self.position
        changes = await log_reader.changes_of(self._conn, seq, window[-1].seq, self.tables)
        await log_reader.require_kept(self._conn, self._slot, seq)
        change = net(changes, redelivery=self._redelivery)
        return Window(change.changes, marker_of(window, change, generation))

    def delivered(self, marker: Marker) -> None:
        """Advance to the end of a window or snapshot that the consumer has confirmed."""
        self.position = FeedPosition(marker.seq, marker.generation)
        self._redelivery = marker.kind == "snapshot"
        self._commits = [commit for commit in self._commits if commit.seq >= marker.seq]

    @contextlib.asynccontextmanager
    async def snapshot(self, conn: Connection) -> AsyncIterator[Snapshot | None]:
        """Open a snapshot of the consumer's level; None: not yet, try again later. `conn`: one of its own."""
        async with take(conn, self.level) as taken:
            yield None if taken is None or taken.end.seq < self.position.seq else taken

    async def _look(self) -> None:
        """Read the commits that are new."""
        after = self._commits[-1].seq + 1 if self._commits else self.position.seq
        self._commits += await log_reader.commits_from(self._conn, after)

    def _next_window(self) -> list[Commit]:
        """Return the commits to deliver now: at most MAX_ROWS rows, unless their first end lies beyond.

        Any beginning of the log is a log, so its end is one at which a reader could have looked.
        """
        commits, seq = self._commits, self.position.seq
        window = next_window(commits, seq, self.level)
        if sum(commit.rows for commit in window) <= MAX_ROWS:
            return window
        rows, length = 0, len(commits)
        for n, commit in enumerate(commits, 1):
            rows += commit.rows if commit.seq > seq else 0
            if rows > MAX_ROWS:
                length = n
                break
        while not (window := next_window(commits[:length], seq, self.level)):
            length *= 2
        return window
