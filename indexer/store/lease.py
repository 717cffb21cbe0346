"""Who projects (rule 10). One row; its token is compared inside every projecting transaction.

A lease is free when it has expired by the database's clock, or when the server process of its holder's connection is
gone: after kill -9 nobody waits for the expiry. A holder that was merely stopped is fenced by the token.
"""

from __future__ import annotations

from indexer.errors import LeaseLost
from indexer.store.database import Connection

TTL = 30  # seconds


async def acquire(conn: Connection, holder: str) -> int | None:
    """The token when the lease is ours now, None while another holds it."""
    async with conn.transaction():
        row = await conn.fetchrow(
            "SELECT l.holder, l.expires_at > clock_timestamp() AS valid, EXISTS (SELECT FROM pg_stat_activity a"
            " WHERE a.pid = l.backend_pid AND a.backend_start = l.backend_start) AS alive"
            " FROM indexer.lease l FOR UPDATE"
        )
        assert row is not None, "the migration made the row"
        if row["holder"] not in (None, holder) and row["valid"] and row["alive"]:
            return None
        token: int = await conn.fetchval(
            "UPDATE indexer.lease SET holder = $1, token = token + 1, backend_pid = pg_backend_pid(),"
            " expires_at = clock_timestamp() + make_interval(secs => $2), backend_start ="
            " (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) RETURNING token",
            holder,
            TTL,
        )
        return token


async def hold(conn: Connection, token: int) -> None:
    """Locks the lease to the end of the caller's transaction and extends it. Raises LeaseLost when it changed hands."""
    kept = await conn.fetchval(
        "UPDATE indexer.lease SET expires_at = clock_timestamp() + make_interval(secs => $2)"
        " WHERE token = $1 RETURNING token",
        token,
        TTL,
    )
    if kept is None:
        raise LeaseLost(
            "another process is the projector now",
            "Two daemons run on this database: stop one; `reya-indexer status` names the holder",
        )


async def release(conn: Connection, token: int) -> None:
    """Frees the lease so that the next one need not wait."""
    await conn.execute(
        "UPDATE indexer.lease SET holder = NULL, expires_at = NULL, backend_pid = NULL WHERE token = $1", token
    )
