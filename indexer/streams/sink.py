"""What a sink must do: take windows and snapshots to one broker, and say what the broker has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from indexer.feed.changes import Change
from indexer.feed.feed_reader import FeedPosition, Window
from indexer.feed.marker import Marker


class StreamContext(NamedTuple):
    """What every message says of where it comes from.

    `deployment`: its name. `level`: finality of the slot. `slot`: its name, which identifies the producer.
    """

    deployment: str
    slot: str
    level: str


class Sink(Protocol):
    """One broker, for one slot. Its worker calls one method at a time.

    Every method returns only after the broker has confirmed, and raises SinkError where it has not: then the worker
    closes the sink, waits, opens it again and delivers again. CancelledError may end every wait.
    """

    async def open(self) -> FeedPosition | None:
        """Connect, and return the position of the newest marker that the broker has; None if it has none.

        Raises SinkError, and ConfigError if the broker's configuration would lose or mix up messages.
        """
        ...

    async def begin(self, position: FeedPosition) -> None:
        """Begin a snapshot as of a commit, in a new generation."""
        ...

    async def add_rows(self, rows: Sequence[Change], position: FeedPosition) -> None:
        """Deliver rows of the snapshot that was begun."""
        ...

    async def end(self, marker: Marker) -> None:
        """End the snapshot: rows of older generations are void."""
        ...

    async def deliver(self, window: Window) -> None:
        """Deliver the changes of a window, then its marker."""
        ...

    async def close(self) -> None:
        """Close the connection. Never raises."""
        ...
