"""Keys and indexes of the append tables, deferred during an initial load and built at its end.

Once an index outgrows memory, its cost per row grows with the table: the primary keys are text that begins with a
transaction hash, so every insert touches a different page. Built at the end, they are sorted once. Writing each row
only once does not depend on them, because the checkpoint moves in the transaction that writes the rows (one
transaction); building the keys proves it. Only the tables' owner can defer indexes, and never those of adopted tables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import asyncpg
import structlog

from indexer.db.catalog import COLUMNS, INDEXES, sql_name, table_kind
from indexer.db.connection import DAY_S, Connection, patient
from indexer.errors import SchemaOlderError
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import run_all
from indexer.schema import adopted_tables
from indexer.store import lease

BUILDING = {"statement_timeout": "0", "maintenance_work_mem": "'256MB'"}

# What somebody set on an index would be lost with it, and a published table without its key refuses updates and
# deletes: such indexes are kept.
_FOUND = """
SELECT i.indexrelid::regclass::text AS sql_name, c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition,
       k.conname, pg_get_constraintdef(k.oid) AS constraint
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
WHERE i.indrelid = $1::regclass AND i.indisvalid AND c.relname = ANY($2::text[]) AND NOT i.indisclustered
  AND NOT i.indisreplident AND NOT (i.indisprimary AND t.relreplident = 'd' AND EXISTS (
    SELECT FROM pg_publication p LEFT JOIN pg_publication_tables pt ON pt.pubname = p.pubname
    WHERE p.puballtables OR (pt.schemaname, pt.tablename) = (t.relnamespace::regnamespace::text, t.relname)))
"""

_MINE = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'indexer.deferred_index'::regclass"

log = structlog.get_logger()


def _our_indexes(table: str) -> list[str]:
    """Return the indexes that our migrations created. Others are never touched."""
    return [f"{table}_pkey", *INDEXES[table]]


async def pending(conn: Connection) -> list[str]:
    """Return the names of the keys and indexes still to be built."""
    return [row["name"] for row in await conn.fetch("SELECT name FROM indexer.deferred_index ORDER BY name")]


async def drop_indexes(conn: Connection, token: int) -> int:
    """Drop the keys and indexes of empty append tables, and return how many. Raises LeaseLostError.

    Returns 0 if a reader locks the tables, something depends on a key, or another role owns them. The load then keeps
    the indexes.
    """
    if not await conn.fetchval(_MINE):
        log.info("indexes_kept", reason="only the role that owns the tables can drop and build them")
        return 0
    try:
        async with conn.transaction():
            await lease.lock_and_renew(conn, token)
            await conn.execute("SET LOCAL lock_timeout = '2s'")
            dropped, taken = 0, await adopted_tables.names(conn)
            for table in (name for name in COLUMNS if table_kind(name) == "append" and name not in taken):
                if not await conn.fetchval(f"SELECT EXISTS (SELECT FROM {sql_name(table)})"):
                    dropped += await _drop(conn, table)
            return dropped
    except (asyncpg.LockNotAvailableError, asyncpg.DependentObjectsStillExistError, asyncpg.DeadlockDetectedError) as e:
        log.warning("indexes_kept", reason=" ".join(str(e).split()))
        return 0


async def _drop(conn: Connection, table: str) -> int:
    indexes = await conn.fetch(_FOUND, sql_name(table), _our_indexes(table))
    for row in indexes:
        drop, rebuild = f"DROP INDEX {row['sql_name']}", None
        if row["conname"] is not None:
            drop = f'ALTER TABLE {sql_name(table)} DROP CONSTRAINT "{row["conname"]}"'
            what = "PRIMARY KEY" if row["constraint"].startswith("PRIMARY KEY") else "UNIQUE"
            rebuild = (
                f'ALTER TABLE {sql_name(table)} ADD CONSTRAINT "{row["conname"]}" {what} USING INDEX "{row["name"]}"'
            )
        await conn.execute(
            "INSERT INTO indexer.deferred_index (name, definition, constraint_definition) VALUES ($1, $2, $3)",
            row["name"],
            row["definition"],
            rebuild,
        )
        await conn.execute(drop)
    return len(indexes)


async def build_indexes(conns: Sequence[Connection], on_progress: Callable[[str, int], None]) -> None:
    """Build all pending keys and indexes, in parallel on the given connections.

    Each is built in the transaction that deletes its row (one transaction), so two processes may do this at once.
    `on_progress` is called with the name and the number left. Raises asyncpg.UniqueViolationError if a row exists
    twice, SchemaOlderError if another role owns the tables.
    """
    waiting = await pending(conns[0])
    if waiting and not await conns[0].fetchval(_MINE):
        raise SchemaOlderError(
            "keys and indexes deferred by an initial load are not built yet, and this role does not own the tables",
            "Run `reya-indexer backfill` once as the owner of the tables",
        )
    # Building a key locks its table in shared mode first and exclusively later: two keys of one table at once would
    # deadlock. So one connection builds all indexes of a table.
    table_of = {name: table for table in COLUMNS for name in _our_indexes(table)}
    by_table: dict[str, list[str]] = {}
    for name in waiting:
        by_table.setdefault(table_of.get(name, name), []).append(name)
    tables, left = deque(by_table.values()), len(waiting)

    async def build_remaining(conn: Connection) -> None:
        nonlocal left
        while tables:
            for name in tables.popleft():
                building = partial(on_progress, name, left)
                left -= 1
                await _build(conn, name, building)

    await run_all(*(build_remaining(conn) for conn in conns))


async def _build(conn: Connection, name: str, building: Callable[[], None]) -> None:
    async with conn.transaction():
        for setting, value in BUILDING.items():
            await conn.execute(f"SET LOCAL {setting} = {value}")
        row = await conn.fetchrow(
            "DELETE FROM indexer.deferred_index WHERE name = $1 RETURNING definition, constraint_definition", name
        )
        if row is None:  # Another process built it while this one waited.
            return
        building()
        with patient(conn, DAY_S):
            await conn.execute(row["definition"])
            if row["constraint_definition"] is not None:
                await conn.execute(row["constraint_definition"])
        hit("index.before_commit")
