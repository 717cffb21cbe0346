"""Slots: the consumers that follow the commit log, each with the last commit that it has confirmed.

While a slot exists that is not lost, every commit above its `seq` and above the floor is captured in the change log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from indexer.db.connection import Connection, row_count
from indexer.errors import RefusedError
from indexer.store import change_log, epoch

# SQL: whether steps above the floor are captured.
CAPTURING = "EXISTS (SELECT FROM indexer.stream_slot WHERE state <> 'lost')"

_COLUMNS = "name, level, tables, seq, generation, token, state, created_at, confirmed_at, lost_at, note"


class StreamSlot(NamedTuple):
    """A slot.

    `level`: finality of what it is to be given. `tables`: None for all. `seq`: the last confirmed commit. `generation`:
    grows when the consumer has to begin anew. `token`: of the process that serves it. `state`: a lost slot keeps
    nothing any more.
    """

    name: str
    level: Literal["instant", "safe", "finalized"]
    tables: list[str] | None
    seq: int
    generation: int
    token: int
    state: Literal["active", "paused", "lost"]
    created_at: datetime
    confirmed_at: datetime | None
    lost_at: datetime | None
    note: str | None


async def create(conn: Connection, name: str, level: str, tables: Sequence[str] | None = None) -> StreamSlot:
    """Create a slot whose consumer begins after the newest commit. Raises RefusedError if there is one of that name.

    Waits for the steps in progress: a step that cannot see the slot yet is committed, with a `seq` that the slot
    begins at or after. A step that begins later sees it.

    Args:
        conn: connection outside any transaction.
        name: name of the slot.
        level: instant, safe or finalized.
        tables: the tables that the consumer wants; None for all.
    """
    # Each statement has to see what was committed while the one before it waited.
    async with conn.transaction(isolation="read_committed"):
        await epoch.lock_out_steps(conn)
        row = await conn.fetchrow(
            "INSERT INTO indexer.stream_slot (name, level, tables, seq)"
            " SELECT $1, $2, $3, coalesce(max(seq), 0) FROM indexer.commit_log ON CONFLICT (name) DO NOTHING"
            f" RETURNING {_COLUMNS}",
            name,
            level,
            tables,
        )
        if row is None:
            raise RefusedError(f"there is a slot {name!r} already", "Choose another name, or drop that slot")
        await change_log.ensure_partitions(conn)
    return StreamSlot(*row)


async def drop(conn: Connection, name: str) -> None:
    """Drop a slot; what was kept for it is removed later. Raises RefusedError if there is none of that name."""
    if not row_count(await conn.execute("DELETE FROM indexer.stream_slot WHERE name = $1", name)):
        raise RefusedError(f"there is no slot {name!r}", "Choose another name")


async def list_all(conn: Connection) -> list[StreamSlot]:
    """Return every slot, by name."""
    return [StreamSlot(*row) for row in await conn.fetch(f"SELECT {_COLUMNS} FROM indexer.stream_slot ORDER BY name")]
