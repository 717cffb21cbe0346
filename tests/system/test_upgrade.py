"""Releases change: each refuses a schema that is not its own, and the way up and down again keeps everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import asyncpg

from indexer.schema import revisions
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode
from tests.support.daemon import Daemon, run, wait_synced
from tests.support.waiting import ended
from tests.system.truth import assert_equals_truth


async def set_revision(url: str, revision: str) -> None:
    """What a release to come does first."""
    conn = await asyncpg.connect(url)
    await conn.execute("UPDATE indexer.alembic_version SET version_num = $1", revision)
    await conn.close()


async def test_an_old_program_refuses_a_newer_schema_at_its_start_and_when_it_would_take_over(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=13)
        driver.install()
        driver.play(10)
        arguments, env = ["--rpc-url", node.url, "--http-port", "0"], {"DATABASE_URL": url}
        first = Daemon(arguments, env, tmp_path / "first")
        await wait_synced(url, *node.head())
        head = node.head()
        standby = Daemon(arguments, env, tmp_path / "standby")
        standby.wait_for("following")
        await set_revision(url, "9999")  # the upgrade was begun while the standby was forgotten
        first.kill()
        assert ended(standby.process, standby.log.read_text) == 15
        driver.play(3)
        refused = run("run", *arguments, env=env)
        assert refused.returncode == 15 and "9999" in refused.stderr and "newer release" in refused.stderr
        assert run("backfill", "--from-block", "0", *arguments[:2], env=env).returncode == 15
        await wait_synced(url, *head)  # nobody wrote a row
        await set_revision(url, revisions.head_revision())
        first = Daemon(arguments, env, tmp_path / "again")
        await wait_synced(url, *node.head())
        assert first.terminate()[0] == 0


async def test_down_to_the_release_before_and_up_again_keeps_logs_and_journal_and_the_rows_come_back(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=14)
        driver.install()
        driver.play(12)
        arguments, env = ["--rpc-url", node.url, "--http-port", "0"], {"DATABASE_URL": url}
        daemon = Daemon(arguments, env, tmp_path / "log")
        await wait_synced(url, *node.head())
        driver.reorg(2)
        await wait_synced(url, *node.head())
        assert daemon.terminate()[0] == 0
        before = sorted(revisions.known_revisions())[-2]
        assert run("migrate", "--downgrade", before, "--yes", env=env).returncode == 0
        refused = run("run", *arguments, env=env)
        assert refused.returncode == 16 and before in refused.stderr and "reya-indexer migrate" in refused.stderr
        assert run("migrate", env=env).returncode == 0
        driver.play(3)
        daemon = Daemon(arguments, env, tmp_path / "log")
        await wait_synced(url, *node.head())
        assert daemon.terminate()[0] == 0
        await assert_equals_truth(url, driver)
        conn = await asyncpg.connect(url)
        assert await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal") == 1
        await conn.close()
