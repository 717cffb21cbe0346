"""A second writer, and a server that goes away: a stopped holder is fenced, PostgreSQL dies under the daemon, a
backfill and the daemon meet in one range. What is shortened here are settings of the server, never the program."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from indexer.embedded_pg.server import EmbeddedServer
from indexer.store.lease import TTL
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import LOCKED_OUT, PROGRAM, Daemon, environment, get, index, run, wait_row, wait_synced
from tests.support.postgres import execute, own_postgres
from tests.support.waiting import ended, eventually, until
from tests.system.truth import assert_equals_truth

LEASE_LOST = 75
SOAK = float(os.environ.get("SOAK_SECONDS", "20"))  # seconds that PostgreSQL is away

# What the server does when idle_in_transaction_session_timeout is over, as soon as the test has seen what is before.
_END_IDLE = """
SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN indexer.lease l ON l.backend_pid = a.pid
WHERE a.state = 'idle in transaction'
"""
# Every committed change of the checkpoint, with who made it: independent of what the program says of itself.
_HISTORY = """
CREATE SCHEMA IF NOT EXISTS test;
CREATE TABLE test.history (id bigint GENERATED ALWAYS AS IDENTITY, number bigint, epoch bigint, pid int);
CREATE FUNCTION test.remember() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    INSERT INTO test.history (number, epoch, pid) SELECT NEW.number, value, pg_backend_pid() FROM indexer.epoch;
    RETURN NULL; END$$;
CREATE TRIGGER test_remember AFTER UPDATE OF number ON indexer.checkpoint
    FOR EACH ROW EXECUTE FUNCTION test.remember();
"""


def stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether a signal stopped it and it was not continued since."""
    return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


def wait_stopped(process: subprocess.Popen[bytes], log: Path) -> None:
    def reached() -> bool:
        assert process.poll() is None, f"was not stopped: {log.read_text()[-3000:]}"
        return stopped(process)

    until(reached, lambda: f"a stopped process: {log.read_text()[-3000:]}")


async def fetch(url: str, query: str) -> list[asyncpg.Record]:
    conn = await asyncpg.connect(url)
    try:
        return await conn.fetch(query)
    finally:
        await conn.close()


async def assert_no_regress(url: str, reorgs: int) -> None:
    """The checkpoint went back by a reorg only, and who lost the lease never wrote again."""
    seen = await fetch(url, "SELECT number, epoch, pid FROM test.history ORDER BY id")
    assert seen
    for old, new in itertools.pairwise(seen):
        assert (new["epoch"], new["number"] > old["number"]) >= (old["epoch"], True), (old, new)
    assert seen[-1]["epoch"] <= reorgs
    writers = [pid for pid, _ in itertools.groupby(row["pid"] for row in seen)]
    assert len(writers) == len(set(writers)), f"a writer came back: {writers}"


@dataclass(frozen=True)
class Stop:
    """Where the holder is stopped, whether by a reorg, and when the server ends its transaction: before or after its
    lease has expired; None: there is none."""

    point: str
    reorg: bool
    ended: Literal["before", "after"] | None


STOPS = {
    # The lease expires first: the row lock still keeps the other daemon out until the server ends the transaction.
    "in a step": Stop("ingest.before_commit", False, "after"),
    # The transaction is ended first: the lease of a holder without a connection is free before it expires.
    "in a swap": Stop("replace.before_commit", True, "before"),
    "between steps": Stop("ingest.committed", False, None),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
async def test_a_stopped_holder_is_fenced_and_ends_with_its_own_code(  # S14
    stop: Stop, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url = fresh_database()
    with AnvilNode() as node:
        driver = Driver(node, seed=51)
        driver.install()
        driver.play(25)
        await index(url, *node.head(), "--rpc-url", node.url)
        await execute(url, _HISTORY)
        arguments = ["--rpc-url", node.url, "--http-port", "0", "--poll-interval", "0.05"]
        armed = {"DATABASE_URL": url, "REYA_INDEXER_FAILPOINTS": f"{stop.point}=pause"}
        holder = Daemon(arguments, armed, tmp_path / "holder")
        holder.wait_for("lease_taken")
        successor = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "successor")
        try:
            successor.wait_for("following")
            driver.reorg(5) if stop.reorg else driver.play(1)
            wait_stopped(holder.process, holder.log)
            await taken_over(url, driver, successor, stop)
            assert stopped(holder.process)
            await assert_equals_truth(url, driver)
            await ends_fenced(url, driver, holder)
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            await assert_no_regress(url, reorgs=1 + stop.reorg)
        finally:
            holder.kill()
            assert successor.terminate()[0] == 0


async def taken_over(url: str, driver: Driver, successor: Daemon, stop: Stop) -> None:
    """The holder was stopped just now; at the end its lease is past and the successor has gone on without it."""
    past_lease = time.monotonic() + TTL + 1
    before = await fetch(url, "TABLE indexer.checkpoint")
    if stop.ended == "after":
        await wait_row(url, "SELECT FROM indexer.lease WHERE expires_at < clock_timestamp()")
    driver.play(12)  # the successor may ingest below finalized, and meets what the holder has not committed
    assert not any(line["event"] == "lease_taken" for line in successor.lines())
    if stop.ended is None:
        past_lease = 0.0
        await execute(url, "UPDATE indexer.lease SET expires_at = clock_timestamp()")
    else:
        assert await fetch(url, "TABLE indexer.checkpoint") == before
        assert [tuple(row) for row in await fetch(url, _END_IDLE)] == [(True,)]
    if stop.ended == "before":  # that it expires is not what the successor waits for
        await execute(url, "UPDATE indexer.lease SET expires_at = expires_at + interval '5 hours'")
    successor.wait_for("lease_taken")
    driver.play(20)
    await wait_synced(url, *driver.node.head())
    driver.reorg(6)
    driver.play(30)
    await wait_synced(url, *driver.node.head())
    time.sleep(max(0.0, past_lease - time.monotonic()))


async def ends_fenced(url: str, driver: Driver, holder: Daemon) -> None:
    """Continued, the old holder ends by itself, did no step and left the lease to the other."""
    said, lease = len(holder.lines()), await fetch(url, "SELECT holder, token FROM indexer.lease")
    holder.process.send_signal(signal.SIGCONT)
    driver.play(2)
    assert ended(holder.process, holder.log.read_text) == LEASE_LOST, holder.log.read_text()[-3000:]
    later = holder.lines()[said:]
    assert not {"reorg", "lease_taken"} & {line["event"] for line in later}
    words = [line["text"] for line in later if line["event"] == "not JSON"]
    assert len(words) == 1 and words[0].startswith("error: another process is the projector now")
    assert await fetch(url, "SELECT holder, token FROM indexer.lease") == lease
    driver.play(2)


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A PostgreSQL that no other test uses."""
    with own_postgres("gone") as server:
        yield server


def move_on(driver: Driver, rng: random.Random, seconds: float) -> None:
    """The chain grows and is reorganised for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        driver.play(1)
        if rng.random() < 0.3:
            driver.reorg(rng.randrange(1, 8))
        time.sleep(0.5)


@pytest.mark.timeout(1800 + SOAK)
async def test_postgres_gone_for_a_while(tmp_path: Path, own_server: EmbeddedServer) -> None:
    own_server.ensure_database("gone")
    url, port, rng = own_server.url("gone"), free_port(), random.Random(52)
    ready = f"http://127.0.0.1:{port}/ready"
    with AnvilNode() as node:
        driver = Driver(node, seed=52)
        driver.install()
        driver.play(30)
        daemon = Daemon(["--rpc-url", node.url, "--http-port", str(port)], {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            until(lambda: get(ready)[0] == 200, "a daemon that is ready")
            driver.play(3)
            driver.reorg(5)
            postmaster = own_server.status().pid
            assert postmaster is not None
            os.kill(postmaster, signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
            gone = time.monotonic()
            daemon.wait_for("waiting")
            move_on(driver, rng, max(SOAK, 12) - (time.monotonic() - gone))
            said = (0, "")

            def refused() -> bool:
                nonlocal said
                said = get(ready)
                return said[0] == 503 and "the database: refuses connections" in json.loads(said[1])["reasons"]

            until(refused, lambda: f"a database that refuses connections: {said}")
            assert daemon.process.poll() is None and not own_server.status().running
            own_server.start()
            assert own_server.url("gone") == url  # the same port
            move_on(driver, rng, 1)
            await wait_synced(url, *node.head())
            daemon.wait_for("recovered")
            driver.check_node()
            await assert_equals_truth(url, driver)
            until(lambda: get(ready)[0] == 200, "a daemon that is ready")
            waits = [w for line in daemon.lines() if (w := line.get("waiting_for", "")).startswith("the database: ")]
            assert waits and len(waits) == len(set(waits)), "a wait is named once"
            assert len([line for line in daemon.lines() if line["event"] == "lease_taken"]) == 2
        finally:
            assert daemon.terminate()[0] == 0


@contextlib.contextmanager
def started_backfill(url: str, node: AnvilNode, log: Path, failpoints: str) -> Iterator[subprocess.Popen[bytes]]:
    """`backfill --from-block 0` on its own; killed at the end."""
    command = [*PROGRAM, "backfill", "--from-block", "0", "--rpc-url", node.url, "--json"]
    env = environment({"DATABASE_URL": url, "REYA_INDEXER_FAILPOINTS": failpoints})
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        ended(process, "the end of a killed process")


async def stop_between_transactions(url: str, process: subprocess.Popen[bytes]) -> None:
    """Stops it when it holds no lock."""
    busy = "SELECT FROM pg_stat_activity WHERE application_name = 'reya-indexer' AND state <> 'idle'"

    async def idle() -> bool:
        process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            await asyncio.sleep(0.2)  # what was sent before is executed
            if await fetch(url, f"{busy} AND datname = current_database()"):
                process.send_signal(signal.SIGCONT)
                return False
        return True

    await eventually(idle, "a moment between transactions")


@pytest.mark.parametrize("blocks", [5, 14], ids=["shorter", "longer"])
async def test_a_backfill_and_the_daemon_meet_in_one_range_while_a_reorg_comes(
    blocks: int, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    """The backfill has stored the lower range, not committed, when the daemon comes: to a chain that is shorter than
    the stored one with the reorg's swap, to a longer one with the same range. By then orphaned blocks of that one are
    below finalized, and whatever is projected again must not take them for final."""
    url, log = fresh_database(), tmp_path / "backfill"
    with AnvilNode() as node:
        driver = Driver(node, seed=53)
        driver.install()
        driver.play(80)
        env = {"DATABASE_URL": url}
        above = run("backfill", "--from-block", "40", "--to-block", "50", "--rpc-url", node.url, env=env)
        assert above.returncode == 0, above.stderr
        daemon = Daemon(["--rpc-url", node.url, "--http-port", "0", "--poll-interval", "0.05"], env, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            await stop_between_transactions(url, daemon.process)
            with started_backfill(url, node, log, "ingest.stored=pause") as backfill:
                wait_stopped(backfill, log)
                driver.reorg(6, blocks)
                daemon.process.send_signal(signal.SIGCONT)
                await wait_row(url, LOCKED_OUT)
                assert not any(line["event"] == "reorg" for line in daemon.lines())
                backfill.send_signal(signal.SIGCONT)
                driver.play(2)
                driver.reorg(4)
                driver.play(3)
                assert ended(backfill, log.read_text) == 0, log.read_text()
            await wait_synced(url, *node.head())
            await assert_equals_truth(url, driver)
            assert any(line["event"] == "reorg" for line in daemon.lines())
            status = json.loads(run("status", "--json", env=env).stdout)
            assert all(c["covered"] == [[0, node.head()[0]]] for c in status["coverage"])
        finally:
            assert daemon.terminate()[0] == 0
