"""The daemon on a live node: it follows, survives reorgs, speaks, and ends when told."""

from __future__ import annotations

import json
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from indexer.follow import endpoint_monitor, runner
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import Daemon, get, run, wait_synced
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import ThreadedNode
from tests.support.simchain.world import exchange
from tests.support.waiting import eventually, until
from tests.system.truth import CONFIG, assert_equals_truth


@pytest.mark.parametrize("heads", ["websocket", "polling"])
async def test_the_tables_equal_what_was_emitted_through_reorgs_of_every_depth_above_finalized(
    heads: str, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=5)
        driver.install()
        driver.play(40)
        endpoints = ["--rpc-url", node.url] + (["--ws-url", node.ws_url] if heads == "websocket" else [])
        daemon = Daemon([*endpoints, "--http-port", "0"], {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            for depth in (1, 2, 3, 4, 5, 6, 7):
                driver.play(4)
                await wait_synced(url, *node.head())
                # Also by a chain that is shorter than, or as long as, the one it replaces.
                driver.reorg(depth, blocks=depth + 1 - depth % 3)
                driver.play(1)
                await wait_synced(url, *node.head())
            driver.reorg(3)
            driver.reorg(5)  # a reorg on a reorg
            await wait_synced(url, *node.head())
            driver.check_node()
            await assert_equals_truth(url, driver)
            reorgs = [line for line in daemon.lines() if line["event"] == "reorg"]
            assert len(reorgs) >= 7
            steps = [line for line in daemon.lines() if line["event"] == "step"]
            assert all({"first", "last", "rows", "requests", "elapsed_ms", "lag_blocks"} <= set(s) for s in steps)
        finally:
            assert daemon.terminate()[0] == 0


async def test_a_reorg_while_the_indexer_was_off_is_found_at_the_next_start(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=6)
        driver.install()
        driver.play(30)
        arguments = ["--rpc-url", node.url, "--http-port", "0"]
        for depth, more in ((7, 0), (5, 40)):  # the second: the reorged blocks are far below finalized by then
            daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "log")
            await wait_synced(url, *node.head())
            assert daemon.terminate()[0] == 0
            driver.reorg(depth)
            driver.play(more)
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
        finally:
            assert daemon.terminate()[0] == 0


async def test_a_fork_below_finalized_halts_without_deleting_and_says_so(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    port = free_port()
    with AnvilNode() as node:
        driver = Driver(node, seed=7)
        driver.install()
        driver.play(40)
        arguments = ["--rpc-url", node.url, "--http-port", str(port)]
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "log")
        try:
            head = node.head()
            await wait_synced(url, *head)
            driver.reorg(12)
            halted = daemon.wait_for("halted")
            assert "reorg plan" in halted["reason"]
            said = (0, "")

            def halts() -> bool:
                nonlocal said
                said = get(f"http://127.0.0.1:{port}/ready")
                return said[0] == 503 and "halted" in said[1]

            until(halts, lambda: f"a daemon that says it is halted: {said}")
            await wait_synced(url, *head)  # nothing was deleted
            shown = json.loads(run("status", "--json", env={"DATABASE_URL": url}).stdout)
            assert shown["state"].startswith("halted")
            assert 'reya_indexer_state{state="halted"} 1.0' in get(f"http://127.0.0.1:{port}/metrics")[1]
        finally:
            assert daemon.terminate()[0] == 0
        refused = run("backfill", "--from-block", "0", "--rpc-url", node.url, env={"DATABASE_URL": url})
        assert refused.returncode in (14, 70) and "error: " in refused.stderr
        await wait_synced(url, *head)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_whatever_it_waits_for(
    number: signal.Signals, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    """The next look at the head is hours away, or the node takes hours to answer."""
    config = tmp_path / "devnet.toml"
    config.write_text(re.sub(r"timeout = \d+", "timeout = 3600", (CONFIG / "devnet.toml").read_text()))
    tree = Tree()
    tip = exchange(tree).grow(tree.genesis.hash, 30, random.Random(4), 0.5)
    for hangs in (False, True):
        url = fresh_database()
        with ThreadedNode(tree, tip.hash, 89346162) as node:
            flags = ["--chain", str(config), "--rpc-url", node.url, "--http-port", "0", "--no-attest"]
            pace = [] if hangs else ["--poll-interval", "3600"]
            daemon = Daemon([*flags, *pace], {"DATABASE_URL": url}, tmp_path / f"log {hangs}")
            await wait_synced(url, tip.number, tip.hex)
            if hangs:
                node.fail_next = ["hang"] * 100
                await eventually(lambda: len(node.fail_next) < 100, "a request that is never answered")
            assert daemon.terminate(number)[0] == 0
            assert daemon.lines()[-1]["event"] == "ended"


def test_what_an_end_may_wait_for_takes_less_than_five_seconds_in_all() -> None:
    assert runner.GRACE_S + endpoint_monitor.LAST_SAVE_TIMEOUT_S < 5


async def test_it_answers_live_ready_metrics_and_status_and_waits_for_a_node_that_is_away(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url, port = fresh_database(), free_port()
    base = f"http://127.0.0.1:{port}"
    with AnvilNode() as node:
        driver = Driver(node, seed=8)
        driver.install()
        driver.play(20)
        driver.send([driver.world.oddities()])
        driver.node.mine()
        daemon = Daemon(["--rpc-url", node.url, "--http-port", str(port)], {"DATABASE_URL": url}, tmp_path / "log")
        await wait_synced(url, *node.head())
        head = node.head()[0]
        assert get(f"{base}/live")[0] == 200
        until(lambda: get(f"{base}/ready") == (200, '{"ready": true, "reasons": []}'), "a daemon that is ready")
        until(lambda: f'reya_indexer_block{{kind="projected"}} {head}.0' in get(f"{base}/metrics")[1], f"block {head}")
        shown = run("status", "--json", "--rpc-url", node.url, env={"DATABASE_URL": url})
        status = json.loads(shown.stdout)
        assert (status["head"], status["ingested"], status["projected"]) == (head, head, head)
        assert (status["safe"], status["finalized"], status["lag_blocks"]) == (head - 4, head - 8, 0)
        assert all(c["covered"] == [[0, head]] and c["gaps"] == [] for c in status["coverage"])
        assert status["rows"]["order_history"]["rows"] > 0
        kinds = {i["kind"] for i in status["incidents"]}
        assert kinds >= {"unknown_topic", "undecodable_log"}
        first = min(i["first_block"] for i in status["incidents"] if "PnL and positions" in i["detail"])
        assert f"from block {first} on PnL and positions are unproven" in shown.stdout
        assert status["unproven"]["from_block"] == first and status["unproven"]["positions"] > 0
        assert "Open incidents" in run("status", "--rpc-url", node.url, env={"DATABASE_URL": url}).stdout
    try:  # the node is gone now
        daemon.wait_for("waiting")
        assert daemon.process.poll() is None and get(f"{base}/live")[0] == 200
        offline = json.loads(run("status", "--json", env={"DATABASE_URL": url}).stdout)
        assert offline["head"] is None and offline["projected"] == head
    finally:
        assert daemon.terminate()[0] == 0


async def lease_for_hours(url: str) -> None:
    conn = await asyncpg.connect(url)
    done = await conn.execute("UPDATE indexer.lease SET expires_at = expires_at + interval '5 hours'")
    assert done == "UPDATE 1"
    await conn.close()


async def test_a_second_daemon_stands_by_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=9)
        driver.install()
        driver.play(20)
        arguments = ["--rpc-url", node.url, "--http-port", "0"]
        first = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "first")
        await wait_synced(url, *node.head())
        second = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "second")
        try:
            second.wait_for("following")
            driver.play(10)
            await wait_synced(url, *node.head())
            assert not any(line["event"] == "lease_taken" for line in second.lines())
            first.process.send_signal(signal.SIGSTOP)
            await lease_for_hours(url)
            first.kill()
            driver.reorg(4)
            driver.play(10)
            await wait_synced(url, *node.head())  # without waiting for the lease to expire
            await assert_equals_truth(url, driver)
        finally:
            first.kill()
            assert second.terminate()[0] == 0
