"""The commit log: one row per change of the public tables, for consumers that follow them.

Rows are only inserted, each in the transaction that makes the change, by the holder of the lease: so the order of `seq`
is the order of the commits. A row names the blocks whose rows changed; the rows themselves are in the change log, where
the commit is captured. What a reader may rely on is in `docs/reference/commit-log.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from indexer.db.catalog import COLUMNS, table_kind
from indexer.db.connection import Connection, row_count
from indexer.errors import EpochChangedError
from indexer.store import effects
from indexer.store.change_log import RowChanges
from indexer.store.stream_slots import CAPTURING

ChangeKind = Literal[
    "forward",  # The blocks were projected.
    "rollback",  # Everything from the first block on is void.
    "heal",  # The rows of the blocks, and all that follows from them, may differ.
    "reproject",  # Every projected row is void.
]

_APPEND_TABLES = [name for name in COLUMNS if table_kind(name) == "append"]
_MOVED_ROWS = 5_000  # in one row of the change log: however deep a reorg is, no value outgrows what a field holds


class CommitEntry(NamedTuple):
    """A row of the commit log.

    `rows`: number of public and internal rows that were written or removed; a measure of size, which nothing is decided
    on. `reorg`: id in the reorg journal.
    """

    kind: ChangeKind
    first: int
    last: int
    rows: int
    reorg: int | None


# What the tables stand at is read here: every step has advanced or rolled back the checkpoint before.
_INSERT = (
    "INSERT INTO indexer.commit_log (epoch, kind, from_block, to_block, rows, reorg_id, captured, checkpoint,"
    " checkpoint_hash, floor, safe) SELECT e.value, $1, $2, $3, $4, $5, {captured}, c.number, c.hash, c.rollback_floor,"
    " c.safe_block FROM indexer.epoch e, indexer.checkpoint c"
)
_BULK = _INSERT.format(captured="false")
_CAPTURED = f"""
WITH logged AS ({_INSERT.format(captured="true")} RETURNING seq),
changes AS ({{changes}}),
kept AS (INSERT INTO indexer.change_log (seq, ord, op, encoding, table_name, n, body)
  SELECT seq, ord, op, encoding, table_name, n, body FROM logged, changes RETURNING 1)
SELECT (SELECT count(*) FROM logged), (SELECT count(*) FROM kept), {{expected}},
  (SELECT pg_notify('reya_feed', seq::text) FROM logged)
"""
_GIVEN = (
    "SELECT (ord - 1)::int AS ord, op, encoding, table_name, n, body"
    " FROM unnest($6::smallint[], $7::text[], $8::text[], $9::int[], $10::text[]) WITH ORDINALITY"
    " AS g (op, encoding, table_name, n, body, ord)"
)
# Rows that the server moved by itself, then those given. Of several before-images of a row the oldest was restored.
_MOVED = f"""
SELECT (row_number() OVER (ORDER BY part, place) - 1)::int AS ord, op, encoding, table_name, n, body FROM (
  SELECT 0 AS part, row_number() OVER (ORDER BY m.op, m.table_name, m.piece) AS place, m.op, 'json' AS encoding,
    m.table_name, count(*)::int AS n, '[' || string_agg(m.body, ',') || ']' AS body
  FROM (
    SELECT -1 AS op, o.table_name, o.row::text AS body,
      (row_number() OVER (PARTITION BY o.table_name ORDER BY o.id) - 1) / {_MOVED_ROWS} AS piece
    FROM indexer.orphaned_row o WHERE o.reorg_id = $5 AND o.table_name = ANY($11::text[])
    UNION ALL
    SELECT CASE WHEN i.row IS NULL THEN -1 ELSE 2 END, i.table_name, coalesce(i.row, i.key)::text,
      (row_number() OVER (PARTITION BY i.table_name, i.row IS NULL) - 1) / {_MOVED_ROWS}
    FROM (SELECT DISTINCT ON (table_name, key) table_name, key, row FROM indexer.before_image
      WHERE block_number > $12::bigint ORDER BY table_name, key, block_number) i
  ) m GROUP BY m.op, m.table_name, m.piece
  UNION ALL SELECT 1, g.ord, g.op, g.encoding, g.table_name, g.n, g.body FROM ({_GIVEN}) g
) c
"""
_CAPTURED_GIVEN = _CAPTURED.format(changes=_GIVEN, expected="cardinality($6::smallint[])")
_CAPTURED_MOVED = _CAPTURED.format(changes=_MOVED, expected="(SELECT count(*) FROM changes)")


async def append(conn: Connection, entry: CommitEntry, *, bulk: bool) -> None:
    """Add a row to the commit log, in the transaction that it describes, without the rows that changed.

    Args:
        conn: connection of that transaction.
        entry: the row.
        bulk: whether it is of a kind that is never captured.

    Raises:
        EpochChangedError: a slot was created since the step was planned, and this commit has to be captured.
        WriteInterceptedError: the row was withheld; consumers would never learn of the change.
    """
    status = await conn.execute(_BULK if bulk else f"{_BULK} WHERE NOT {CAPTURING}", *entry)
    inserted = row_count(status)
    if not inserted and not bulk and await conn.fetchval(f"SELECT {CAPTURING}"):
        raise EpochChangedError
    await effects.require(conn, "indexer.commit_log", "inserted", inserted, 1)


async def append_captured(
    conn: Connection, entry: CommitEntry, changes: Sequence[RowChanges], restored_above: int | None
) -> None:
    """Add a row to the commit log, and the rows that changed to the change log, in one statement.

    Args:
        conn: connection of the transaction that made the changes.
        entry: the row of the commit log. The append rows archived under its reorg are logged as deleted, before
            everything else.
        changes: what else changed, in order.
        restored_above: block above which state rows were restored from before-images, which still exist.

    Raises:
        WriteInterceptedError: a row was withheld; consumers would never learn of the change.
    """
    columns = [list(column) for column in zip(*changes, strict=True)] or [[], [], [], [], []]
    if entry.reorg is None:
        row = await conn.fetchrow(_CAPTURED_GIVEN, *entry, *columns)
    else:
        row = await conn.fetchrow(_CAPTURED_MOVED, *entry, *columns, _APPEND_TABLES, restored_above)
    logged, kept, expected, _ = row or (0, 0, 0, None)
    await effects.require(conn, "indexer.commit_log", "inserted", logged, 1)
    await effects.require(conn, "indexer.change_log", "inserted", kept, expected)
