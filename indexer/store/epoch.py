"""The epoch: a number that every change of the past bumps (one projector, fenced).

Ingesting and projecting hold it under a shared lock until the commit; a rollback or a heal locks it exclusively. So
nothing that was planned before such a change is written after it.
"""

from __future__ import annotations

from indexer.db.connection import Connection, row_count
from indexer.errors import EpochChangedError
from indexer.store import effects


async def current(conn: Connection) -> int:
    """Return the epoch without locking it."""
    value: int = await conn.fetchval("SELECT value FROM indexer.epoch")
    return value


async def lock_shared(conn: Connection, planned: int) -> None:
    """Hold the epoch until the caller's transaction ends. Raises EpochChangedError unless it is still `planned`."""
    if await conn.fetchval("SELECT value FROM indexer.epoch FOR SHARE") != planned:
        raise EpochChangedError


async def lock_exclusive(conn: Connection, planned: int) -> None:
    """Lock the epoch until the caller's transaction ends, so that nobody ingests meanwhile.

    Raises EpochChangedError unless it is still `planned`.
    """
    if await conn.fetchval("SELECT value FROM indexer.epoch FOR UPDATE") != planned:
        raise EpochChangedError


async def lock_out_steps(conn: Connection) -> None:
    """Wait for the steps in progress, and keep out new ones until the caller's transaction ends."""
    await conn.execute("SELECT FROM indexer.epoch FOR UPDATE")


async def bump(conn: Connection) -> None:
    """Increment the epoch, inside the transaction that called `lock_exclusive`. Raises WriteInterceptedError.

    Otherwise what was planned before this change could still be written after it.
    """
    status = await conn.execute("UPDATE indexer.epoch SET value = value + 1")
    await effects.require(conn, "indexer.epoch", "updated", row_count(status), 1)
