"""`make run`: the program on embedded defaults against a live local chain, compared with what was emitted.

Starts an anvil with chain id 1729, places emitters at the real Reya addresses, runs `reya-indexer run --chain reya` as
a user would, drives the exchange, makes the node reorg, and ends with a table. Exit code 1 on any difference.
With `--keep` the database stays, for docs/tutorial/first-index.md.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

from tests.support.anvil.driver import Driver
from tests.support.anvil.node import ROOT, AnvilNode, free_port
from tests.support.daemon import Daemon, get, run, wait_synced
from tests.support.oracle.compare import differences, fetch_database
from tests.support.oracle.recompute import recompute

ROUNDS = 6
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def say(text: str) -> None:
    console.print(f"[bold]--[/] {text}")


@contextmanager
def data_folder(*, keep: bool) -> Iterator[Path]:
    """A folder that an unprivileged server process can enter, even when the checkout lies in root's home."""
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-demo-"))
    folder.chmod(0o755)
    env = {"REYA_INDEXER_DATA_DIR": str(folder)}
    try:
        yield folder
    finally:
        if keep:
            say(f"the database stays: export REYA_INDEXER_DATA_DIR={folder}")
        else:
            run("db", "stop", env=env)
            shutil.rmtree(folder, ignore_errors=True)


def main(*, keep: bool = False) -> int:
    with data_folder(keep=keep) as folder, AnvilNode() as node:
        say(f"anvil with chain id {node.chain_id} on {node.url}")
        driver = Driver(node, seed=int(time.time()))
        driver.install()
        say(f"emitters at the {len(driver.abis.addresses)} addresses of config/reya.toml")
        driver.play(120)
        env = {"REYA_INDEXER_DATA_DIR": str(folder), "REYA_RPC_URL": node.url, "REYA_WS_URL": node.ws_url}
        port = free_port()
        say("reya-indexer run --chain reya (it starts its own PostgreSQL)")
        daemon = Daemon(["--chain", "reya", "--http-port", str(port)], env, folder / "indexer.log")
        try:
            return asyncio.run(drive(driver, daemon, env, port))
        except (AssertionError, OSError) as failure:
            console.print(f"[red]failed[/]: {failure}")
            return 1
        finally:
            daemon.kill()


async def drive(driver: Driver, daemon: Daemon, env: dict[str, str], port: int) -> int:
    node = driver.node
    daemon.wait_for("following")
    url = run("db", "url", "--chain", "reya", env=env).stdout.strip()
    await wait_synced(url, *node.head())
    say(f"caught up with block {node.head()[0]}; now block by block, with a reorg in each of {ROUNDS} rounds")
    for depth in range(1, ROUNDS + 1):
        driver.play(8)
        await wait_synced(url, *node.head())
        old = node.head()
        driver.reorg(depth)
        await wait_synced(url, *node.head())
        say(
            f"reorg of {depth}: block {old[0]} {old[1][:10]}… gave way to block {node.head()[0]} {node.head()[1][:10]}…"
        )
    status, body = get(f"http://127.0.0.1:{port}/ready")
    say(f"/ready answers {status} {body}")
    code, seconds = daemon.terminate()
    say(f"SIGTERM: ended with exit code {code} after {seconds:.1f} s")
    driver.check_node()
    wrong = await compare(url, driver)
    checked = run("check", "--chain", "reya", "--recompute", env=env)
    # What it says beyond its first line is of the exchange: it states positions at random, each apart from the others.
    told = (checked.stdout.strip() or checked.stderr).splitlines() or [""]
    say(f"reya-indexer check --recompute: exit code {checked.returncode}, {told[0]}")
    wrong += checked.returncode
    return 1 if wrong or code or status != 200 else 0


async def compare(url: str, driver: Driver) -> int:
    """Prints what was emitted against what is in the database; the number of differences."""
    logs = driver.canonical()
    expected, actual = recompute(logs, ROOT / "config/reya.toml"), await fetch_database(url)
    conn = await asyncpg.connect(url)
    raw: int = await conn.fetchval("SELECT count(*) FROM indexer.raw_log")
    reorgs = await conn.fetch("SELECT (rows_removed ->> 'indexer.raw_log')::int AS logs FROM indexer.reorg_journal")
    await conn.close()
    table = Table("table", "from what was emitted", "in the database", "differences", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("indexer.raw_log", str(len(logs)), str(raw), str(abs(len(logs) - raw)), end_section=True)
    wrong = abs(len(logs) - raw)
    shown: list[str] = []
    for name in sorted(expected):
        found = differences({name: expected[name]}, actual)
        shown += found[:5]
        wrong += len(found)
        table.add_row(name, str(len(expected[name])), str(len(actual.get(name, []))), str(len(found)))
    console.print(table)
    for line in shown:
        console.print(f"[red]{line}[/]")
    verdict = "[green]every row equals what was emitted[/]" if not wrong else f"[red]{wrong} differences[/]"
    lost = sum(reorg["logs"] or 0 for reorg in reorgs)
    head = driver.node.head()[0]
    say(f"{len(logs)} logs in {head} blocks, {len(reorgs)} reorgs, {lost} logs orphaned: {verdict}")
    return wrong


if __name__ == "__main__":
    sys.exit(main(keep="--keep" in sys.argv[1:]))
