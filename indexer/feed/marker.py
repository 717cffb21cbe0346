"""The commit marker: what closes the net change of a window, with counts that make it a consistent cut. Pure.

Changes of several tables travel on several topics, and a marker may overtake them. It therefore says how many changes
each table has in its window: a consumer that has counted as many has the tables as of one commit, and none in part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from indexer.feed.commits import Commit, CommitKind
from indexer.feed.net import NetChange

# From the one that says least to the one that says most about what a consumer has: a marker names the last of them.
_KINDS: tuple[CommitKind, ...] = ("forward", "rollback", "heal", "reproject")
MarkerKind = CommitKind | Literal["snapshot"]


class Marker(NamedTuple):
    """The end of a window or snapshot. `seq`, `epoch`, `safe`, `finalized` and `at` are of its last commit.

    `generation`: raised by each snapshot, and by a window that voids everything; the changes carry it, too. `kind`: the
    gravest kind of the window's commits, or "snapshot". `from_block`: first block that any of them names; rows of
    earlier blocks are as before, unless they are state. `to_block`, `to_hash`: the checkpoint, which is the last block
    in the tables; None where they are empty. `counts`: changes by table, without zeros. `reorg`: the last reorg in the
    window, if any.
    """

    seq: int
    generation: int
    epoch: int
    kind: MarkerKind
    from_block: int
    to_block: int | None
    to_hash: bytes | None
    safe: int | None
    finalized: int | None
    counts: dict[str, int]
    reorg: int | None
    at: datetime


def marker_of(window: Sequence[Commit], change: NetChange, generation: int) -> Marker:
    """Return the marker of a window that has at least one commit.

    Args:
        window: its commits, in order.
        change: its net change, or the part of it that the consumer gets.
        generation: generation before the window.
    """
    end = window[-1]
    return Marker(
        seq=end.seq,
        generation=generation + change.void,
        epoch=end.epoch,
        kind=max((commit.kind for commit in window), key=_KINDS.index),
        from_block=min(commit.from_block for commit in window),
        to_block=end.checkpoint,
        to_hash=end.checkpoint_hash,
        safe=end.safe,
        finalized=end.floor,
        counts=dict(sorted(Counter(row.table for row in change.changes).items())),
        reorg=next((commit.reorg_id for commit in reversed(window) if commit.reorg_id is not None), None),
        at=end.at,
    )


def snapshot_marker(end: Commit, generation: int, counts: dict[str, int]) -> Marker:
    """Return the marker that closes a snapshot.

    Args:
        end: the commit that the snapshot is of.
        generation: the new generation, which its rows carry.
        counts: rows by table.
    """
    return Marker(
        seq=end.seq,
        generation=generation,
        epoch=end.epoch,
        kind="snapshot",
        from_block=0,
        to_block=end.checkpoint,
        to_hash=end.checkpoint_hash,
        safe=end.safe,
        finalized=end.floor,
        counts={table: count for table, count in sorted(counts.items()) if count},
        reorg=None,
        at=end.at,
    )
