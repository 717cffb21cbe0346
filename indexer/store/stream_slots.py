"""Slots: the consumers that follow the commit log, each with the last commit that it has confirmed.

While a slot exists that is not lost, every commit above its `seq` and above the floor is captured in the change log.
Who serves a slot: `slot_claims.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from indexer.db.connection import Connection, row_count
from indexer.errors import RefusedError
from indexer.runtime.exact_json import from_json, to_json
from indexer.store import change_log, epoch
from indexer.store.incidents import resolve
from indexer.store.slot_retention import SLOT_LOST

# SQL: whether steps above the floor are captured.
CAPTURING = "EXISTS (SELECT FROM indexer.stream_slot WHERE state <> 'lost')"

SlotState = Literal["active", "paused", "lost"]
SLOT_COLUMNS = (
    "name, sink, live, level, tables, seq, generation, last_generation, token, state, holder, created_at, confirmed_at,"
    " lost_at, note"
)
NEWEST = "(SELECT coalesce(max(seq), 0) FROM indexer.commit_log)"


class StreamSlot(NamedTuple):
    """A slot.

    `sink`: where its changes are delivered, without secrets; None if a program of its own reads them. `live`: it has no
    position of a consumer; retention advances its `seq`, and whoever reads from before that begins anew. `level`:
    finality of what it is to be given. `tables`: None for all. `seq`: the last confirmed commit. `generation`: of what
    the consumer has; each snapshot is one. `last_generation`: the last that was begun, also if it was broken off.
    `token`: of the process that serves it, `holder`. `state`: a lost slot keeps nothing any more. `confirmed_at`: None
    until a consumer has confirmed a snapshot, which is what it needs first.
    """

    name: str
    sink: dict[str, Any] | None
    live: bool
    level: Literal["instant", "safe", "finalized"]
    tables: list[str] | None
    seq: int
    generation: int
    last_generation: int
    token: int
    state: SlotState
    holder: str | None
    created_at: datetime
    confirmed_at: datetime | None
    lost_at: datetime | None
    note: str | None


def slot_of(row: Any) -> StreamSlot:
    """Return the slot in a row of SLOT_COLUMNS."""
    name, sink, *rest = row
    return StreamSlot(name, None if sink is None else from_json(sink), *rest)


async def create(
    conn: Connection,
    name: str,
    level: str,
    tables: Sequence[str] | None = None,
    *,
    sink: dict[str, Any] | None = None,
    live: bool = False,
) -> StreamSlot:
    """Create a slot whose consumer begins after the newest commit. Raises RefusedError if there is one of that name.

    Waits for the steps in progress: a step that cannot see the slot yet is committed, with a `seq` that the slot
    begins at or after. A step that begins later sees it.

    Args:
        conn: connection outside any transaction.
        name: name of the slot.
        level: instant, safe or finalized.
        tables: the tables that the consumer wants; None for all.
        sink: where its changes are delivered, without secrets.
        live: whether it has no consumer that confirms.
    """
    # Each statement has to see what was committed while the one before it waited.
    async with conn.transaction(isolation="read_committed"):
        await epoch.lock_out_steps(conn)
        row = await conn.fetchrow(
            "INSERT INTO indexer.stream_slot (name, level, tables, sink, live, seq)"
            f" VALUES ($1, $2, $3, $4, $5, {NEWEST}) ON CONFLICT (name) DO NOTHING RETURNING {SLOT_COLUMNS}",
            name,
            level,
            tables,
            None if sink is None else to_json(sink),
            live,
        )
        if row is None:
            raise RefusedError(f"there is a slot {name!r} already", "Choose another name, or drop that slot")
        await change_log.ensure_partitions(conn)
    return slot_of(row)


async def restart(conn: Connection, name: str) -> StreamSlot:
    """Let a slot begin anew with a snapshot, after the newest commit; a lost one is captured for again.

    Waits for the steps in progress, as `create` does. Raises RefusedError if there is no slot of that name.
    """
    async with conn.transaction(isolation="read_committed"):
        await epoch.lock_out_steps(conn)
        row = await conn.fetchrow(
            f"UPDATE indexer.stream_slot SET seq = {NEWEST}, state = 'active', confirmed_at = NULL,"
            f" lost_at = NULL, note = NULL WHERE name = $1 RETURNING {SLOT_COLUMNS}",
            name,
        )
        if row is None:
            raise no_slot(name)
        await change_log.ensure_partitions(conn)
        await resolve(conn, SLOT_LOST, name)
    return slot_of(row)


async def drop(conn: Connection, name: str) -> None:
    """Drop a slot; what was kept for it is removed later. Raises RefusedError if there is none of that name."""
    if not row_count(await conn.execute("DELETE FROM indexer.stream_slot WHERE name = $1", name)):
        raise no_slot(name)
    await resolve(conn, SLOT_LOST, name)


async def set_paused(conn: Connection, name: str, *, paused: bool) -> None:
    """Pause or resume a slot. A paused one is not served, but keeps its changes.

    Raises RefusedError if there is none of that name, or if it is lost.
    """
    found = await get(conn, name)
    if found.state == "lost":
        raise lost_error(found)
    await conn.execute(
        "UPDATE indexer.stream_slot SET state = $2 WHERE name = $1 AND state <> 'lost'",
        name,
        "paused" if paused else "active",
    )


async def get(conn: Connection, name: str) -> StreamSlot:
    """Return a slot. Raises RefusedError if there is none of that name."""
    row = await conn.fetchrow(f"SELECT {SLOT_COLUMNS} FROM indexer.stream_slot WHERE name = $1", name)
    if row is None:
        raise no_slot(name)
    return slot_of(row)


async def list_all(conn: Connection) -> list[StreamSlot]:
    """Return every slot, by name."""
    return [slot_of(row) for row in await conn.fetch(f"SELECT {SLOT_COLUMNS} FROM indexer.stream_slot ORDER BY name")]


def no_slot(name: str) -> RefusedError:
    """Return the error of a name that no slot has."""
    return RefusedError(f"there is no slot {name!r}", "`reya-indexer stream status` lists them")


def lost_error(slot: StreamSlot) -> RefusedError:
    """Return the error of a slot whose changes are no longer kept."""
    return RefusedError(
        f"slot {slot.name!r} is lost: {slot.note or 'its changes are no longer kept'}",
        f"Begin anew from a snapshot: `reya-indexer stream bootstrap {slot.name}`",
    )
