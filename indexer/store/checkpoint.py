"""The checkpoint: the block up to which the public tables are the projection, with the floor and the safe block.

It is one row, which the migration made: a statement that does not change it is an error. What is written here belongs
to the transaction that changes the public rows. `index_state.load_index_state` reads it with everything else that a
cycle decides on.
"""

from __future__ import annotations

from indexer.chain.types import BlockRef
from indexer.db.connection import Connection, row_count
from indexer.store import effects


async def floor_after(conn: Connection, floor: int, finalized: int, end: int) -> int:
    """Return the floor after a step: a stored block, so that the fork search can compare it.

    Args:
        conn: connection of the step's transaction.
        floor: the floor before the step.
        finalized: the finalized block.
        end: the last block of the step.
    """
    if finalized >= end:
        return max(floor, end)
    stored: int | None = await conn.fetchval("SELECT max(number) FROM indexer.block WHERE number <= $1", finalized)
    return max(floor, -1 if stored is None else stored)


async def advance(conn: Connection, end: BlockRef, floor: int, safe: int, *, origin: int, digest: str) -> None:
    """Set the checkpoint to the end of a step. Raises WriteInterceptedError.

    Args:
        conn: connection of the step's transaction.
        end: the last block of the step.
        floor: the floor after the step.
        safe: the highest safe block.
        origin: the first block that is projected.
        digest: the digest of the deployment that the step was projected with.
    """
    await _update(
        conn,
        "number = $1, hash = $2, timestamp = $3, origin = $4, digest = $5,"
        " rollback_floor = $6, safe_block = GREATEST($6::bigint, LEAST($1::bigint, $7::bigint)),"
        " updated_at = clock_timestamp(),"
        " reprojecting_to = CASE WHEN reprojecting_to > $1 THEN reprojecting_to END",
        end.number, end.hash, end.timestamp, origin, digest, floor, safe,
    )  # fmt: skip


async def roll_back(conn: Connection, fork: int) -> None:
    """Lower the checkpoint, the floor and the safe block to block `fork`, which is stored; none of them is raised."""
    await _update(
        conn,
        "number = CASE WHEN c.number > $1 THEN b.number ELSE c.number END,"
        " hash = CASE WHEN c.number > $1 THEN b.hash ELSE c.hash END,"
        " timestamp = CASE WHEN c.number > $1 THEN b.timestamp ELSE c.timestamp END,"
        " rollback_floor = CASE WHEN c.rollback_floor > $1 THEN $1 ELSE c.rollback_floor END,"
        " safe_block = CASE WHEN c.safe_block > $1 THEN $1 ELSE c.safe_block END, updated_at = clock_timestamp()"
        " FROM indexer.block b WHERE b.number = $1",
        fork,
    )


async def clear(conn: Connection) -> None:
    """Forget what was projected.

    The floor stays: what was final is final, and a fork search must not read every stored block.
    """
    await _update(
        conn,
        "number = NULL, hash = NULL, timestamp = NULL, origin = NULL, digest = NULL, updated_at = clock_timestamp()",
    )


async def set_origin(conn: Connection, origin: int) -> None:
    """Set the first block that the public tables count from, after a replay of what is below the old one."""
    await _update(conn, "origin = $1", origin)


async def begin_reprojection(conn: Connection) -> None:
    """Note how far a reprojection must come, before the checkpoint is cleared; an interrupted one is resumed by it."""
    await _update(conn, "reprojecting_to = number")


async def is_reprojecting(conn: Connection) -> bool:
    """Return whether a reprojection that was requested by hand has not come to its end."""
    return await conn.fetchval("SELECT reprojecting_to FROM indexer.checkpoint") is not None


async def end_reprojection(conn: Connection) -> None:
    """Note that nothing is left of a reprojection, wherever it ended."""
    await _update(conn, "reprojecting_to = NULL")


async def _update(conn: Connection, change: str, *args: object) -> None:
    """Change the one row. Raises WriteInterceptedError if it stays as it is: the next step would go on from there."""
    status = await conn.execute(f"UPDATE indexer.checkpoint c SET {change}", *args)
    await effects.require(conn, "indexer.checkpoint", "updated", row_count(status), 1)
