"""`backfill`: ranges below, between and above what is there; a contract added later; beside a running daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import asyncpg

from tests.support.anvil.driver import Driver
from tests.support.anvil.node import ROOT, AnvilNode
from tests.support.daemon import Daemon, run, wait_synced
from tests.system.truth import assert_equals_truth


def backfill(url: str, node: AnvilNode, *arguments: str, chain: str = "reya") -> dict[str, object]:
    done = run("backfill", "--chain", chain, "--rpc-url", node.url, "--json", *arguments, env={"DATABASE_URL": url})
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


async def test_a_backfill_is_done_once_and_again_is_a_no_op_that_says_so(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=21)
        driver.install()
        driver.play(40)
        head = node.finalize()
        first = backfill(url, node, "--from-block", "0")
        assert (first["projected"], first["gap"]) == (head, None)
        await assert_equals_truth(url, driver)
        assert backfill(url, node, "--from-block", "0")["steps"] == 0
        again = run("backfill", "--from-block", "0", "--rpc-url", node.url, env={"DATABASE_URL": url})
        assert again.stdout.startswith("nothing to do") and again.returncode == 0


async def test_ranges_in_any_order_end_as_a_fresh_index(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=22)
        driver.install()
        driver.play(60)
        head = node.finalize()
        origin = backfill(url, node, "--from-block", "20", "--to-block", "29")
        assert origin["projected"] == 29
        above = backfill(url, node, "--from-block", "40", "--to-block", "45")
        assert above["gap"] == {"first": 30, "last": 39} and above["projected"] == 29
        said = run(
            "backfill", "--from-block", "40", "--to-block", "46", "--rpc-url", node.url, env={"DATABASE_URL": url}
        )
        assert "projected up to 29, gap 30 to 39" in said.stdout
        between = backfill(url, node, "--from-block", "30", "--to-block", "39")
        assert between["projected"] == 46
        below = backfill(url, node, "--from-block", "0", "--to-block", "19")
        assert below["projected"] == 46
        last = backfill(url, node, "--from-block", "0")
        assert last["projected"] == head
        await assert_equals_truth(url, driver)


async def test_an_origin_above_zero_projects_what_lies_above_it(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=23)
        driver.install()
        driver.play(40)
        node.finalize()
        backfill(url, node, "--from-block", "15")
        await assert_equals_truth(url, driver, first=15)


async def test_a_contract_added_later_has_its_past_ingested_and_everything_projected_again(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    text = (ROOT / "config/reya.toml").read_text()
    blocks = text.split("[[contract]]")
    without = next(i for i, b in enumerate(blocks) if 'name = "core"' in b)
    path = tmp_path / "reya.toml"
    path.write_text("[[contract]]".join(b for i, b in enumerate(blocks) if i != without))
    with AnvilNode() as node:
        driver = Driver(node, seed=24)
        driver.install()
        driver.play(40)
        arguments = ["--chain", str(path), "--rpc-url", node.url, "--http-port", "0"]
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "first")
        await wait_synced(url, *node.head())
        assert daemon.terminate()[0] == 0
        conn = await asyncpg.connect(url)
        assert await conn.fetchval("SELECT count(*) FROM account_owner_updated_history") == 0
        path.write_text(text)
        driver.play(5)
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "second")
        try:
            said = daemon.wait_for("project_again")
            assert said["first"] == 0
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            # Only the new contract's past was asked for.
            steps = [line for line in daemon.lines() if line["event"] == "step" and line["kind"] == "ingest"]
            raw = await conn.fetchval(
                "SELECT count(*) FROM indexer.raw_log WHERE address = decode($1, 'hex')",
                driver.abis.addresses["core"][2:],
            )
            assert 0 < sum(s["logs"] for s in steps) <= raw
        finally:
            await conn.close()
            assert daemon.terminate()[0] == 0


async def test_beside_a_daemon_a_backfill_ingests_and_the_daemon_projects(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=25)
        driver.install()
        driver.play(60)
        backfill(url, node, "--from-block", "30", "--to-block", "40")
        daemon = Daemon(["--rpc-url", node.url, "--http-port", "0"], {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            below = backfill(url, node, "--from-block", "0", "--to-block", "29")
            assert below["projected"] == node.head()[0]
            await assert_equals_truth(url, driver)
            assert any(line["event"] == "project_again" for line in daemon.lines())
        finally:
            assert daemon.terminate()[0] == 0


async def test_after_a_kill_the_same_command_goes_on(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=26)
        driver.install()
        driver.play(50)
        node.finalize()
        # The process kills itself in the middle of its step; then the command is given again.
        killed = run(
            "backfill", "--from-block", "0", "--rpc-url", node.url,
            env={"DATABASE_URL": url, "REYA_INDEXER_FAILPOINTS": "ingest.before_commit=kill"},
        )  # fmt: skip
        assert killed.returncode == -9
        backfill(url, node, "--from-block", "0")
        await assert_equals_truth(url, driver)
