"""Enrichment storage: contract state that no log carries, read from the contracts at one final block.

A row that `enrich` wrote to a public table is also a function of the chain alone: of the state at the block it names.
A later `enrich` replaces it, rolling back its block removes it, and no projection, rollback of rows or reprojection
touches it. A row that an application wrote to the same table is never changed: a row is ours only while it equals what
we wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import asyncpg

from indexer import errors
from indexer.db.catalog import ENRICHED_COLUMNS, ENRICHED_KEYS, sql_name
from indexer.db.connection import Connection
from indexer.errors import RefusedError, UnstorableAnswerError
from indexer.runtime.exact_json import to_json
from indexer.store import epoch


class EnrichmentRun(NamedTuple):
    """The block at which contracts are read, and the epoch of the run.

    `timestamp`: of the block (s). `resumed`: this continues an unfinished run.
    """

    number: int
    hash: bytes
    timestamp: int
    epoch: int
    resumed: bool


async def pin_block(conn: Connection) -> EnrichmentRun:
    """Return a new run at the last finalized block that is projected. Raises RefusedError when there is none yet."""
    row = await conn.fetchrow(
        "SELECT b.number, b.hash, b.timestamp, e.value FROM indexer.checkpoint c"
        " JOIN indexer.block b ON b.number = c.rollback_floor, indexer.epoch e WHERE c.number >= c.rollback_floor"
    )
    if row is None:
        raise RefusedError(
            "no projected block is final yet", "Wait until `run` or `backfill` has reached the finalized block"
        )
    return EnrichmentRun(row["number"], row["hash"], row["timestamp"], row["value"], resumed=False)


async def resumable(conn: Connection) -> EnrichmentRun | None:
    """Return the unfinished run, or None when there is none or its block is no longer on the chain."""
    row = await conn.fetchrow(
        "SELECT r.block_number, r.block_hash, r.block_timestamp, e.value FROM indexer.enrichment_run r, indexer.epoch e"
        " WHERE r.finished_at IS NULL AND NOT EXISTS ("
        "   SELECT FROM indexer.block b WHERE b.number = r.block_number AND b.hash <> r.block_hash)"
    )
    if row is None:
        return None
    return EnrichmentRun(row["block_number"], row["block_hash"], row["block_timestamp"], row["value"], resumed=True)


async def begin(conn: Connection, run: EnrichmentRun) -> None:
    """Record the start of a run, replacing the previous one."""
    await conn.execute(
        "INSERT INTO indexer.enrichment_run (block_number, block_hash, block_timestamp) VALUES ($1, $2, $3)"
        " ON CONFLICT (single) DO UPDATE SET block_number = $1, block_hash = $2, block_timestamp = $3,"
        " started_at = clock_timestamp(), finished_at = NULL",
        run.number,
        run.hash,
        run.timestamp,
    )


async def finish(conn: Connection) -> None:
    """Mark the run as finished."""
    await conn.execute("UPDATE indexer.enrichment_run SET finished_at = clock_timestamp()")


async def already_read(conn: Connection, run: EnrichmentRun) -> set[tuple[str, str]]:
    """Return what was already read at this run's block, as (table, key in the server's JSON text)."""
    rows = await conn.fetch(
        "SELECT table_name, key::text FROM indexer.enrichment WHERE block_number = $1 AND block_hash = $2",
        run.number,
        run.hash,
    )
    return {(row[0], row[1]) for row in rows}


async def save(
    conn: Connection, table: str, key: Mapping[str, Any], values: Mapping[str, Any], run: EnrichmentRun
) -> bool:
    """Store what was read, with its block; if `table` is a public table, write the row there too.

    Args:
        conn: connection, outside a transaction.
        table: public table, or a name of its own for state kept only in our schema.
        key: primary key of the row.
        values: other columns of the row.
        run: run that read it.

    Returns:
        False when a row that we did not write is in the public table; it is left unchanged.

    Raises:
        UnstorableAnswerError: this one row cannot be stored.
        RefusedError: the run must end: the block may have been rolled back, a right is missing, or the table differs.
    """
    try:
        async with conn.transaction():
            await epoch.lock_shared(conn, run.epoch)
            return await _save(conn, table, key, values, run)
    except errors.EpochChangedError as error:
        raise RefusedError(
            "blocks were rolled back or healed in the meantime", "Run the same command again to continue"
        ) from error
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        raise UnstorableAnswerError(f"cannot be stored: {error}") from error
    except asyncpg.SyntaxOrAccessError as error:
        remedy = "Run it as the owner (`db roles`); for an adopted table, `migrate --adopt --check` shows what differs"
        raise RefusedError(f"{table}: {error}", remedy) from error


async def _save(
    conn: Connection, table: str, key: Mapping[str, Any], values: Mapping[str, Any], run: EnrichmentRun
) -> bool:
    stored = to_json(values)
    if table in ENRICHED_KEYS:
        row = {**key, **values, "block_timestamp": run.timestamp, "block_number": run.number}
        stored = await conn.fetchval(_upsert(table), to_json(row), table, to_json(key))
        if stored is None:
            return False
    await conn.execute(
        'INSERT INTO indexer.enrichment (table_name, key, "values", block_number, block_hash)'
        " VALUES ($1, $2::jsonb, $3::jsonb, $4, $5) ON CONFLICT (table_name, key) DO UPDATE SET"
        ' "values" = EXCLUDED."values", block_number = EXCLUDED.block_number, block_hash = EXCLUDED.block_hash,'
        " at = clock_timestamp()",
        table,
        to_json(key),
        stored,
        run.number,
        run.hash,
    )
    return True


def _upsert(table: str) -> str:
    name, keys = sql_name(table), ENRICHED_KEYS[table]
    # Columns are listed by name because an adopted table may have more of them, with their own defaults.
    columns = [f'"{column}"' for column in ENRICHED_COLUMNS[table]]
    read = ", ".join(f"r.{c}" for c in columns)
    update = ", ".join(f"{c} = EXCLUDED.{c}" for c in columns if c.strip('"') not in keys)
    return (
        f"INSERT INTO {name} AS t ({', '.join(columns)})"
        f" SELECT {read} FROM jsonb_populate_record(NULL::{name}, $1::jsonb) r"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {update}"
        ' WHERE to_jsonb(t.*) = (SELECT e."values" FROM indexer.enrichment e'
        " WHERE e.table_name = $2 AND e.key = $3::jsonb) RETURNING to_jsonb(t.*)::text"
    )


async def forget_above(conn: Connection, number: int) -> None:
    """Remove what was read at blocks above `number`, inside the rollback's transaction.

    The caller's role may lack rights on application tables; the SQL function runs with its owner's (migration 0024).
    """
    if not await conn.fetchval("SELECT EXISTS (SELECT FROM indexer.enrichment WHERE block_number > $1)", number):
        return
    await conn.execute("SELECT indexer.forget_enriched($1)", number)
