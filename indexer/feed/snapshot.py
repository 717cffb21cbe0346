"""A snapshot: every row of the tables as of one commit, to begin with or where changes were not captured.

All of it is read in one REPEATABLE READ transaction, in pieces that are ordered by primary key. The commit is read in
the same transaction, so a reader that goes on after it misses nothing. At `safe` and `finalized` rows of a step that is
covered in part may be ahead of that commit: the reader's first window after a snapshot is therefore a redelivery.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from indexer.db.catalog import COLUMNS, KEYS, SCHEMA, quoted, schema_and_name, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.feed.changes import Change, ChangeRecord, Op, decode
from indexer.feed.commits import Commit, Level

PROJECTED = tuple(name for name in COLUMNS if table_kind(name) in ("append", "state"))
ROWS_AT_ONCE = 10_000
QUIET_S = 5.0  # After this long without a commit, uncaptured commits are believed to have ended (s).
_SUFFIX = {Level.INSTANT: "", Level.SAFE: "_safe", Level.FINALIZED: "_finalized"}
_TAG = {Level.INSTANT: "c.number", Level.SAFE: "c.safe_block", Level.FINALIZED: "c.rollback_floor"}
# The newest commit that left only covered blocks in the tables.
_END = (
    f"SELECT {', '.join(f'l.{column}' for column in Commit._fields)} FROM indexer.commit_log l, indexer.checkpoint c"
    " WHERE coalesce(l.checkpoint, -1) <= coalesce({tag}, -1) ORDER BY l.seq DESC LIMIT 1"
)
# Whether a reader may go on after a commit: what follows it is captured, and not one of many that are not.
_FOLLOWABLE = f"""
SELECT NOT EXISTS (SELECT FROM indexer.commit_log WHERE seq > $1 AND NOT captured)
  AND (captured OR at < clock_timestamp() - make_interval(secs => {QUIET_S}))
FROM indexer.commit_log ORDER BY seq DESC LIMIT 1
"""
# A state table of ours has no view of a level: its rows are those before their first change above the level's block.
_STATE = """(
SELECT t.* FROM {table} t WHERE NOT EXISTS (
  SELECT FROM indexer.before_image b, indexer.checkpoint c
  WHERE b.table_name = '{name}' AND b.block_number > {tag} AND b.key = jsonb_build_object({key}))
UNION ALL
SELECT r.* FROM (
  SELECT DISTINCT ON (b.key) b.row FROM indexer.before_image b, indexer.checkpoint c
  WHERE b.table_name = '{name}' AND b.block_number > {tag} ORDER BY b.key, b.block_number
) i CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, i.row) r WHERE i.row IS NOT NULL
) t"""


class Snapshot:
    """The tables as of the commit `end`, while the transaction that reads them is open."""

    def __init__(self, conn: Connection, end: Commit, level: Level) -> None:
        self.end, self._conn, self._level = end, conn, level

    async def rows(self, table: str) -> AsyncIterator[list[Change]]:
        """Yield the rows of a table as inserts, in pieces of at most ROWS_AT_ONCE, ordered by primary key."""
        kinds, key = COLUMNS[table], KEYS[table]
        columns, order = ", ".join(_text(*column) for column in kinds.items()), ", ".join(map(quoted, key))
        beyond = ", ".join(f"${n}::text::{kinds[column].removesuffix(' not null')}" for n, column in enumerate(key, 1))
        last: tuple[str, ...] = ()
        while True:
            where = f"WHERE ({order}) > ({beyond})" if last else ""
            body, count = await self._copy(
                f"SELECT {columns} FROM {self._source(table)} {where} ORDER BY {order} LIMIT {ROWS_AT_ONCE}", last
            )
            if count:
                changes = decode(ChangeRecord(self.end.seq, 0, Op.INSERT, "copy", table, count, body))
                last = tuple(map(str, changes[-1].key))
                yield changes
            if count < ROWS_AT_ONCE:
                return

    async def _copy(self, query: str, arguments: Sequence[str]) -> tuple[str, int]:
        body = bytearray()

        async def take(data: bytes) -> None:
            body.extend(data)

        status = await self._conn.copy_from_query(query, *arguments, output=take, format="text")
        return body.decode(), int(status.split()[-1])

    def _source(self, table: str) -> str:
        schema, name = schema_and_name(table)
        if self._level is Level.INSTANT:
            return sql_name(table)
        if schema != SCHEMA:
            return sql_name(f"{name}{_SUFFIX[self._level]}")
        key = ", ".join(f"'{column}', t.{quoted(column)}" for column in KEYS[table])
        return _STATE.format(table=sql_name(table), name=table, tag=_TAG[self._level], key=key)


def _text(column: str, kind: str) -> str:
    """Return SQL for a column, whose text is that of the change log; PostgreSQL's own for a timestamp is another."""
    name = quoted(column)
    return f"to_json({name}) #>> '{{}}'" if kind.startswith("timestamp") else name


@contextlib.asynccontextmanager
async def take(conn: Connection, level: Level) -> AsyncIterator[Snapshot | None]:
    """Open a snapshot for the `async with` block; None: not yet, because later commits are not captured.

    Args:
        conn: connection outside any transaction, with a statement timeout that reading ROWS_AT_ONCE rows may take.
        level: finality of the rows.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        row = await conn.fetchrow(_END.format(tag=_TAG[level]))
        # In a backfill, a snapshot would be out of date before it is delivered.
        followable = row is not None and await conn.fetchval(_FOLLOWABLE, row["seq"])
        yield Snapshot(conn, Commit(*row), level) if row is not None and followable else None
