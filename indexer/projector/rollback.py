"""Taking back: everything above a fork point, the rows of single blocks, or all that projections ever wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from indexer.chain.ranges import BlockRange
from indexer.db.catalog import COLUMNS, KEYS, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.projections.events import LOGS_PER_BLOCK
from indexer.projector.rows import upsert
from indexer.store import attestations, coverage, effects, enrichment, provenance
from indexer.store.raw_logs import LOG_COLUMNS

# Every append row carries unique_id = block * 100000 + log index, and it is indexed.
APPENDED = tuple(name for name in COLUMNS if table_kind(name) == "append")
assert all("unique_id" in COLUMNS[name] for name in APPENDED)

MAX_BLOCK = 2**62
# Conditions of endpoints, not of projected rows: they outlast rows that are projected again.
OF_ENDPOINTS = ("endpoint_wrong", "endpoints_disagree", "heal_waits", "unprovable")

# What goes is kept in indexer.orphaned_row and orphaned_log: an orphaned liquidation is a fact of business.


async def remove_chain_above(conn: Connection, fork: int, reorg: int) -> dict[str, int]:
    """Raw logs, blocks, coverage, checkpoint and floor as they were at block `fork` (roll back everything above the
    fork); not public rows.

    What goes is archived under the number of the reorg. Inside the caller's transaction. Counts removed, by table.
    """
    counts = await _archive_logs(conn, "block_number > $2", fork, reorg)
    counts |= await _archive(conn, {"indexer.block": "number > $2"}, fork, reorg)
    await coverage.truncate_above(conn, fork)
    await provenance.truncate_above(conn, fork)
    await attestations.void(conn, [BlockRange(fork + 1, MAX_BLOCK)], None, "rollback")
    await conn.execute(
        "UPDATE indexer.checkpoint c SET number = b.number, hash = b.hash, timestamp = b.timestamp,"
        " updated_at = clock_timestamp() FROM indexer.block b WHERE b.number = $1 AND c.number > $1",
        fork,
    )
    await conn.execute("UPDATE indexer.checkpoint SET rollback_floor = $1 WHERE rollback_floor > $1", fork)
    await conn.execute("UPDATE indexer.checkpoint SET safe_block = $1 WHERE safe_block > $1", fork)
    # A database bound to a block that is gone would never be opened again.
    await conn.execute(
        "UPDATE indexer.deployment d SET bound_number = b.number, bound_hash = b.hash FROM indexer.block b"
        " WHERE b.number = $1 AND d.bound_number > $1",
        fork,
    )
    await enrichment.forget_above(conn, fork)
    await conn.execute(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp(), detail = detail || ' (block reorged away)'"
        " WHERE resolved_at IS NULL AND first_block > $1 AND kind <> ALL($2::text[])",
        fork,
        OF_ENDPOINTS,
    )
    return counts


async def remove_rows_above(conn: Connection, fork: int, reorg: int) -> dict[str, int]:
    """The same for the append rows of everything above block `fork`."""
    bound = (fork + 1) * LOGS_PER_BLOCK
    return await _archive(conn, {name: "unique_id >= $2::bigint" for name in APPENDED}, bound, reorg)


async def remove_blocks(
    conn: Connection, numbers: Sequence[int], addresses: Sequence[str], reorg: int
) -> dict[str, int]:  # fmt: skip
    """The same for single blocks: block rows, raw logs of `addresses` and the append rows made of them."""
    where = {
        name: f"unique_id = ANY(SELECT t.unique_id FROM unnest($2::bigint[]) n, {sql_name(name)} t"
        f" WHERE t.unique_id >= n * {LOGS_PER_BLOCK} AND t.unique_id < (n + 1) * {LOGS_PER_BLOCK})"
        for name in APPENDED
    } | {"indexer.block": "number = ANY($2::bigint[])"}
    watched = ", ".join(f"'\\x{a[2:]}'" for a in addresses)
    return await _archive(conn, where, list(numbers), reorg) | await _archive_logs(
        conn, f"block_number = ANY($2::bigint[]) AND address IN ({watched})", list(numbers), reorg
    )


async def _archive(conn: Connection, where: Mapping[str, str], bound: object, reorg: int) -> dict[str, int]:
    """Moves rows of several tables into the archive, in one round trip: what matches the condition by table, which
    says `$2` for `bound`. How many they were, by table; tables without any are left out. Raises
    WriteInterceptedError."""
    moves = [
        f"gone_{n} AS (DELETE FROM {sql_name(table)} WHERE {condition} RETURNING *),"
        f" kept_{n} AS (INSERT INTO indexer.orphaned_row (reorg_id, table_name, row)"
        f" SELECT $1, '{table}', to_jsonb(gone_{n}) FROM gone_{n} RETURNING 1)"
        for n, (table, condition) in enumerate(where.items())
    ]
    # Counted in the same statement, which sees the tables as they were before it.
    counts = ", ".join(
        f"ARRAY[(SELECT count(*) FROM kept_{n}), (SELECT count(*) FROM gone_{n}),"
        f" (SELECT count(*) FROM {sql_name(table)} WHERE {condition})]"
        for n, (table, condition) in enumerate(where.items())
    )
    row = await conn.fetchrow(f"WITH {', '.join(moves)} SELECT {counts}", reorg, bound)
    assert row is not None
    for table, (kept, gone, expected) in zip(where, row, strict=True):
        await effects.require(conn, table, "deleted", gone, expected)
        await effects.require(conn, "indexer.orphaned_row", "kept", kept, gone)
    return {table: kept for table, (kept, _, _) in zip(where, row, strict=True) if kept}


async def _archive_logs(conn: Connection, where: str, bound: object, reorg: int) -> dict[str, int]:
    """The same for raw logs, which are kept as they are: as JSON they would cost a reorg twice the time."""
    kept, gone, expected = await conn.fetchrow(
        f"WITH gone AS (DELETE FROM indexer.raw_log WHERE {where} RETURNING {LOG_COLUMNS}), kept AS ("
        f"INSERT INTO indexer.orphaned_log (reorg_id, {LOG_COLUMNS}) SELECT $1, gone.* FROM gone RETURNING 1)"
        " SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM gone),"
        f" (SELECT count(*) FROM indexer.raw_log WHERE {where})",
        reorg,
        bound,
    ) or (0, 0, 0)
    await effects.require(conn, "indexer.raw_log", "deleted", gone, expected)
    await effects.require(conn, "indexer.orphaned_log", "kept", kept, gone)
    return {"indexer.raw_log": kept} if kept else {}


async def restore_state(conn: Connection, fork: int) -> dict[str, int]:
    """State rows from the oldest before-image above the fork: the value each had at the fork point.

    Raises WriteInterceptedError when a row is not deleted or not restored.
    """
    tables = await conn.fetch(
        "SELECT table_name, count(i.row) AS restored FROM (SELECT DISTINCT ON (table_name, key) table_name, row"
        " FROM indexer.before_image WHERE block_number > $1 ORDER BY table_name, key, block_number) i GROUP BY 1",
        fork,
    )
    images = (
        "(SELECT DISTINCT ON (key) key, row FROM indexer.before_image"
        " WHERE table_name = $1 AND block_number > $2 ORDER BY key, block_number) i"
    )
    counts: dict[str, int] = {}
    for record in tables:
        table = record["table_name"]
        name = sql_name(table)
        match = " AND ".join(f't."{c}" = k."{c}"' for c in KEYS[table])
        keys = f"{images}, jsonb_populate_record(NULL::{name}, i.key) k"
        gone = await effects.delete(conn, table, f"i.row IS NULL AND {match}", table, fork, using=keys)
        source = images + ", jsonb_populate_record(NULL::{name}, i.row) r WHERE i.row IS NOT NULL"
        counts[table] = gone + await upsert(conn, table, record["restored"], source, table, fork)
    # An image that stays would be restored by the next reorg, over what came after it.
    await effects.delete(conn, "indexer.before_image", "t.block_number > $1", fork)
    return counts


async def reset_projections(conn: Connection) -> None:
    """Empties every projected table and the checkpoint; raw logs and what applications wrote stay (raw logs are
    kept)."""
    projected = [sql_name(n) for n in COLUMNS if table_kind(n) in ("append", "state")]
    await conn.execute(f"TRUNCATE {', '.join(projected)}, indexer.before_image")
    # The floor stays: what was final is final, and a search for a fork must not read every anchor there is.
    await conn.execute(
        "UPDATE indexer.checkpoint SET number = NULL, hash = NULL, timestamp = NULL, origin = NULL, digest = NULL,"
        " updated_at = clock_timestamp()"
    )
    await conn.execute(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp()"
        " WHERE resolved_at IS NULL AND first_block IS NOT NULL AND kind <> ALL($1::text[])",
        OF_ENDPOINTS,
    )
