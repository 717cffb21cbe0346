"""Which commits a reader may deliver: rows of the commit log, and the last of them that a level covers. Pure.

Everything here is a function of the log. A reader that restarts needs nothing but the `seq` of the commit that it
delivered last. When and how often it looks decides which commits it delivers together, never what they add up to.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

CommitKind = Literal["forward", "rollback", "heal", "reproject"]


class Commit(NamedTuple):
    """A row of `indexer.commit_log`, with the names of its columns.

    `floor`, `safe`: the finalized floor and the safe block as of this commit, None while unknown. `captured`: whether
    its rows are in the change log; a reader takes those of another commit from the tables. `to_hash`: hash of the last
    block. `reorg_id`: number of the reorg that a rollback or heal belongs to.
    """

    seq: int
    epoch: int
    kind: CommitKind
    from_block: int
    to_block: int
    rows: int
    at: datetime
    captured: bool
    to_hash: bytes | None
    reorg_id: int | None
    floor: int | None
    safe: int | None


class Level(StrEnum):
    """How final the rows are that a reader gets."""

    INSTANT = "instant"  # Everything that is committed; a reorg takes rows back.
    SAFE = "safe"  # Up to the safe block; rows are taken back only if a reorg replaces that block.
    FINALIZED = "finalized"  # Up to the floor; only a heal, a reprojection or a recovery below it changes rows.


def position_after(commit: Commit) -> int:
    """Return the last block whose effects the tables may contain after a commit. No later block is in them.

    It is exact for a `forward` (its last block) and a `reproject` (the block before the origin). A `rollback` leaves
    the block before its first one, or less where the projection had not come as far. A `heal` leaves the position as it
    was: its last block is the checkpoint, or a healed block above it. Being too high delays a delivery until the tag
    gets as far, and never delivers a row too early.
    """
    if commit.kind in ("rollback", "reproject"):
        return commit.from_block - 1
    return commit.to_block


def settled_end(commits: Sequence[Commit], delivered: int, level: Level) -> Commit | None:
    """Return the commit up to which a reader may deliver now; None when there is nothing new.

    At `instant` it is the newest commit. At `safe` and `finalized` it is the newest commit that left only *covered*
    blocks in the tables. A block is covered once the safe block or the floor of a commit has reached it, and stays so
    when a node's tag falls later; only a rollback uncovers what it takes back. Then the rollback itself is an end, so
    the end never moves back while the log grows: what is delivered anew after a crash reaches as far as before.

    A `heal` waits until its position is covered, together with everything before it, even if the rows that it corrects
    are of covered blocks: the tables that it leaves contain the others, too. A `reproject` is at the block before the
    origin, and so an end as soon as anything was covered.

    Args:
        commits: visible ones in order of `seq`, from the one delivered last on; earlier ones are ignored.
        delivered: `seq` of the commit that was delivered last; 0 for none.
        level: how final the rows must be.
    """
    later = [commit for commit in commits if commit.seq > delivered]
    covered = _covered(commits, delivered, level)
    return next((c for c in reversed(later) if level is Level.INSTANT or position_after(c) <= covered), None)


def _covered(commits: Sequence[Commit], delivered: int, level: Level) -> int:
    """Return the last block of the chain that the level covers; -1 for none.

    The commit that was delivered last is covered, whatever the tags of the commits after it say.
    """
    covered = -1
    for commit in commits:
        if commit.seq == delivered:
            covered = position_after(commit)
        elif commit.seq > delivered:
            tag = commit.safe if level is Level.SAFE else commit.floor
            covered = covered if tag is None else max(covered, tag)
            if commit.kind in ("rollback", "reproject"):
                covered = min(covered, position_after(commit))
    return covered


def next_window(commits: Sequence[Commit], delivered: int, level: Level) -> list[Commit]:
    """Return the commits whose net change is to be delivered now; the last is the settled end. Empty: nothing new.

    Args:
        commits: as for `settled_end`.
        delivered: `seq` of the commit that was delivered last; 0 for none.
        level: how final the rows must be.
    """
    end = settled_end(commits, delivered, level)
    return [] if end is None else [commit for commit in commits if delivered < commit.seq <= end.seq]


def uncaptured(window: Sequence[Commit]) -> list[Commit]:
    """Return the commits of a window whose rows must be read from the tables, because the change log lacks them.

    What precedes the last `reproject` is void and need not be read.
    """
    void = max((n for n, commit in enumerate(window) if commit.kind == "reproject"), default=0)
    return [commit for commit in window[void:] if not commit.captured]
