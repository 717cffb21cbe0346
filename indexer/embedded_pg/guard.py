"""Keeps the embedded server running while a daemon or a backfill works on it.

A server that was killed (by the kernel for its memory, by a mistake) is started again: nobody else would do it. One
that was stopped (`db stop`, `pg_ctl stop`) stays stopped, and the program ends with a code that a supervisor acts on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from indexer.embedded_pg.processes import Postmaster, postmaster
from indexer.embedded_pg.server import EmbeddedServer
from indexer.errors import EmbeddedServerError
from indexer.runtime.tasks import background_task, in_thread

LOOK_S = 1.0  # Between two looks at the server's process (s).

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def kept_running(server: EmbeddedServer | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Start the server again whenever it died during the `async with` block. None: there is no server of ours.

    If that is not possible, `stop` is set, and the block ends with EmbeddedServerError.
    """
    if server is None:
        yield
        return
    async with background_task(_watch(server, stop)) as watching:
        try:
            yield
        finally:
            if watching.done():
                await watching  # Why the work ended matters more than what it met at its end.


async def _watch(server: EmbeddedServer, stop: asyncio.Event) -> None:
    try:
        running = postmaster(server.cluster)
        while True:
            await asyncio.sleep(LOOK_S)
            if postmaster(server.cluster) is None and not stop.is_set():
                await _start_again(server, running)
    except Exception:
        stop.set()
        raise


async def _start_again(server: EmbeddedServer, before: Postmaster | None) -> None:
    if not server.died:
        raise EmbeddedServerError(
            f"the embedded PostgreSQL of {server.data_dir} was stopped", "Run the same command again: it starts it"
        )
    log.warning("embedded_postgresql_died", data_dir=str(server.data_dir))
    await in_thread(server.start)
    now = postmaster(server.cluster)
    if now is None or before is None or now.port != before.port:
        # Connections are made by a URL that names the port.
        raise EmbeddedServerError(
            "the embedded PostgreSQL was started again on another port", "Run the same command again"
        )
    log.info("embedded_postgresql_started_again", data_dir=str(server.data_dir))
