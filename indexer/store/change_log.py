"""The change log: the rows that a commit changed, for consumers that follow them.

Its rows are inserted by `commit_log.append_captured`, in the statement that adds the commit to the commit log. It is
kept in partitions, which are dropped whole once every slot (`stream_slots.py`) has confirmed their commits.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from indexer.db.connection import Connection

# Size of a partition (commits). Must equal the number in the SQL functions that make and drop partitions.
PARTITION_COMMITS = 8_192

VOID, INSERTED, UPSERTED, DELETED = 0, 1, 2, -1


class RowChanges(NamedTuple):
    """Rows of one table that were changed in the same way.

    `op`: INSERTED (no row had the key before), UPSERTED, DELETED, or VOID, which concerns every row of every projected
    table. `body`: the rows as COPY text in the order of the columns, or as a JSON array of objects; a deleted row may
    be its key columns only. `n`: number of rows.
    """

    op: int
    encoding: Literal["copy", "json"]
    table: str
    n: int
    body: str


EVERYTHING_VOID = RowChanges(VOID, "copy", "", 0, "")


async def ensure_partitions(conn: Connection) -> None:
    """Create the partitions of the next commits where they are missing: at least PARTITION_COMMITS of them."""
    # The writing role does not own the table, so these functions run with the rights of the owner.
    await conn.execute(
        "SELECT indexer.make_change_log_partition(n) FROM"
        f" (SELECT coalesce(max(seq), 0) / {PARTITION_COMMITS} AS newest FROM indexer.commit_log) l,"
        " generate_series(l.newest, l.newest + 1) n"
    )


async def drop_confirmed(conn: Connection, *, capturing: bool) -> None:
    """Drop the partitions whose commits every slot has confirmed, or all where there is no slot.

    A partition that somebody is reading is left for the next time.

    Args:
        conn: connection, outside any transaction.
        capturing: whether steps may be captured by the caller's index state; then it keeps the partitions although
            the last slot was dropped meanwhile.
    """
    await conn.execute(
        "SELECT indexer.drop_change_log_partition(n) FROM (SELECT substring(c.relname FROM '[0-9]+$')::bigint AS n"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'indexer.change_log'::regclass) made,"
        " (SELECT min(seq) AS seq FROM indexer.stream_slot WHERE state <> 'lost') confirmed"
        f" WHERE (n + 1) * {PARTITION_COMMITS} - 1 <= seq OR seq IS NULL AND NOT $1",
        capturing,
    )
