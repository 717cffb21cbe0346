"""The shell, the database's encoding and the URL: none of them decides in silence where and how the program works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import run

HOSTILE = {
    "PGHOST": "192.0.2.1", "PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "elsewhere",
    "PGPASSWORD": "wrong", "PGSERVICE": "none", "PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby",
    "PGOPTIONS": "-c search_path=elsewhere -c default_transaction_read_only=on", "PGREQUIREPEER": "nobody",
    "PGSSLROOTCERT": "/none", "PGCONNECT_TIMEOUT": "1", "PGCLIENTENCODING": "LATIN1", "PGTZ": "Asia/Tokyo",
}  # fmt: skip


def one_line(done_stderr: str) -> str:
    lines = [line for line in done_stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and "Traceback" not in done_stderr, done_stderr
    return lines[0]


def test_o05_the_shells_pg_variables_do_not_decide_where_we_work(fresh_database: Callable[[], str]) -> None:
    env = HOSTILE | {"DATABASE_URL": fresh_database()}
    with AnvilNode() as node:
        node.mine(30)
        done = run("backfill", "--from-block", "0", "--rpc-url", node.url, env=env)
        assert done.returncode == 0, done.stderr
    shown = run("status", "--json", env=env)
    assert shown.returncode == 0 and json.loads(shown.stdout)["chain"] == "reya", shown.stderr
    if shutil.which("psql"):
        asked = run("db", "exec", "--", "psql", "-tAc", "SELECT current_database(), current_user", env=env)
        name, user = asked.stdout.strip().split("|")
        assert (name, user != "nobody") == (env["DATABASE_URL"].rpartition("/")[2], True), asked.stderr
        opened = run("db", "psql", "--", "-tAc", "SELECT current_database()", env=env)
        assert opened.stdout.strip() == name, opened.stderr


def test_o05_the_embedded_server_starts_under_any_pg_variables(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = Path("/tmp") / f"reya-indexer-o05-{tmp_path.name}"
    try:
        done = run("db", "start", "--data-dir", str(folder), env=HOSTILE)
        assert done.returncode == 0, done.stderr
        assert run("db", "stop", "--data-dir", str(folder), env=HOSTILE).returncode == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_o08_a_database_that_cannot_hold_every_name_is_refused(
    encoding: str, fresh_database: Callable[[], str]
) -> None:
    base = fresh_database()
    name = f"{base.rpartition('/')[2]}_{encoding.lower()}"
    conn = await asyncpg.connect(base)
    try:
        await conn.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        url = f"{base.rpartition('/')[0]}/{name}"
        for command in (["run"], ["backfill", "--from-block", "0"], ["migrate"], ["status"], ["check"]):
            endpoint = ["--rpc-url", f"http://127.0.0.1:{free_port()}"] if command[0] in ("run", "backfill") else []
            with AnvilNode() as node:
                endpoint = ["--rpc-url", node.url] if endpoint else []
                done = run(*command, *endpoint, env={"DATABASE_URL": url, "REYA_INDEXER_LOG_FORMAT": "json"})
            assert done.returncode == 18, (command, done.stderr)
            assert encoding in one_line(done.stderr) and "ENCODING 'UTF8'" in done.stderr
        tables = await (other := await asyncpg.connect(url)).fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'indexer')"
        )
        await other.close()
        assert tables == 0
    finally:
        await conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await conn.close()


async def test_o06_no_host_with_the_demanded_attributes_is_one_line(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    done = run("migrate", env={"DATABASE_URL": url + "?target_session_attrs=standby"})
    line = one_line(done.stderr)
    assert done.returncode == 18 and "target_session_attrs" in line and "Promote" in line


async def test_o11_what_a_url_may_say(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    copied = "schema=public&connection_limit=5&pool_timeout=9&pgbouncer=true&connect_timeout=10&keepalives=1"
    done = run("migrate", env={"DATABASE_URL": f"{url}?{copied}&channel_binding=prefer&gssencmode=prefer"})
    assert done.returncode == 0, done.stderr
    for parameter, words in (("schema=other", "schema=other"), ("no_such_setting=1", "no_such_setting")):
        done = run("status", env={"DATABASE_URL": f"{url}?{parameter}"})
        line = one_line(done.stderr)
        assert done.returncode == 18 and words in line and "emove" in line, line
