"""kill -9, twenty times, while blocks come and reorgs happen: no row is missing, none is there twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode
from tests.support.daemon import Daemon, wait_synced
from tests.support.waiting import PATIENCE
from tests.system.truth import assert_equals_truth

# Failpoints between BEGIN and COMMIT, with what makes the daemon pass them.
OPEN_TRANSACTION = [
    "ingest.begun", "ingest.stored", "project.written", "ingest.before_commit",
    "replace.undone", "replace.taken_back", "project.written", "replace.before_commit",
]  # fmt: skip
AFTER_COMMIT = ["ingest.committed", "replace.committed"]
KILLS = 20


async def test_twenty_kills_leave_the_tables_as_emitted(tmp_path: Path, fresh_database: Callable[[], str]) -> None:
    url, rng = fresh_database(), random.Random(11)
    inside = 0
    with AnvilNode() as node:
        driver = Driver(node, seed=11)
        driver.install()
        driver.play(25)
        arguments = ["--rpc-url", node.url, "--http-port", "0", "--poll-interval", "0.02"]
        for turn in range(KILLS):
            points = OPEN_TRANSACTION if turn % 3 else AFTER_COMMIT
            point = points[turn % len(points)]
            armed = turn % 5 != 4  # every fifth is killed at a random moment instead
            env = {"DATABASE_URL": url}
            if armed:
                env["REYA_INDEXER_FAILPOINTS"] = f"{point}=kill@{1 + turn % 2}"
            daemon = Daemon(arguments, env, tmp_path / f"log{turn}")
            until = time.monotonic() + (PATIENCE if armed else 1 + rng.random())
            while daemon.process.poll() is None and time.monotonic() < until:
                driver.play(1)
                if rng.random() < 0.3 or point.startswith("replace"):
                    driver.reorg(rng.randrange(1, 7))
                time.sleep(0.05)
            if armed:
                assert daemon.process.poll() == -signal.SIGKILL, f"{point} was not passed: {daemon.log.read_text()}"
                inside += point in OPEN_TRANSACTION
            else:
                daemon.kill()
        assert inside >= KILLS // 2
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "last")
        try:
            daemon.wait_for("following")
            await wait_synced(url, *node.head())
            driver.check_node()
            await assert_equals_truth(url, driver)
        finally:
            assert daemon.terminate()[0] == 0
