"""A PostgreSQL of one's own, for as long as a block of code lasts."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from indexer.embedded_pg.server import EmbeddedServer


@contextlib.contextmanager
def own_postgres(name: str, within: str | None = "/tmp") -> Iterator[EmbeddedServer]:
    """In a new folder that an unprivileged server process can reach; `name` is a part of its name. `within`: None for
    where large temporary files go (TMPDIR)."""
    folder = Path(tempfile.mkdtemp(prefix=f"reya-indexer-{name}-", dir=within))
    folder.chmod(0o755)
    server = EmbeddedServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def execute(url: str, *statements: str) -> None:
    """The statements, each in a transaction of its own."""
    conn = await asyncpg.connect(url)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()
