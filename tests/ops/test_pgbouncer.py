"""O10: a pooler that drops settings, or hands each transaction to another server process, is refused in one line."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from indexer.db.connection import SETTINGS
from indexer.embedded_pg.server import EmbeddedServer
from tests.ops.conftest import program
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import run
from tests.support.postgres import own_postgres
from tests.support.sockets import listens
from tests.support.waiting import until

pytestmark = pytest.mark.ops
IGNORED = {
    "as it comes": "", "told to ignore some": "statement_timeout,row_security",
    "told to ignore all": ",".join(SETTINGS) + ",extra_float_digits",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with own_postgres("pooled") as made:
        made.ensure_database("pooled")
        yield made


@contextlib.contextmanager
def pooler(server: EmbeddedServer, mode: str, ignored: str) -> Iterator[str]:
    """The URL of the database through a PgBouncer of this pool mode."""
    parts, port = urlsplit(server.url("pooled")), free_port()
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-pgbouncer-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{parts.username}" "{unquote(parts.password or "")}"\n')
    (folder / "ini").write_text(
        f"[databases]\npooled = host=127.0.0.1 port={parts.port} dbname=pooled\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {folder}/users\npool_mode = {mode}\nignore_startup_parameters = {ignored}\n"
    )
    process = subprocess.Popen(
        [program("pgbouncer"), str(folder / "ini")], user="nobody", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: listens(port) or process.poll() is not None, "PgBouncer listens")
        yield f"postgresql://{parts.username}@127.0.0.1:{port}/pooled"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("ignored", IGNORED)
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
async def test_o10_a_pooler_is_refused_in_one_line(mode: str, ignored: str, server: EmbeddedServer) -> None:
    with pooler(server, mode, IGNORED[ignored]) as url, AnvilNode() as node:
        node.mine(3)
        for command in ("run --http-port 0", "backfill --from-block 0", "migrate", "status", "check"):
            endpoint = ["--rpc-url", node.url] if command.startswith(("run", "backfill")) else []
            env = {"DATABASE_URL": url, "REYA_INDEXER_LOG_FORMAT": "json"}
            done = run(*command.split(), *endpoint, env=env)
            lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
            assert done.returncode == 18 and len(lines) == 1, (command, done.stderr)
            assert "pool" in lines[0] and "Name the server itself in DATABASE_URL" in lines[0], lines[0]
    conn = await asyncpg.connect(server.url("pooled"))
    tables = await conn.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'indexer')")
    await conn.close()
    assert tables == 0
