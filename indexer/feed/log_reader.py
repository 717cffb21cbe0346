"""Reads the commit log and the change log. Needs no right but SELECT, and writes nothing.

Rows of both logs never change, so consecutive statements see one log that only grows; a reader needs no transaction.
What a reader has read of the change log is whole if its slot kept it until after the read: see `require_kept`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from indexer.db.connection import Connection
from indexer.errors import FeedResetError
from indexer.feed.changes import Change, ChangeRecord, decode
from indexer.feed.commits import Commit

_COMMIT = ", ".join(Commit._fields)
_RECORD = ", ".join(ChangeRecord._fields)
COMMITS_AT_ONCE = 20_000  # Rows of the commit log in one answer; each is about 200 bytes in memory.


class VoidedBlocks(NamedTuple):
    """A commit that took something back: of `from_block` and later blocks, what a reader had before it may be void."""

    seq: int
    kind: str
    from_block: int
    reorg_id: int | None


async def head(conn: Connection) -> Commit | None:
    """Return the newest commit; None before the first."""
    row = await conn.fetchrow(f"SELECT {_COMMIT} FROM indexer.commit_log ORDER BY seq DESC LIMIT 1")
    return None if row is None else Commit(*row)


async def voided_since(conn: Connection, seq: int) -> list[VoidedBlocks]:
    """Return the commits after `seq` that took rows back or rewrote them, in order: rollbacks, heals, reprojections."""
    rows = await conn.fetch(
        "SELECT seq, kind, CASE WHEN kind = 'reproject' THEN 0 ELSE from_block END, reorg_id FROM indexer.commit_log"
        " WHERE seq > $1 AND kind <> 'forward' ORDER BY seq",
        seq,
    )
    return [VoidedBlocks(*row) for row in rows]


async def commits_from(conn: Connection, seq: int, limit: int = COMMITS_AT_ONCE) -> list[Commit]:
    """Return the commits from `seq` on, that one included, in order; at most `limit`."""
    rows = await conn.fetch(
        f"SELECT {_COMMIT} FROM indexer.commit_log WHERE seq >= $1 ORDER BY seq LIMIT $2", seq, limit
    )
    return [Commit(*row) for row in rows]


async def changes_of(conn: Connection, after: int, to: int, tables: Sequence[str] | None = None) -> list[Change]:
    """Return the changes of the commits after `after` up to `to`, in order.

    Args:
        conn: connection.
        after: `seq` of the last commit that is left out.
        to: `seq` of the last commit.
        tables: the tables to read; None for all. A void concerns every table and is always read.

    Raises:
        StoreDamagedError: a row of the change log cannot be decoded.
    """
    rows = await conn.fetch(
        f"SELECT {_RECORD} FROM indexer.change_log WHERE seq > $1 AND seq <= $2"
        " AND ($3::text[] IS NULL OR op = 0 OR table_name = ANY($3)) ORDER BY seq, ord",
        after,
        to,
        tables,
    )
    return [change for row in rows for change in decode(ChangeRecord(*row))]


async def require_kept(conn: Connection, slot: str, after: int) -> None:
    """Raise FeedResetError unless the slot still keeps every change after `after`.

    To be called after the changes were read. Partitions are dropped only after the slot was advanced or declared lost,
    so a slot that still keeps them now kept them during the read: nothing was missing from it.
    """
    row = await conn.fetchrow("SELECT seq, state FROM indexer.stream_slot WHERE name = $1", slot)
    if row is None or row["state"] == "lost" or row["seq"] > after:
        raise FeedResetError(
            f"slot {slot!r} no longer keeps the changes after commit {after}",
            "Begin anew from a snapshot of the tables",
        )
