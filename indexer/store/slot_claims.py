"""Which process serves a slot: one at a time, fenced by a token.

As for the lease of the projector, a claim is free when it has expired by the database's clock, or when the server
process of its holder's connection has ended. A holder that was merely stopped finds at its next confirmation that its
token is no longer the slot's: so it cannot move the position back.
"""

from __future__ import annotations

from indexer.db.connection import Connection
from indexer.errors import LeaseLostError
from indexer.store.lease import STARTED, alive_sql
from indexer.store.stream_slots import SLOT_COLUMNS, StreamSlot, get, lost_error, slot_of

TTL_S = 15  # Lifetime of a claim, which every confirmation and renewal extends (s).
_EXPIRY = f"clock_timestamp() + make_interval(secs => {TTL_S})"


async def claim(conn: Connection, name: str, holder: str) -> StreamSlot | None:
    """Claim a slot and return it with its new token; None while another process serves it, or while it is paused.

    Raises RefusedError if there is no slot of that name, or if it is lost.
    """
    row = await conn.fetchrow(
        f"UPDATE indexer.stream_slot l SET holder = $2, token = token + 1, backend_pid = pg_backend_pid(),"
        f" backend_start = {STARTED}, expires_at = {_EXPIRY} WHERE name = $1 AND state = 'active'"
        f" AND (holder IS NULL OR holder = $2 OR expires_at <= clock_timestamp() OR NOT {alive_sql('backend')})"
        f" RETURNING {SLOT_COLUMNS}",
        name,
        holder,
    )
    if row is not None:
        return slot_of(row)
    found = await get(conn, name)
    if found.state == "lost":
        raise lost_error(found)
    return None


async def confirm(conn: Connection, slot: StreamSlot, seq: int, generation: int) -> StreamSlot:
    """Store what a consumer has, and return the slot as it is now. Extends the claim.

    Args:
        conn: connection of the claim; in a transaction, the position commits with what else the transaction writes.
        slot: the slot as it was claimed or confirmed last.
        seq: the last commit that the consumer has.
        generation: generation of what it has.

    Raises:
        LeaseLostError: another process serves the slot now.
        RefusedError: the slot was dropped, or is lost.
    """
    row = await conn.fetchrow(
        f"UPDATE indexer.stream_slot SET seq = $3, generation = $4, confirmed_at = clock_timestamp(),"
        f" expires_at = {_EXPIRY} WHERE name = $1 AND token = $2 AND state <> 'lost' AND seq <= $3"
        f" RETURNING {SLOT_COLUMNS}",
        slot.name,
        slot.token,
        seq,
        generation,
    )
    if row is None:
        raise await _refusal(conn, slot)
    return slot_of(row)


async def begin_generation(conn: Connection, slot: StreamSlot) -> StreamSlot:
    """Begin a new generation for a snapshot, and return the slot as it is now. Raises as `confirm` does.

    Each attempt has a generation of its own: rows of one that was broken off, and that are gone since, must be older
    than the one that succeeds.
    """
    return await _update(conn, slot, "last_generation = last_generation + 1, confirmed_at = NULL")


async def renew(conn: Connection, slot: StreamSlot) -> StreamSlot:
    """Extend a claim and return the slot as it is now. Raises LeaseLostError and RefusedError as `confirm` does."""
    return await _update(conn, slot, "last_generation = last_generation")


async def release(conn: Connection, slot: StreamSlot) -> None:
    """End a claim, so that the next process need not wait for its expiry."""
    await conn.execute(
        "UPDATE indexer.stream_slot SET holder = NULL, backend_pid = NULL, backend_start = NULL, expires_at = NULL"
        " WHERE name = $1 AND token = $2",
        slot.name,
        slot.token,
    )


async def _update(conn: Connection, slot: StreamSlot, assignments: str) -> StreamSlot:
    row = await conn.fetchrow(
        f"UPDATE indexer.stream_slot SET {assignments}, expires_at = {_EXPIRY}"
        f" WHERE name = $1 AND token = $2 AND state <> 'lost' RETURNING {SLOT_COLUMNS}",
        slot.name,
        slot.token,
    )
    if row is None:
        raise await _refusal(conn, slot)
    return slot_of(row)


async def _refusal(conn: Connection, slot: StreamSlot) -> Exception:
    """Return why a slot no longer takes what its holder confirms."""
    now = await get(conn, slot.name)
    if now.state == "lost":
        return lost_error(now)
    return LeaseLostError(
        f"slot {slot.name!r} is served by {now.holder or 'another process'} now",
        "Two processes serve it: stop one; `reya-indexer stream status` names the holder",
    )
