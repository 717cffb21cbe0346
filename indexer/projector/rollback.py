"""Takes rows back: everything above a fork point, the rows of single blocks, or all that projections ever wrote.

Removed rows are archived in indexer.orphaned_row and orphaned_log: an orphaned liquidation is a business fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from indexer.chain.batch import ServedRange
from indexer.chain.ranges import BlockRange, merge_ranges
from indexer.chain.types import LOGS_PER_BLOCK
from indexer.db.catalog import COLUMNS, KEYS, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.projector.rows import upsert
from indexer.store import attestations, checkpoint, coverage, effects, enrichment, provenance
from indexer.store.raw_logs import LOG_COLUMNS
from indexer.store.reorg_journal import Reorg

# Every append row carries unique_id = block * 100000 + log index, and it is indexed.
APPEND_TABLES = tuple(name for name in COLUMNS if table_kind(name) == "append")
assert all("unique_id" in COLUMNS[name] for name in APPEND_TABLES)

MAX_BLOCK = 2**62
# Kinds of incidents that are about endpoints, not about projected rows: they outlast rows that are projected again.
ENDPOINT_INCIDENTS = ("endpoint_wrong", "endpoints_disagree", "heal_waits", "unprovable")


async def remove_chain_above(conn: Connection, fork: int, reorg: int) -> dict[str, int]:
    """Take raw logs, blocks, coverage, checkpoint and floor back to block `fork` (roll back everything above the fork).

    Public rows are left alone. Removed rows are archived under the number of the reorg, inside the caller's
    transaction. Returns how many were removed, by table.
    """
    counts = await _archive_logs(conn, "block_number > $2", fork, reorg)
    counts |= await _archive(conn, {"indexer.block": "number > $2"}, fork, reorg)
    await coverage.truncate_above(conn, fork)
    await provenance.truncate_above(conn, fork)
    await attestations.void(conn, [BlockRange(fork + 1, MAX_BLOCK)], None, "rollback")
    await checkpoint.roll_back(conn, fork)
    # A database bound to a removed block would never be opened again.
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
        ENDPOINT_INCIDENTS,
    )
    return counts


async def remove_rows_above(conn: Connection, fork: int, reorg: int) -> dict[str, int]:
    """Remove and archive the append rows of everything above block `fork`. Return how many, by table."""
    bound = (fork + 1) * LOGS_PER_BLOCK
    return await _archive(conn, {name: "unique_id >= $2::bigint" for name in APPEND_TABLES}, bound, reorg)


async def remove_blocks(
    conn: Connection, numbers: Sequence[int], addresses: Sequence[str], reorg: int
) -> dict[str, int]:  # fmt: skip
    """Remove and archive single blocks: block rows, raw logs of some contracts and the append rows made from them.

    Args:
        conn: connection of the caller's transaction.
        numbers: the blocks.
        addresses: the contracts whose raw logs are removed.
        reorg: number of the reorg to archive under.

    Returns:
        Rows removed, by table.
    """
    where = {
        name: f"unique_id = ANY(SELECT t.unique_id FROM unnest($2::bigint[]) n, {sql_name(name)} t"
        f" WHERE t.unique_id >= n * {LOGS_PER_BLOCK} AND t.unique_id < (n + 1) * {LOGS_PER_BLOCK})"
        for name in APPEND_TABLES
    } | {"indexer.block": "number = ANY($2::bigint[])"}
    watched = ", ".join(f"'\\x{a[2:]}'" for a in addresses)
    return await _archive(conn, where, list(numbers), reorg) | await _archive_logs(
        conn, f"block_number = ANY($2::bigint[]) AND address IN ({watched})", list(numbers), reorg
    )


async def reassign_provenance(conn: Connection, healing: Reorg, changed: Sequence[int]) -> None:
    """Record the endpoint that served the changed blocks of a heal, and void what was attested of them."""
    block_ranges = merge_ranges(BlockRange(number, number) for number in changed)
    contracts = await coverage.contract_ids(conn, healing.addresses)
    await attestations.void(conn, block_ranges, contracts, "heal")
    for block_range in block_ranges:
        served_range = ServedRange(block_range.first, block_range.last, healing.endpoint)
        await provenance.record_served(conn, served_range, contracts, merge=False)


async def _archive(conn: Connection, where: Mapping[str, str], bound: object, reorg: int) -> dict[str, int]:
    """Move rows of several tables into the archive, in one round trip.

    `where`: table -> condition on its rows, which says `$2` for `bound`. Returns how many were moved, by table; tables
    without any are left out. Raises WriteInterceptedError.
    """
    moves = [
        f"gone_{n} AS (DELETE FROM {sql_name(table)} WHERE {condition} RETURNING *),"
        f" kept_{n} AS (INSERT INTO indexer.orphaned_row (reorg_id, table_name, row)"
        f" SELECT $1, '{table}', to_jsonb(gone_{n}) FROM gone_{n} RETURNING 1)"
        for n, (table, condition) in enumerate(where.items())
    ]
    # The rows are counted in the same statement, which sees the tables as they were before it.
    counts = ", ".join(
        f"ARRAY[(SELECT count(*) FROM kept_{n}), (SELECT count(*) FROM gone_{n}),"
        f" (SELECT count(*) FROM {sql_name(table)} WHERE {condition})]"
        for n, (table, condition) in enumerate(where.items())
    )
    row = await conn.fetchrow(f"WITH {', '.join(moves)} SELECT {counts}", reorg, bound)
    assert row is not None
    for table, (archived, deleted, expected) in zip(where, row, strict=True):
        await effects.require(conn, table, "deleted", deleted, expected)
        await effects.require(conn, "indexer.orphaned_row", "kept", archived, deleted)
    return {table: archived for table, (archived, _, _) in zip(where, row, strict=True) if archived}


async def _archive_logs(conn: Connection, where: str, bound: object, reorg: int) -> dict[str, int]:
    """Move raw logs into their archive, column by column: as JSON they would cost a reorg twice the time."""
    archived, deleted, expected = await conn.fetchrow(
        f"WITH gone AS (DELETE FROM indexer.raw_log WHERE {where} RETURNING {LOG_COLUMNS}), kept AS ("
        f"INSERT INTO indexer.orphaned_log (reorg_id, {LOG_COLUMNS}) SELECT $1, gone.* FROM gone RETURNING 1)"
        " SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM gone),"
        f" (SELECT count(*) FROM indexer.raw_log WHERE {where})",
        reorg,
        bound,
    ) or (0, 0, 0)
    await effects.require(conn, "indexer.raw_log", "deleted", deleted, expected)
    await effects.require(conn, "indexer.orphaned_log", "kept", archived, deleted)
    return {"indexer.raw_log": archived} if archived else {}


async def restore_state(conn: Connection, fork: int) -> dict[str, int]:
    """Restore state rows from the oldest before-image above the fork: each as it was at the fork point.

    The caller removes the images (`drop_images_above`) once the change is logged. Returns how many rows changed, by
    table. Raises WriteInterceptedError when a row is not deleted or not restored.
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
        deleted = await effects.delete(conn, table, f"i.row IS NULL AND {match}", table, fork, using=keys)
        source = images + ", jsonb_populate_record(NULL::{name}, i.row) r WHERE i.row IS NOT NULL"
        counts[table] = deleted + await upsert(conn, table, record["restored"], source, table, fork)
    return counts


async def drop_images_above(conn: Connection, fork: int) -> None:
    """Delete the before-images above the fork, after their rows were restored and before new ones are written.

    An image left here would be restored by the next reorg, over everything written after it. Raises
    WriteInterceptedError.
    """
    await effects.delete(conn, "indexer.before_image", "t.block_number > $1", fork)


async def reset_projections(conn: Connection) -> None:
    """Empty every projected table and the checkpoint.

    Raw logs and everything that applications wrote stay (raw logs are kept).
    """
    projected = [sql_name(n) for n in COLUMNS if table_kind(n) in ("append", "state")]
    await conn.execute(f"TRUNCATE {', '.join(projected)}, indexer.before_image")
    await checkpoint.clear(conn)
    await conn.execute(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp()"
        " WHERE resolved_at IS NULL AND first_block IS NOT NULL AND kind <> ALL($1::text[])",
        ENDPOINT_INCIDENTS,
    )
