"""Keys and indexes of the append tables, put off during an initial load and built at its end.

What an index costs a row grows with the table once the index outgrows the memory: the primary keys are text that begins
with a transaction hash, so each insert touches a page of its own. Built at the end they are sorted once. That a row is
written once does not rest on them: the checkpoint moves in the transaction that writes the rows. Building the keys
proves it. Only the tables' owner can do it, and not with tables that were adopted.
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

_FOUND = """
SELECT i.indexrelid::regclass::text AS sql_name, c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition,
       k.conname, pg_get_constraintdef(k.oid) AS constraint
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid
WHERE i.indrelid = $1::regclass AND i.indisvalid AND c.relname = ANY($2::text[])
"""

_MINE = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'indexer.deferred_index'::regclass"

log = structlog.get_logger()


def _our_indexes(table: str) -> list[str]:
    """The indexes that our migrations made: another's are not touched."""
    return [f"{table}_pkey", *INDEXES[table]]


async def pending(conn: Connection) -> list[str]:
    """Names of what is still to be built."""
    return [row["name"] for row in await conn.fetch("SELECT name FROM indexer.deferred_index ORDER BY name")]


async def drop_indexes(conn: Connection, token: int) -> int:
    """Drops the keys and indexes of append tables that are empty; how many. Raises LeaseLostError.

    0 where somebody's reading holds the tables, something depends on a key, or they are another role's: the load then
    works with them.
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
    found = await conn.fetch(_FOUND, sql_name(table), _our_indexes(table))
    for row in found:
        drop, again = f"DROP INDEX {row['sql_name']}", None
        if row["conname"] is not None:
            drop = f'ALTER TABLE {sql_name(table)} DROP CONSTRAINT "{row["conname"]}"'
            what = "PRIMARY KEY" if row["constraint"].startswith("PRIMARY KEY") else "UNIQUE"
            again = (
                f'ALTER TABLE {sql_name(table)} ADD CONSTRAINT "{row["conname"]}" {what} USING INDEX "{row["name"]}"'
            )
        await conn.execute(
            "INSERT INTO indexer.deferred_index (name, definition, constraint_definition) VALUES ($1, $2, $3)",
            row["name"],
            row["definition"],
            again,
        )
        await conn.execute(drop)
    return len(found)


async def build_indexes(conns: Sequence[Connection], tell: Callable[[str, int], None]) -> None:
    """Builds what is pending, on as many connections at once as are given, each key or index with its row's deletion in
    a transaction. `tell`: the name, and how many are left.

    Two processes may do it at once. Raises asyncpg.UniqueViolationError when a row is there twice, SchemaOlderError
    when they are another role's to build.
    """
    waiting = await pending(conns[0])
    if waiting and not await conns[0].fetchval(_MINE):
        raise SchemaOlderError(
            "keys and indexes that an initial load put off are not built yet, and this role does not own the tables",
            "Run `reya-indexer backfill` once as their owner",
        )
    # A key locks its table, first for reading only: two keys of one table at once would be a deadlock.
    table_of = {name: table for table in COLUMNS for name in _our_indexes(table)}
    by_table: dict[str, list[str]] = {}
    for name in waiting:
        by_table.setdefault(table_of.get(name, name), []).append(name)
    tables, left = deque(by_table.values()), len(waiting)

    async def work(conn: Connection) -> None:
        nonlocal left
        while tables:
            for name in tables.popleft():
                building = partial(tell, name, left)
                left -= 1
                await _build(conn, name, building)

    await run_all(*(work(conn) for conn in conns))


async def _build(conn: Connection, name: str, building: Callable[[], None]) -> None:
    async with conn.transaction():
        for setting, value in BUILDING.items():
            await conn.execute(f"SET LOCAL {setting} = {value}")
        row = await conn.fetchrow(
            "DELETE FROM indexer.deferred_index WHERE name = $1 RETURNING definition, constraint_definition", name
        )
        if row is None:  # another process built it while we waited
            return
        building()
        with patient(conn, DAY_S):
            await conn.execute(row["definition"])
            if row["constraint_definition"] is not None:
                await conn.execute(row["constraint_definition"])
        hit("index.before_commit")
