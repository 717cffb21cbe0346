"""Background task that probes every endpoint and persists endpoint health."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from indexer.chain.types import BlockRef
from indexer.db.connection import Connect, Connection, close
from indexer.db.database_errors import DATABASE_ERRORS
from indexer.errors import error_label
from indexer.rpc import health_check
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.pool import Pool
from indexer.store import endpoint_health

SAVE_INTERVAL_S = 30.0
LAST_SAVE_TIMEOUT_S = 2.0  # for saving endpoint health at shutdown

log = structlog.get_logger()


class EndpointMonitor:
    """Probes the endpoints, and saves and restores their health.

    Args:
        pool: The endpoints.
        feed: The WebSocket endpoints.
        connect: Opens a connection for each save, so that a failing database costs endpoint health only.
        final_ref: Returns a final block as it is stored, as for HealthChecker.
    """

    def __init__(
        self, pool: Pool, feed: HeadFeed, connect: Connect, final_ref: Callable[[], BlockRef | None]
    ) -> None:  # fmt: skip
        self.pool, self.feed, self._connect = pool, feed, connect
        self._health_checker = health_check.HealthChecker(pool, final_ref)

    async def run(self) -> None:
        """Probe and save until cancelled."""
        saved_at = 0.0
        while True:
            try:
                await self._health_checker.check_all()
            except Exception as error:  # losing one round is better than losing all further rounds
                log.error("sentinel_failed", error=" ".join(f"{error_label(error)}: {error}".split()))
            if time.monotonic() - saved_at >= SAVE_INTERVAL_S:
                saved_at = time.monotonic()
                await self.save()
            await asyncio.sleep(health_check.CHECK_INTERVAL_S)

    async def restore(self) -> None:
        """Set aside, before the first step, the endpoints that were set aside when the last process ended.

        An endpoint that lied to that process is asked last by this one, too.
        """

        async def read(conn: Connection) -> None:
            for name, reason, detail, seconds in await endpoint_health.active_set_asides(conn):
                self.pool.restore_set_aside(name, reason, detail, seconds)

        await self._connected(read)

    async def save(self) -> None:
        """Save the health of all endpoints."""
        http = {reader.name: reader.endpoint.health for reader in self.pool.readers}

        async def write(conn: Connection) -> None:
            await endpoint_health.save(conn, "http", http, self.pool.clock())
            await endpoint_health.save(conn, "ws", self.feed.scores, self.feed.clock())

        await self._connected(write)

    async def save_once_more(self) -> None:
        """Save once more at shutdown, if the database is quick: a shutdown does not wait for endpoint health."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SAVE_TIMEOUT_S):
                await self.save()

    async def _connected(self, work: Callable[[Connection], Awaitable[None]]) -> None:
        """Run `work` on a new connection. Raises no database error: the follower meets the same error, and names it."""
        try:
            conn = await self._connect()
            try:
                await work(conn)
            finally:
                await close(conn)
        except DATABASE_ERRORS as error:
            log.debug("scores_not_kept", error=" ".join(str(error).split()))
