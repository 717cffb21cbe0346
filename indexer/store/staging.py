"""Where the replacement of a reorg waits until it is complete. Only the holder of the lease stages."""

from __future__ import annotations

from indexer.ingest.units import Unit
from indexer.store import rawlogs
from indexer.store.database import Connection


async def clear(conn: Connection) -> None:
    """Forgets what an earlier, interrupted reorg staged."""
    await conn.execute("TRUNCATE indexer.staged_block, indexer.staged_log")


async def add(conn: Connection, unit: Unit) -> None:
    async with conn.transaction():
        await rawlogs.copy_blocks(conn, "staged_block", unit.blocks)
        await rawlogs.copy_logs(conn, "staged_log", unit.logs)


async def take_over(conn: Connection) -> int:
    """Moves everything staged into its place, inside the caller's transaction. The number of logs."""
    await conn.execute("INSERT INTO indexer.block SELECT * FROM indexer.staged_block")
    moved = await conn.execute("INSERT INTO indexer.raw_log SELECT * FROM indexer.staged_log")
    return int(moved.rsplit(" ", 1)[1])
