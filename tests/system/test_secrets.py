"""A secret in every URL, everything made to fail, and all that the program says searched for them."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg

from indexer.embedded_pg.server import EmbeddedServer
from tests.support.anvil.node import free_port
from tests.support.daemon import PROGRAM, Daemon, environment, get, run
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import Fault, Say, ThreadedNode
from tests.support.simchain.view import Depth
from tests.support.simchain.world import exchange
from tests.support.waiting import eventually

CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"
WORDS = ("basic", "key", "query", "away", "socket", "token")
SECRETS = [f"s3cret-{word}-{random.Random(word).randrange(10**9)}" for word in WORDS]
BASIC, KEY, QUERY, AWAY, SOCKET, TOKEN = SECRETS
WRONG, SLASH = "wr0ng-passw0rd", "un/escaped-w0rd"


class Heard:
    """All that the program said, by source."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self.secrets, self.said = secrets, dict[str, str]()

    def add(self, source: str, text: str) -> None:
        self.said[source] = self.said.get(source, "") + text

    def command(self, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = run(*arguments, env=env)
        self.add(" ".join(arguments[:2]), done.stdout + done.stderr)
        return done

    def search(self) -> None:
        told = [
            f"{name} in {source}: ...{text[max(0, text.find(secret) - 80) :][:160]}"
            for source, text in self.said.items()
            for name, secret in self.secrets.items()
            if secret in text
        ]
        assert not told, "\n".join(told)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of a process and all that it started, as every user of the machine can read them."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int(re.sub(r".*\) ", "", (entry / "stat").read_text()).split()[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {number: lines.get(number, "") for number in family}


def backfill(
    heard: Heard, node: ThreadedNode, config: str, env: dict[str, str], folder: Path, says: list[Fault]
) -> None:
    """With three workers; the arguments of all processes are read while they work."""
    arguments = ["backfill", "--chain", config, "--from-block", "0", "--workers", "3", "--json", "-v"]
    with (folder / "backfill").open("wb") as sink:
        child = subprocess.Popen([*PROGRAM, *arguments], env=environment(env), stdout=sink, stderr=sink)
    seen: dict[int, str] = {}
    while child.poll() is None:
        seen |= descendants(child.pid)
        if says and node.http_requests > 12:
            node.fail_next.append(says.pop())
        time.sleep(0.02)
    heard.add("arguments of a backfill's processes", "\n".join(seen.values()))
    heard.add("output of backfill", (folder / "backfill").read_text())
    assert child.returncode == 0, heard.said["output of backfill"][-3000:]
    assert len(seen) >= 4, "it has three workers"


async def terminate_backends(url: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await conn.close()


async def stored_text(url: str) -> str:
    """What the program keeps in words."""
    conn = await asyncpg.connect(url)
    tables = ("reorg_journal", "lease", "incident", "deployment", "commit_log")
    rows = [await conn.fetch(f"SELECT to_jsonb(t)::text FROM indexer.{table} t") for table in tables]
    await conn.close()
    return "\n".join(row[0] for found in rows for row in found)


async def test_no_secret_is_told_whatever_fails(
    tmp_path: Path, fresh_database: Callable[[], str], server: EmbeddedServer
) -> None:
    database = fresh_database()
    named = {word: secret for word, secret in zip(WORDS, SECRETS, strict=True)}
    named |= {
        "password": urlsplit(database).password or "",
        "wrong": WRONG,
        "slash": SLASH,
        "part": SLASH.split("/")[1],
    }
    heard = Heard(named)
    config = str(tmp_path / "devnet.toml")
    Path(config).write_text(re.sub(r"max_blocks = \d+", "max_blocks = 50", CONFIG.read_text()))
    tree, rng = Tree(), random.Random("secrets")
    chain = exchange(tree)
    tip = chain.grow(tree.genesis.hash, 900, rng, 0.3)
    fork = chain.grow(tree.ancestor(tip.hash, 895).hash, 9, rng, 2.0, salt=b"fork")
    with ThreadedNode(tree, tip.hash, 89346162) as node:
        node.finalized = node.safe = Depth(20)
        host = node.url.removeprefix("http://")
        good = f"http://user:{BASIC}@{host}/v2/{KEY}?apikey={QUERY}"
        env = {
            "DATABASE_URL": database,
            "DEVNET_RPC_URL": f"{good},http://127.0.0.1:1/v3/{AWAY}",
            "DEVNET_WS_URL": f"ws://{host}/ws/{SOCKET}?token={TOKEN}",
        }
        echo = Say(401, json.dumps({"error": {"code": -32000, "message": f"key {KEY} of {good} is not known"}}))
        backfill(heard, node, config, env, tmp_path, [echo, Say(200, f"<html>{good}</html>"), "429", "drop", echo])
        # The daemon has the same in files.
        files = {}
        for name, value in env.items():
            (tmp_path / name).write_text(value + "\n")
            files[f"{name}_FILE"] = str(tmp_path / name)
        port = free_port()
        daemon = Daemon(["--chain", config, "--http-port", str(port), "-v"], files, tmp_path / "log")
        try:
            await trouble(heard, node, daemon, f"http://127.0.0.1:{port}", echo, fork.hash)
            await terminate_backends(database)
            await asyncio.to_thread(server.stop)
            await without_database(heard, daemon, f"http://127.0.0.1:{port}", config, env)
            await asyncio.to_thread(server.start)
            await with_database(heard, daemon, f"http://127.0.0.1:{port}", config, files)
        finally:
            assert daemon.terminate()[0] == 0
        others(heard, config, env, database)
    heard.add("log of the daemon", (tmp_path / "log").read_text())
    heard.add("stored", await stored_text(database))
    log = heard.said["log of the daemon"]
    assert r"key \u2026 of" in log and "endpoint_failed" in log and '"the database: ' in log, "the trouble was told"
    assert heard.said["/metrics"].count("reya_indexer_rpc_calls_total") > 3 and "/…" in heard.said["stored"]
    heard.search()


async def trouble(heard: Heard, node: ThreadedNode, daemon: Daemon, base: str, echo: Fault, fork: bytes) -> None:
    """A reorg, an endpoint that quotes the URL, and one that is gone."""
    daemon.wait_for("following")
    await until(lambda: json.loads(get(f"{base}/status")[1])["projected"] == 900)
    node.head = fork
    daemon.wait_for("reorg")

    def quoted() -> bool:
        # Several tasks ask, and each tries again: one of them gets nothing else often enough to say so.
        node.fail_next = node.fail_next or [echo] * 3
        return r"key \u2026 of" in daemon.log.read_text()

    await until(quoted)
    node.fail_next = []
    await until(lambda: get(f"{base}/ready")[0] == 200)
    node.down()
    daemon.wait_for("waiting")
    listen(heard, daemon, base)
    node.up()
    await until(lambda: get(f"{base}/ready")[0] == 200)


async def without_database(heard: Heard, daemon: Daemon, base: str, config: str, env: dict[str, str]) -> None:
    await until(lambda: json.loads(get(f"{base}/status")[1])["live"]["database_error"])
    listen(heard, daemon, base)
    for arguments in (("status", "--json"), ("incidents", "list")):
        assert heard.command(*arguments, "--chain", config, env=env).returncode == 18


async def with_database(heard: Heard, daemon: Daemon, base: str, config: str, env: dict[str, str]) -> None:
    await until(lambda: get(f"{base}/ready")[0] == 200)
    listen(heard, daemon, base)
    for arguments in (("status", "--json"), ("config", "show", "--json"), ("reorg", "plan")):
        assert heard.command(*arguments, "--chain", config, env=env).returncode == 0


def others(heard: Heard, config: str, env: dict[str, str], database: str) -> None:
    """URLs that cannot work: another password, one that is not escaped, another chain, a flag."""
    parts = urlsplit(database)
    at = f"{parts.hostname}:{parts.port}{parts.path}"
    for word in (WRONG, SLASH):
        done = heard.command("status", "--chain", config, env=env | {"DATABASE_URL": f"postgresql://reya:{word}@{at}"})
        assert done.returncode == 18, done.stderr
    quoted = f"postgresql://reya:{quote(SLASH, safe='')}@{at}"
    assert heard.command("migrate", "--chain", config, env={"DATABASE_URL": quoted}).returncode == 18
    assert heard.command("run", "--chain", "reya", env={"REYA_RPC_URL": env["DEVNET_RPC_URL"]}).returncode == 12
    shown = heard.command("status", "--chain", config, "--rpc-url", f"http://127.0.0.1:1/{AWAY}", env=env)
    assert shown.returncode == 0 and "127.0.0.1:1" in shown.stdout


def listen(heard: Heard, daemon: Daemon, base: str) -> None:
    for path in ("/", "/live", "/ready", "/status", "/metrics"):
        heard.add(path, get(base + path)[1])
    heard.add("arguments of the daemon", "\n".join(descendants(daemon.process.pid).values()))


async def until(condition: Callable[[], object]) -> None:
    def holds() -> object:
        try:
            return condition()
        except OSError:
            return False

    await eventually(holds, lambda: f"{inspect.getsource(condition).strip()}")
