"""What a daemon does about its endpoints beside its steps: it looks at all of them, and keeps their scores."""

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

SAVE_INTERVAL_S = 30.0  # seconds
LAST_SAVE_TIMEOUT_S = 2.0  # seconds that writing the scores may take at the end

log = structlog.get_logger()


class EndpointMonitor:
    """`connect` opens a connection for each writing: a database in trouble costs scores only. `anchor`: as
    HealthChecker."""

    def __init__(
        self, pool: Pool, feed: HeadFeed, connect: Connect, anchor: Callable[[], BlockRef | None]
    ) -> None:  # fmt: skip
        self.pool, self.feed, self._connect = pool, feed, connect
        self._health_checker = health_check.HealthChecker(pool, anchor)

    async def run(self) -> None:
        """Until it is cancelled."""
        kept = 0.0
        while True:
            try:
                await self._health_checker.check_all()
            except Exception as error:  # one round less is better than none from now on
                log.error("sentinel_failed", error=" ".join(f"{error_label(error)}: {error}".split()))
            if time.monotonic() - kept >= SAVE_INTERVAL_S:
                kept = time.monotonic()
                await self.save()
            await asyncio.sleep(health_check.CHECK_INTERVAL_S)

    async def restore(self) -> None:
        """Before the first step: who lied to the process before is asked last by this one, too."""

        async def read(conn: Connection) -> None:
            for name, reason, detail, seconds in await endpoint_health.active_set_asides(conn):
                self.pool.restore_set_aside(name, reason, detail, seconds)

        await self._connected(read)

    async def save(self) -> None:
        """Writes the scores."""
        http = {reader.name: reader.endpoint.health for reader in self.pool.readers}

        async def write(conn: Connection) -> None:
            await endpoint_health.save(conn, "http", http, self.pool.clock())
            await endpoint_health.save(conn, "ws", self.feed.scores, self.feed.clock())

        await self._connected(write)

    async def save_once_more(self) -> None:
        """Writes them once more, if the database is quick: nobody waits for scores to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SAVE_TIMEOUT_S):
                await self.save()

    async def _connected(self, work: Callable[[Connection], Awaitable[None]]) -> None:
        """Never raises: the follower meets the same trouble, and names it."""
        try:
            conn = await self._connect()
            try:
                await work(conn)
            finally:
                await close(conn)
        except DATABASE_ERRORS as error:
            log.debug("scores_not_kept", error=" ".join(str(error).split()))
