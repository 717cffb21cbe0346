"""Keeping the projector's lease: taking it, renewing it, and yielding it to a recovery that requests it."""

from __future__ import annotations

import time

import structlog

from indexer.db.connection import Connection
from indexer.schema import revisions
from indexer.store import lease

log = structlog.get_logger()


class LeaseKeeper:
    """Keeps the lease for one process.

    `token`: the lease; None without it. `extended_at`: when a commit or a renewal last extended it (monotonic, s).

    Args:
        holder: Name of this process in the lease.
        ingest_only: Whether to never take it.
    """

    def __init__(self, holder: str, *, ingest_only: bool = False) -> None:
        self._holder, self._ingest_only = holder, ingest_only
        self.token: int | None = None
        self.extended_at = 0.0
        self._lost_token: int | None = None  # the token held when the connection ended
        self._published: tuple[int, str] | None = None  # the lease, and what its row says its holder does

    async def release(self, conn: Connection) -> None:
        """Release the lease, if it is held, so that another process may take it at once."""
        if self.token is not None:
            await lease.release(conn, self.token)
            self.token = None

    async def publish(self, conn: Connection, state: str) -> None:
        """Write what the holder of the lease does, or waits for, where `status` finds it."""
        if self.token is not None and (self.token, state) != self._published:
            await lease.set_state(conn, self.token, state)
            self._published = self.token, state

    def disconnected(self) -> None:
        """Forget the lease, which was lost with the connection, but remember its token.

        If another process turns out to hold the lease, this one was fenced and must end: it may have been stopped in
        the middle of a step while the other one continued.
        """
        self._lost_token, self.token = self.token or self._lost_token, None

    async def take(self, conn: Connection) -> str | None:
        """Take the lease if it is free, or renew ours, so that it does not expire while the chain is silent.

        Yields it to a recovery that requests it, and returns the name of that recovery. Raises LeaseLostError.
        """
        if self._ingest_only:
            return None
        wanted = await lease.wanted_by(conn)
        if wanted is not None:
            if self.token is not None:
                await self.release(conn)
                log.info("lease_left", to=wanted)
            return wanted
        if self.token is None:
            self.token = await lease.acquire(conn, self._holder)
            if self.token is not None:
                await revisions.require_head(conn)  # a standby of the release before an upgrade must not write
                self.extended_at, self._lost_token = time.monotonic(), None
                log.info("lease_taken", holder=self._holder, token=self.token)
            elif self._lost_token is not None:
                await lease.ensure_still_held(conn, self._lost_token)
        elif time.monotonic() - self.extended_at > lease.TTL / 3:
            await lease.lock_and_renew(conn, self.token)
            self.extended_at = time.monotonic()
        return None
