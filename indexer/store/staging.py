"""Staging tables, which hold the replacement for a reorg or a heal until it is complete (verify before delete).

Only the lease holder stages, and each write proves that it still holds the lease, so that rows staged by another
process are never mixed in. The tables are unlogged: after a server crash the replacement is read again.
"""

from __future__ import annotations

from collections.abc import Sequence

from indexer.chain.batch import LogBatch
from indexer.chain.types import address_bytes
from indexer.db.connection import Connection, row_count
from indexer.errors import InconsistentResponseError
from indexer.store import effects, lease, raw_logs
from indexer.store.raw_logs import LOG_COLUMNS


async def clear(conn: Connection, token: int) -> None:
    """Discard what an earlier, interrupted reorg staged. Raises LeaseLostError."""
    async with conn.transaction():
        await lease.lock_and_renew(conn, token)
        await conn.execute("TRUNCATE indexer.staged_block, indexer.staged_log")


async def add(conn: Connection, batch: LogBatch, token: int) -> None:
    """Stage a log batch. Raises LeaseLostError."""
    async with conn.transaction():
        await lease.lock_and_renew(conn, token)
        await raw_logs.copy_blocks(conn, "staged_block", batch.blocks)
        await raw_logs.copy_logs(conn, "staged_log", batch.logs)


async def first_block_unchanged(conn: Connection, first: int) -> bool:
    """Tell whether the staged block `first` is the stored one: then nothing forks there, and it replaces nothing."""
    same: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM indexer.staged_block JOIN indexer.block USING (number, hash) WHERE number = $1)",
        first,
    )
    return same


async def promote(conn: Connection, first: int, last: int) -> int:
    """Copy the staged blocks first..last and their logs into place, inside the caller's transaction.

    Returns the number of logs. Raises InconsistentResponseError when the staged blocks are not first..last, because a
    server crash emptied the tables.
    """
    low, high, blocks, logs = await conn.fetchrow(
        "SELECT min(number), max(number), count(*), (SELECT count(*) FROM indexer.staged_log) FROM indexer.staged_block"
    ) or (None, None, 0, 0)
    if (low, high) != (first, last):
        raise InconsistentResponseError(
            f"blocks {low} to {high} are staged instead of {first} to {last}", "the staging tables"
        )
    await _move(conn, "block", "SELECT * FROM indexer.staged_block", blocks)
    return await _move(conn, "raw_log", "SELECT * FROM indexer.staged_log", logs)


async def changed_blocks(conn: Connection, first: int, last: int, addresses: Sequence[str]) -> list[int]:
    """Return the blocks of first..last whose stored hash, time or logs differ from the staged ones, ascending.

    Args:
        conn: connection.
        first: first block.
        last: last block, included.
        addresses: contracts whose logs are compared.
    """
    stored = (
        f"SELECT {LOG_COLUMNS} FROM indexer.raw_log WHERE block_number BETWEEN $1 AND $2 AND address = ANY($3::bytea[])"
    )
    rows = await conn.fetch(
        "SELECT DISTINCT number FROM ("
        f" SELECT block_number AS number FROM ({stored} EXCEPT SELECT {LOG_COLUMNS} FROM indexer.staged_log) gone"
        f" UNION ALL SELECT block_number FROM (SELECT {LOG_COLUMNS} FROM indexer.staged_log EXCEPT {stored}) come"
        " UNION ALL SELECT b.number FROM indexer.block b LEFT JOIN indexer.staged_block s USING (number)"
        " WHERE b.number BETWEEN $1 AND $2"
        " AND (b.hash, b.timestamp) IS DISTINCT FROM (s.hash, s.timestamp)"
        " UNION ALL SELECT s.number FROM indexer.staged_block s WHERE"
        " EXISTS (SELECT FROM indexer.staged_log l WHERE l.block_number = s.number)"
        " AND NOT EXISTS (SELECT FROM indexer.block b WHERE b.number = s.number)) differing ORDER BY 1",
        first,
        last,
        [address_bytes(a) for a in addresses],
    )
    return [row["number"] for row in rows]


async def promote_blocks(conn: Connection, numbers: Sequence[int]) -> int:
    """Copy single staged blocks and their logs into place, after their stored rows were removed.

    Call inside the transaction that removed the rows. Returns the number of logs.
    """
    of_blocks = "SELECT * FROM indexer.staged_block WHERE number = ANY($1::bigint[])"
    of_logs = "SELECT * FROM indexer.staged_log WHERE block_number = ANY($1::bigint[])"
    blocks, logs = await conn.fetchrow(
        f"SELECT (SELECT count(*) FROM ({of_blocks}) b), (SELECT count(*) FROM ({of_logs}) l)", list(numbers)
    ) or (0, 0)
    await _move(conn, "block", of_blocks, blocks, list(numbers))
    return await _move(conn, "raw_log", of_logs, logs, list(numbers))


async def _move(conn: Connection, table: str, query: str, count: int, *args: object) -> int:
    """Copy `count` staged rows into their table. Raises WriteInterceptedError when the table takes fewer."""
    done = row_count(await conn.execute(f"INSERT INTO indexer.{table} {query}", *args))
    await effects.require(conn, f"indexer.{table}", "inserted", done, count)
    return done
