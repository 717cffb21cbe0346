"""Forgetting headers that nothing needs any more."""

from __future__ import annotations

from indexer.store import lease
from indexer.store.database import Connection


async def prune(conn: Connection, first: int, floor: int, token: int) -> bool:
    """Forgets headers of first..floor-1 that only a rollback below the floor would need. False: try again later.

    Kept: blocks with logs, every thousandth as an anchor, ends of coverage (seams are compared with them) and the
    block the database is bound to. Apart from the step and only when nobody ingests: an uncommitted log is
    invisible here, and its block's row would go.
    """
    async with conn.transaction():
        await lease.hold(conn, token)
        if await conn.fetchval("SELECT true FROM indexer.epoch FOR UPDATE SKIP LOCKED") is None:
            return False
        await conn.execute(
            "DELETE FROM indexer.block b WHERE number >= $1 AND number < $2 AND number % 1000 <> 0"
            " AND NOT EXISTS (SELECT FROM indexer.raw_log r WHERE r.block_number = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.coverage c WHERE upper(c.blocks) - 1 = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.deployment d WHERE d.bound_number = b.number)",
            first,
            floor,
        )
    return True
