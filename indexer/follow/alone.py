"""The lease for a command that changes the past: a running daemon pauses and goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator

import structlog

from indexer.errors import Refused
from indexer.store import lease
from indexer.store.database import Connection

PATIENCE = 90.0  # seconds until a daemon that was asked to pause must have done so

log = structlog.get_logger()


def named(command: str) -> str:
    """A holder's name, its own for each process."""
    return f"{command} {socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@contextlib.asynccontextmanager
async def alone(conn: Connection, holder: str) -> AsyncIterator[int]:
    """The lease, asked for in its row. Its token.

    Raises Refused when another such command works, or the holder does not pause in time.
    """
    other = await lease.request(conn, holder)
    if other is not None:
        raise Refused(f"{other} is at work on this database", "Wait until it has ended")
    token = None
    try:
        until = time.monotonic() + PATIENCE
        while (token := await lease.acquire(conn, holder)) is None:
            if time.monotonic() > until:
                raise Refused(
                    f"the projector did not pause within {PATIENCE:.0f} seconds",
                    "See `reya-indexer status` for its name; stop that process and try again",
                )
            await asyncio.sleep(0.1)
        log.info("daemon_paused", holder=holder)
        yield token
    finally:
        if token is not None:
            await lease.release(conn, token)
        await lease.withdraw(conn, holder)
