"""The lease: which process is the projector (one projector, fenced).

It is one row; its token is compared inside every projecting transaction. A lease is free when it has expired by the
database's clock, or when the server process of its holder's connection has ended, so that after kill -9 nobody waits
for the expiry. A holder that was merely stopped is fenced by the token. A recovery requests the lease in the same row;
the holder then releases it and waits until the recovery is done or its server process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator

import structlog

from indexer.db.connection import Connection
from indexer.errors import LeaseLostError, RefusedError

TTL = 30  # Lifetime of an acquired or renewed lease (s).
# SQL: when the server process of this connection began.
STARTED = "(SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())"


def alive_sql(prefix: str) -> str:
    """Return SQL: whether the server process that `l.<prefix>_pid` and `l.<prefix>_start` name still runs."""
    # The start time of another role's process is hidden (NULL); then it is enough that a process with that id exists.
    return (
        f"EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.{prefix}_pid"
        f" AND (a.backend_start = l.{prefix}_start OR a.backend_start IS NULL))"
    )


async def acquire(conn: Connection, holder: str) -> int | None:
    """Acquire the lease and return its token; None while another process holds it or a recovery requests it."""
    async with conn.transaction():
        row = await conn.fetchrow(
            f"SELECT l.holder, l.expires_at > clock_timestamp() AS valid, {alive_sql('backend')} AS alive, l.wanted_by,"
            f" {alive_sql('wanted')} AS asked FROM indexer.lease l FOR UPDATE SKIP LOCKED"
        )
        if row is None:  # A step of the holder, or another process that tries to acquire the lease, has it locked.
            return None
        if row["holder"] not in (None, holder) and row["valid"] and row["alive"]:
            return None
        if row["asked"] and row["wanted_by"] != holder:
            return None
        token: int = await conn.fetchval(
            "UPDATE indexer.lease SET holder = $1, token = token + 1, backend_pid = pg_backend_pid(),"
            f" expires_at = clock_timestamp() + make_interval(secs => $2), backend_start = {STARTED} RETURNING token",
            holder,
            TTL,
        )
        return token


async def lock_and_renew(conn: Connection, token: int) -> None:
    """Lock the lease until the caller's transaction ends, and extend it.

    Raises LeaseLostError when another process has acquired it since.
    """
    renewed = await conn.fetchval(
        "UPDATE indexer.lease SET expires_at = clock_timestamp() + make_interval(secs => $2)"
        " WHERE token = $1 RETURNING token",
        token,
        TTL,
    )
    if renewed is None:
        raise lost_error()


async def ensure_still_held(conn: Connection, token: int) -> None:
    """Raise LeaseLostError when another process has acquired the lease since it had this token."""
    if await conn.fetchval("SELECT token FROM indexer.lease") != token:
        raise lost_error()


def lost_error() -> LeaseLostError:
    """Return the error of a holder whose lease another process has acquired."""
    return LeaseLostError(
        "another process is the projector now",
        "Two daemons run on this database: stop one; `reya-indexer status` names the holder",
    )


async def release(conn: Connection, token: int) -> None:
    """Release the lease so that the next holder need not wait for the expiry."""
    await conn.execute(
        "UPDATE indexer.lease SET holder = NULL, expires_at = NULL, backend_pid = NULL, state = NULL WHERE token = $1",
        token,
    )


async def request(conn: Connection, holder: str) -> str | None:
    """Ask the current holder, and all processes in standby, to leave the lease to `holder`.

    The request lapses when this connection ends. Returns None when it is recorded, else the name of an earlier
    requester that is still active.
    """
    async with conn.transaction():
        row = await conn.fetchrow(f"SELECT l.wanted_by, {alive_sql('wanted')} AS asked FROM indexer.lease l FOR UPDATE")
        assert row is not None, "the migration made the row"
        if row["asked"] and row["wanted_by"] != holder:
            return str(row["wanted_by"])
        await conn.execute(
            f"UPDATE indexer.lease SET wanted_by = $1, wanted_pid = pg_backend_pid(), wanted_start = {STARTED}", holder
        )
    return None


async def withdraw(conn: Connection, holder: str) -> None:
    """Withdraw a request, so that processes in standby may acquire the lease again."""
    await conn.execute(
        "UPDATE indexer.lease SET wanted_by = NULL, wanted_pid = NULL, wanted_start = NULL WHERE wanted_by = $1", holder
    )


async def wanted_by(conn: Connection) -> str | None:
    """Return the name of the process that requests the lease now, or None."""
    requester: str | None = await conn.fetchval(f"SELECT wanted_by FROM indexer.lease l WHERE {alive_sql('wanted')}")
    return requester


async def set_state(conn: Connection, token: int, state: str) -> None:
    """Record what the holder is doing, for the `status` command."""
    await conn.execute("UPDATE indexer.lease SET state = $2 WHERE token = $1", token, state)


REQUEST_TIMEOUT_S = 90.0  # Time within which a daemon that was asked to pause must have done so (s).
log = structlog.get_logger()


def holder_name(command: str) -> str:
    """Return a holder name that is unique to each call, and so to each process."""
    return f"{command} {socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@contextlib.asynccontextmanager
async def exclusive_lease(conn: Connection, holder: str) -> AsyncIterator[int]:
    """Request the lease from its holder, hold it for the `async with` block, and yield its token.

    Raises RefusedError when another command has requested it, or when the holder does not pause in time.
    """
    other = await request(conn, holder)
    if other is not None:
        raise RefusedError(f"{other} is running on this database", "Wait until it finishes")
    token = None
    try:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while (token := await acquire(conn, holder)) is None:
            if time.monotonic() > deadline:
                raise RefusedError(
                    f"the projector did not pause within {REQUEST_TIMEOUT_S:.0f} seconds",
                    "See `reya-indexer status` for its name; stop that process and try again",
                )
            await asyncio.sleep(0.1)
        log.info("daemon_paused", holder=holder)
        yield token
    finally:
        if token is not None:
            await release(conn, token)
        await withdraw(conn, holder)
