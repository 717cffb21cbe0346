"""The epoch: a number that every change of the past moves (one projector, fenced). Who ingests or projects holds it
shared to the
commit, who rolls back or heals takes it alone; so nothing that was planned before such a change is written after it."""

from __future__ import annotations

from indexer.db.connection import Connection
from indexer.errors import EpochChangedError


async def current(conn: Connection) -> int:
    value: int = await conn.fetchval("SELECT value FROM indexer.epoch")
    return value


async def lock_shared(conn: Connection, planned: int) -> None:
    """Holds the epoch to the end of the caller's transaction. Raises EpochChangedError when it is not the planned
    one."""
    if await conn.fetchval("SELECT value FROM indexer.epoch FOR SHARE") != planned:
        raise EpochChangedError


async def lock_exclusive(conn: Connection, planned: int) -> None:
    """The same with nobody else ingesting."""
    if await conn.fetchval("SELECT value FROM indexer.epoch FOR UPDATE") != planned:
        raise EpochChangedError


async def bump(conn: Connection) -> None:
    """In a transaction that took it."""
    await conn.execute("UPDATE indexer.epoch SET value = value + 1")
