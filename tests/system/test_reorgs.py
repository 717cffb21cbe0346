"""Reorgs: deep ones, what they leave in the journal, and that nobody can rewrite it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from indexer.schema.tables.metadata import internal
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode
from tests.support.daemon import Daemon, run, wait_synced
from tests.system.truth import assert_equals_truth


async def test_a_reorg_of_hundreds_of_blocks_is_staged_and_swapped_in_one_commit(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode(slots=600) as node:  # finalized is 1,200 blocks behind
        driver = Driver(node, seed=41)
        driver.install()
        driver.play(900, transactions=2)
        arguments = ["--rpc-url", node.url, "--http-port", "0"]
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            driver.reorg(700)
            driver.check_node()
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            reorgs = [line for line in daemon.lines() if line["event"] == "reorg"]
            assert max(r["depth"] for r in reorgs) >= 600
        finally:
            assert daemon.terminate()[0] == 0
        conn = await asyncpg.connect(url)
        logs = "SELECT from_block, to_block FROM indexer.commit_log WHERE kind = 'rollback'"
        assert len(await conn.fetch(logs)) == len(reorgs)
        await conn.close()


async def test_orphaned_rows_are_kept_and_the_journal_cannot_be_rewritten(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=42)
        driver.install()
        driver.play(30)
        daemon = Daemon(["--rpc-url", node.url, "--http-port", "0"], {"DATABASE_URL": url}, tmp_path / "log")
        await wait_synced(url, *node.head())
        conn = await asyncpg.connect(url)
        fork = node.head()[0] - 6
        orders = "SELECT id FROM order_history WHERE block_number > $1 ORDER BY unique_id"
        doomed = [r["id"] for r in await conn.fetch(orders, fork)]
        assert doomed
        driver.reorg(6)
        await wait_synced(url, *node.head())
        assert daemon.terminate()[0] == 0
    env = {"DATABASE_URL": url}
    (listed,) = json.loads(run("reorg", "list", "--json", env=env).stdout)["reorgs"]
    assert (listed["fork_point"], listed["depth"]) == (fork, 6)
    shown = json.loads(run("reorg", "show", str(listed["id"]), "--json", env=env).stdout)
    assert [row["id"] for row in shown["orphaned"]["order_history"]] == doomed
    kept = {table: len(rows) for table, rows in shown["orphaned"].items()}
    assert kept == {t: n for t, n in listed["rows_removed"].items() if t in kept} and kept["indexer.block"] == 6
    assert set(shown["orphaned"]["indexer.raw_log"][0]) == {c.name for c in internal.tables["indexer.raw_log"].columns}
    state = json.loads(run("reorg", "status", "--json", env=env).stdout)
    assert (state["epoch"], state["reorgs"], state["last"]["id"]) == (1, 1, listed["id"])
    assert str(fork) in run("reorg", "list", env=env).stdout and doomed[0] in run("reorg", "show", "1", env=env).stdout
    assert run("reorg", "show", "77", env=env).returncode == 31
    for statement in (
        "DELETE FROM indexer.reorg_journal",
        "UPDATE indexer.reorg_journal SET depth = 1",
        "TRUNCATE indexer.orphaned_row",
        "DELETE FROM indexer.orphaned_row",
        "UPDATE indexer.orphaned_row SET reorg_id = 5",
        "TRUNCATE indexer.orphaned_log",
        "DELETE FROM indexer.orphaned_log",
        "UPDATE indexer.orphaned_log SET reorg_id = 5",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await conn.execute(statement)
    await conn.close()


@pytest.mark.parametrize("websocket", [False, True], ids=["polling", "websocket"])
async def test_every_way_in_which_anvil_takes_blocks_back(
    websocket: bool, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode(slots=30) as node:
        driver = Driver(node, seed=43)
        driver.install()
        driver.play(30)
        arguments = ["--rpc-url", node.url, "--http-port", "0"]
        if websocket:
            arguments += ["--ws-url", node.url.replace("http", "ws"), "--poll-interval", "30"]
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            node.rpc("anvil_reorg", 4, [])  # as many blocks, all empty
            node.mine(1)
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            snapshot = node.rpc("evm_snapshot")
            driver.play(5)
            await wait_synced(url, *node.head())
            assert node.rpc("evm_revert", snapshot) is True
            node.rpc("evm_increaseTime", 40)
            driver.play(7)
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            driver.reorg(3)
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            assert len([line for line in daemon.lines() if line["event"] == "reorg"]) >= 3
        finally:
            assert daemon.terminate()[0] == 0
