"""What can happen to a PostgreSQL: killed, restarted, paused, locked, filled. Each holds while its context is open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from indexer.embedded_pg.processes import postmaster
from indexer.embedded_pg.server import EmbeddedServer

# The server's own error, for tests that cannot fill a disk, and for one table at a time.
FULL = """
CREATE FUNCTION test.full() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END$$;
CREATE TRIGGER test_full BEFORE INSERT ON {} FOR EACH STATEMENT EXECUTE FUNCTION test.full();
"""
FILLER = (
    "CREATE SCHEMA filler; CREATE TABLE filler.page (page text); ALTER TABLE filler.page ALTER page SET STORAGE PLAIN"
)


@contextlib.contextmanager
def small_disk(server: EmbeddedServer, megabytes: int) -> Iterator[Path | None]:
    """A folder on a disk of this size; None where this machine lets nobody mount one."""
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-disk-", dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    ) if os.geteuid() == 0 and shutil.which("mount") else None  # fmt: skip
    try:
        if mounted is not None and mounted.returncode == 0:
            owner = server.cluster.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
            yield folder
        else:
            yield None
    finally:
        if mounted is not None and mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def processes(server: EmbeddedServer) -> list[int]:
    """Of a server that runs, the postmaster first."""
    head = postmaster(server.cluster)
    assert head is not None
    children = Path(f"/proc/{head.pid}/task/{head.pid}/children").read_text().split()
    return [head.pid, *map(int, children)]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def paused(server: EmbeddedServer) -> Iterator[None]:
    """Every process of the server stopped: connections are taken by the kernel, and nobody answers."""
    everyone = processes(server)
    send(everyone, signal.SIGSTOP)
    try:
        yield
    finally:
        send(everyone, signal.SIGCONT)


@contextlib.asynccontextmanager
async def killed(server: EmbeddedServer, everyone: bool) -> AsyncIterator[None]:
    """kill -9 of the postmaster alone, whose backends outlive it for a moment, or of every process at once; started
    again, with a crash to recover from, when it is over."""
    found = processes(server)
    send(found if everyone else found[:1], signal.SIGKILL)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


@contextlib.asynccontextmanager
async def away(server: EmbeddedServer) -> AsyncIterator[None]:
    """Shut down as an administrator does, and started again."""
    await asyncio.to_thread(server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


@contextlib.asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[None]:
    """Somebody else's transaction that has the whole table."""
    holder = await asyncpg.connect(url, server_settings={"application_name": "somebody's psql"})
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await holder.close()


async def fill(conn: asyncpg.Connection) -> None:
    """To the last page of the disk."""
    for rows in (3000, 300, 30, 1):
        with contextlib.suppress(asyncpg.DiskFullError):
            while True:
                await conn.execute(f"INSERT INTO filler.page SELECT repeat('x', 7000) FROM generate_series(1, {rows})")


@contextlib.asynccontextmanager
async def filled(url: str) -> AsyncIterator[None]:
    """The disk of the database `url` without a free page; pages that its tables have are written on."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(FILLER)
        await fill(conn)
        yield
    finally:
        await conn.execute("DROP SCHEMA filler CASCADE")
        await conn.execute("CHECKPOINT")  # a crash from here on must not fill the disk once more, to recover
        await conn.close()


@contextlib.asynccontextmanager
async def refusing(url: str, table: str) -> AsyncIterator[None]:
    """As `filled`, where no disk can be had that is small enough: every INSERT into the table meets the error."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("CREATE SCHEMA test;" + FULL.format(table))
        yield
    finally:
        await conn.execute(f"DROP TRIGGER test_full ON {table}; DROP SCHEMA test CASCADE")
        await conn.close()
