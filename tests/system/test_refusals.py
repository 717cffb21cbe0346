"""What must be refused: one clear line with a remedy, an exit code of its own, and nothing written."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import asyncpg
import pytest

from indexer.schema import migrate
from tests.support.anvil.node import ROOT, AnvilNode, free_port
from tests.support.daemon import run


async def fingerprint(url: str) -> list[tuple[object, ...]]:
    """Every table of the database with its number of rows, and the schema revision."""
    conn = await asyncpg.connect(url)
    try:
        tables = await conn.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS t FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
        )
        return [(r["t"], await conn.fetchval(f"SELECT count(*) FROM {r['t']}")) for r in tables]
    finally:
        await conn.close()


def refused(code: int, *words: str, arguments: list[str], env: Mapping[str, str]) -> None:
    """The command ends with `code` and one line that holds the words."""
    for command in (["run", "--http-port", "0"], ["backfill", "--from-block", "0"]):
        done = run(*command, "--log-format", "json", *arguments, env=env)
        assert done.returncode == code, (done.returncode, done.stderr)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        assert all(word in lines[0] for word in words), lines[0]
        assert "Traceback" not in done.stderr


async def test_a_wrong_chain_id_is_refused_before_the_database_is_touched(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode(chain_id=31337) as node:
        refused(12, "31337", "1729", "--chain", arguments=["--rpc-url", node.url], env={"DATABASE_URL": url})
    assert await fingerprint(url) == []


async def test_an_unreachable_endpoint_is_refused(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    endpoint = f"http://127.0.0.1:{free_port()}/secret-key"
    refused(11, "127.0.0.1", "--rpc-url", arguments=["--rpc-url", endpoint], env={"DATABASE_URL": url})
    done = run("run", "--rpc-url", endpoint, env={"DATABASE_URL": url})
    assert "secret-key" not in done.stderr
    assert await fingerprint(url) == []


async def test_no_endpoint_at_all_names_the_variable(fresh_database: Callable[[], str]) -> None:
    refused(10, "REYA_RPC_URL", arguments=[], env={"DATABASE_URL": fresh_database()})


async def test_a_database_that_is_not_ours_is_refused(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    conn = await asyncpg.connect(url)
    await conn.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    await conn.close()
    before = await fingerprint(url)
    with AnvilNode() as node:
        node.mine(3)
        refused(13, "DATABASE_URL", arguments=["--rpc-url", node.url], env={"DATABASE_URL": url})
    assert await fingerprint(url) == before == [("public.orders", 1)]


async def test_a_database_bound_to_another_deployment_or_chain_is_refused(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        node.mine(30)
        assert run("backfill", "--from-block", "0", "--rpc-url", node.url, env={"DATABASE_URL": url}).returncode == 0
    before = await fingerprint(url)
    with AnvilNode(chain_id=89346162) as node:
        node.mine(30)
        env = {"DATABASE_URL": url}
        refused(14, "reya", "cronos", arguments=["--chain", "cronos", "--rpc-url", node.url], env=env)
    with AnvilNode() as node:  # the same chain id, another chain
        node.rpc("evm_increaseTime", 1000)
        node.mine(30)
        refused(14, "0x", arguments=["--rpc-url", node.url], env={"DATABASE_URL": url})
    assert await fingerprint(url) == before


async def test_a_schema_newer_or_older_than_the_program_is_refused(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    await asyncio.to_thread(migrate.upgrade, url)
    conn = await asyncpg.connect(url)
    await conn.execute("UPDATE indexer.alembic_version SET version_num = '9999'")
    with AnvilNode() as node:
        node.mine(3)
        before = await fingerprint(url)
        refused(15, "9999", "newer", arguments=["--rpc-url", node.url], env={"DATABASE_URL": url})
        await conn.execute("UPDATE indexer.alembic_version SET version_num = '0001'")
        refused(16, "0001", "migrate", arguments=["--rpc-url", node.url], env={"DATABASE_URL": url})
        assert await fingerprint(url) == before
    await conn.close()


def test_a_database_that_does_not_answer_is_refused_without_its_password() -> None:
    with AnvilNode() as node:
        node.mine(3)
        url = f"postgresql://u:hunter2@127.0.0.1:{free_port()}/db"
        refused(18, "127.0.0.1", "DATABASE_URL", arguments=["--rpc-url", node.url], env={"DATABASE_URL": url})
        done = run("run", "--rpc-url", node.url, env={"DATABASE_URL": url})
        assert "hunter2" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("chain_id = 1729", 'chain_id = "x"', ("chain_id",)),
        ("start_block = 0", "start_blok = 0", ("start_blok", "unknown key")),
        ("0xa763b6a5e09378434406c003dae6487fbbdc1a80", "0xa763", ("contract[0].address",)),
        ('abis = ["core", "proxy"]', 'abis = ["cor"]', ("contract[0].abis", "cor")),
    ],
)
def test_a_broken_config_names_file_key_and_remedy(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "broken.toml"
    text = (ROOT / "config/reya.toml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    done = run("run", "--chain", str(path), "--rpc-url", "http://127.0.0.1:1", env={})
    assert done.returncode == 10 and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in (str(path), *words)), done.stderr


async def test_a_port_in_use_is_refused(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode() as node, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("run", "--http-port", port, "--rpc-url", node.url, env={"DATABASE_URL": url})
        assert done.returncode == 17 and port in done.stderr and "--http-port" in done.stderr
    assert await fingerprint(url) == []


def test_every_command_has_help_with_an_example() -> None:
    commands = [
        [], ["run"], ["backfill"], ["status"], ["migrate"], ["decode"], ["config"], ["config", "check"],
        ["config", "show"], ["db"], ["db", "start"], ["db", "stop"], ["db", "status"], ["db", "url"], ["db", "psql"],
        ["reorg"], ["reorg", "status"], ["reorg", "list"], ["reorg", "show"],
    ]  # fmt: skip
    for command in commands:
        done = run(*command, "--help", env={})
        assert done.returncode == 0 and "Example" in done.stdout and "reya-indexer" in done.stdout, command
