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

    `captured`: whether its rows are in the change log; a reader takes those of another commit from the tables.
    `checkpoint`, `checkpoint_hash`: the last block whose effects the tables contain after it; None where they are
    empty. `reorg_id`: number of the reorg that a rollback or heal belongs to. `floor`, `safe`: the finalized floor and
    the safe block as of this commit, None while unknown.
    """

    seq: int
    epoch: int
    kind: CommitKind
    from_block: int
    to_block: int
    rows: int
    at: datetime
    captured: bool
    checkpoint: int | None
    checkpoint_hash: bytes | None
    reorg_id: int | None
    floor: int | None
    safe: int | None


class Level(StrEnum):
    """How final the rows are that a reader gets."""

    INSTANT = "instant"  # Everything that is committed; a reorg takes rows back.
    SAFE = "safe"  # Up to the safe block; rows are taken back only if a reorg replaces that block.
    FINALIZED = "finalized"  # Up to the floor; only a heal, a reprojection or a recovery below it changes rows.


def settled_end(commits: Sequence[Commit], delivered: int, level: Level) -> Commit | None:
    """Return the commit up to which a reader may deliver now; None when there is nothing new.

    At `instant` it is the newest commit. At `safe` and `finalized` it is the newest commit that left only *covered*
    blocks in the tables. A block is covered once the safe block or the floor of a commit has reached it, and stays so
    when a node's tag falls later; only a rollback uncovers what it takes back. Then the rollback itself is an end, so
    the end never moves back while the log grows: what is delivered anew after a crash reaches as far as before.

    A `heal` waits until its checkpoint is covered, together with everything before it, even if the rows that it
    corrects are of covered blocks: the tables that it leaves contain the others, too. A `reproject` leaves nothing, and
    so is an end at once.

    Args:
        commits: visible ones in order of `seq`, from the one delivered last on; earlier ones are ignored.
        delivered: `seq` of the commit that was delivered last; 0 for none.
        level: how final the rows must be.
    """
    later = [commit for commit in commits if commit.seq > delivered]
    covered = _covered(commits, delivered, level)
    return next((c for c in reversed(later) if level is Level.INSTANT or _position(c) <= covered), None)


def _covered(commits: Sequence[Commit], delivered: int, level: Level) -> int:
    """Return the last block of the chain that the level covers; -1 for none.

    The commit that was delivered last is covered, whatever the tags of the commits after it say. A tag covers no block
    that the tables do not contain: a floor outlasts a reprojection.
    """
    covered = -1
    for commit in commits:
        position = _position(commit)
        if commit.seq == delivered:
            covered = position
        elif commit.seq > delivered:
            tag = commit.safe if level is Level.SAFE else commit.floor
            covered = covered if tag is None else max(covered, min(tag, position))
            if commit.kind in ("rollback", "reproject"):
                covered = min(covered, position)
    return covered


def _position(commit: Commit) -> int:
    """Return the checkpoint after a commit; -1 where the tables are empty."""
    return -1 if commit.checkpoint is None else commit.checkpoint


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
