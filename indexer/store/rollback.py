"""Taking back: everything above a fork point, the rows of single blocks, or all that projections ever wrote."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.projections.base import LOGS_PER_BLOCK
from indexer.store import coverage
from indexer.store.database import Connection
from indexer.store.ledger_io import upsert
from indexer.store.tables import KEYS, TABLES, kind, sql_name

# Every append row carries unique_id = block * 100000 + log index, and it is indexed.
APPENDED = tuple(name for name in TABLES if kind(name) == "append")
assert all("unique_id" in TABLES[name].columns for name in APPENDED)


async def remove_above(conn: Connection, fork: int, reorg: int) -> dict[str, int]:
    """Append rows, raw logs, blocks, coverage and checkpoint as they were at block `fork` (rule 5); not state rows.

    What goes is kept in indexer.orphaned_row under the number of the reorg: an orphaned liquidation is a fact of
    business. Inside the caller's transaction. Counts of what was removed, by table.
    """
    counts: dict[str, int] = {}
    for name in APPENDED:
        bound = (fork + 1) * LOGS_PER_BLOCK
        counts[name] = await _archive(conn, name, sql_name(name), "unique_id >= $3", bound, reorg)
    counts["indexer.raw_log"] = await _archive(
        conn, "indexer.raw_log", "indexer.raw_log", "block_number > $3", fork, reorg
    )
    counts["indexer.block"] = await _archive(conn, "indexer.block", "indexer.block", "number > $3", fork, reorg)
    await coverage.cut_above(conn, fork)
    await conn.execute(
        "UPDATE indexer.checkpoint c SET number = b.number, hash = b.hash, timestamp = b.timestamp,"
        " updated_at = clock_timestamp() FROM indexer.block b WHERE b.number = $1 AND c.number > $1",
        fork,
    )
    await conn.execute("UPDATE indexer.checkpoint SET rollback_floor = $1 WHERE rollback_floor > $1", fork)
    # A database bound to a block that is gone would never be opened again.
    await conn.execute(
        "UPDATE indexer.deployment d SET bound_number = b.number, bound_hash = b.hash FROM indexer.block b"
        " WHERE b.number = $1 AND d.bound_number > $1",
        fork,
    )
    await conn.execute(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp(), detail = detail || ' (block reorged away)'"
        " WHERE resolved_at IS NULL AND first_block > $1",
        fork,
    )
    return {name: n for name, n in counts.items() if n}


async def remove_blocks(
    conn: Connection, numbers: Sequence[int], addresses: Sequence[str], reorg: int, *, appended: bool
) -> dict[str, int]:
    """The same for single blocks: block rows, raw logs of `addresses` and, when `appended`, the rows made of them."""
    within = "unique_id = ANY(SELECT t.unique_id FROM unnest($3::bigint[]) n, {name} t WHERE t.unique_id >= n * {per}"
    within += " AND t.unique_id < (n + 1) * {per})"
    counts: dict[str, int] = {}
    for name in APPENDED if appended else ():
        where = within.format(name=sql_name(name), per=LOGS_PER_BLOCK)
        counts[name] = await _archive(conn, name, sql_name(name), where, list(numbers), reorg)
    watched = ", ".join(f"'\\x{a[2:]}'" for a in addresses)
    where = f"block_number = ANY($3::bigint[]) AND address IN ({watched})"
    counts["indexer.raw_log"] = await _archive(conn, "indexer.raw_log", "indexer.raw_log", where, list(numbers), reorg)
    counts["indexer.block"] = await _archive(
        conn, "indexer.block", "indexer.block", "number = ANY($3::bigint[])", list(numbers), reorg
    )
    return {name: n for name, n in counts.items() if n}


async def _archive(conn: Connection, table: str, name: str, where: str, bound: object, reorg: int) -> int:
    """Moves the rows into the archive. How many they were."""
    done = await conn.execute(
        f"WITH gone AS (DELETE FROM {name} WHERE {where} RETURNING *)"
        " INSERT INTO indexer.orphaned_row (reorg_id, table_name, row) SELECT $1, $2, to_jsonb(gone) FROM gone",
        reorg,
        table,
        bound,
    )
    return _count(done)


async def restore_state(conn: Connection, fork: int) -> dict[str, int]:
    """State rows from the oldest before-image above the fork: the value each had at the fork point."""
    tables = await conn.fetch("SELECT DISTINCT table_name FROM indexer.before_image WHERE block_number > $1", fork)
    images = (
        "(SELECT DISTINCT ON (key) key, row FROM indexer.before_image"
        " WHERE table_name = $1 AND block_number > $2 ORDER BY key, block_number) i"
    )
    counts: dict[str, int] = {}
    for record in tables:
        table = record["table_name"]
        name = sql_name(table)
        match = " AND ".join(f't."{c}" = k."{c}"' for c in KEYS[table])
        gone = await conn.execute(
            f"DELETE FROM {name} t USING {images}, jsonb_populate_record(NULL::{name}, i.key) k"
            f" WHERE i.row IS NULL AND {match}",
            table,
            fork,
        )
        source = images + ", jsonb_populate_record(NULL::{name}, i.row) r WHERE i.row IS NOT NULL"
        counts[table] = _count(gone) + await upsert(conn, table, source, table, fork)
    await conn.execute("DELETE FROM indexer.before_image WHERE block_number > $1", fork)
    return counts


async def reset_projections(conn: Connection) -> None:
    """Empties every projected table and the checkpoint; raw logs and what applications wrote stay (rule 9)."""
    projected = [sql_name(n) for n in TABLES if kind(n) in ("append", "state")]
    await conn.execute(f"TRUNCATE {', '.join(projected)}, indexer.before_image")
    # The floor stays: what was final is final, and a search for a fork must not read every anchor there is.
    await conn.execute(
        "UPDATE indexer.checkpoint SET number = NULL, hash = NULL, timestamp = NULL, origin = NULL, digest = NULL,"
        " updated_at = clock_timestamp()"
    )
    await conn.execute(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp()"
        " WHERE resolved_at IS NULL AND first_block IS NOT NULL"
    )


def _count(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])
