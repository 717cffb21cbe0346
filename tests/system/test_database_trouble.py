"""A PostgreSQL that is restarted, gone, paused, read-only, full, slow or locked: named, waited for, and nothing lost.

The server is the tests' own; what is shortened are pauses and limits, never what the program does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from indexer.db import connection
from indexer.embedded_pg.server import EmbeddedServer
from indexer.errors import DatabaseUnreachableError
from indexer.follow import runner as runner_module
from indexer.follow import stall_detector, watchdog
from indexer.ops.status import status
from indexer.rpc.head_feed import HeadFeed
from indexer.runtime.tasks import background_task
from tests.chaos.databases import Databases
from tests.chaos.pgfaults import FILLER, FULL, fill, paused, small_disk
from tests.scenarios.harness import DEVNET, Daemon, Stage
from tests.support.postgres import own_postgres
from tests.support.waiting import PATIENCE, eventually, guard


@pytest.fixture(scope="module")
def troubled() -> Iterator[EmbeddedServer]:
    """A PostgreSQL that no other module uses."""
    with own_postgres("trouble") as server:
        # Its end is no checkpoint.
        asyncio.run(admin(server, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"))
        yield server


@pytest.fixture(scope="module")
def copies(troubled: EmbeddedServer) -> Databases:
    return Databases(troubled)


@pytest.fixture
async def stage(copies: Databases, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    url = await copies.make()
    async with Stage(url, request.node.name) as made:
        yield made
    await copies.drop(url)


async def admin(server: EmbeddedServer, *statements: str) -> None:
    conn = await asyncpg.connect(server.url("postgres"))
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


async def again(stage: Stage) -> None:
    """The test's own connection, after the server ended it."""
    stage.own.terminate()
    stage.own = await asyncpg.connect(stage.url)


def waits(logs: list[Any]) -> list[str]:
    return [line["waiting_for"] for line in logs if line["event"] == "waiting"]


class Clock:
    """Goes on from a time (s), because steps were timed by the real clock, and only when it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def test_gone_for_five_minutes(troubled: EmbeddedServer, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that runs with the pauses: named once, tried less and less often, never an end; then everything."""
    daemon = await stage.start()
    daemon.progress.clock = clock = Clock(daemon.progress.clock())
    end = clock.now + 300

    async def pause(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(daemon.runner, "_pause", pause)
    tip = stage.grow(stage.main, 5)
    stage.show(tip)
    troubled.stop()
    tries = 0
    with capture_logs() as logs:
        while clock.now < end:
            assert not await daemon.poll()
            tries += 1
        assert daemon.progress.waiting == "the database: refuses connections"
        assert "the database: refuses connections" in daemon.progress.reasons_not_ready()
        assert daemon.runner.conn is None
        troubled.start()
        await again(stage)
        await daemon.settle()
    assert len(waits(logs)) == len(set(waits(logs))) <= 2 and tries < 60
    assert [line["event"] for line in logs].count("recovered") == 1
    await stage.untouched(tip)


async def test_restarted_in_the_middle_of_steps(troubled: EmbeddedServer, stage: Stage) -> None:
    daemon, tip = await stage.start(), stage.main
    for _ in range(2):
        tip = stage.grow(tip, 5)
        stage.show(tip)
        polling = asyncio.create_task(daemon.settle(10**9))  # looks cost nothing while nobody answers
        await asyncio.sleep(0.02)
        await asyncio.to_thread(troubled.stop)
        await asyncio.to_thread(troubled.start)
        async with guard("the end of the steps"):
            await polling
        await again(stage)
    b = stage.fork("b", 103, 12, tip=tip)
    stage.show(b)
    await daemon.settle()
    await stage.equals(b, [(103, 7)])


async def test_read_only(troubled: EmbeddedServer, stage: Stage) -> None:
    daemon, name = await stage.start(), urlsplit(stage.url).path.strip("/")
    tip = stage.grow(stage.main, 5)
    stage.show(tip)
    await admin(troubled, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        await read_only_to(stage.url, "on")
        with capture_logs() as logs:
            for _ in range(4):
                assert not await daemon.poll()
        assert waits(logs) == ["the database: read-only"]
        assert (await status(DEVNET, stage.url, []))["database"] == "read-only: nothing can be written"
        assert "the database: read-only" in daemon.progress.reasons_not_ready(tolerated=0)
    finally:
        await admin(troubled, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    await read_only_to(stage.url, "off")
    await again(stage)
    await daemon.settle()
    await stage.untouched(tip)
    assert name and (await status(DEVNET, stage.url, []))["database"] == "writable"


async def read_only_to(url: str, value: str) -> None:
    """Until new sessions have the setting: a reload takes a moment."""

    async def shown() -> bool:
        conn = await asyncpg.connect(url)
        try:
            return bool(await conn.fetchval("SHOW default_transaction_read_only") == value)
        finally:
            await conn.close()

    await eventually(shown, f"default_transaction_read_only = {value}")


async def test_out_of_connections(troubled: EmbeddedServer, stage: Stage) -> None:
    """A role with one connection, which somebody else has when ours is lost."""
    parts = urlsplit(stage.url)
    await admin(troubled, f"CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 1 IN ROLE {parts.username}")
    url = parts._replace(netloc=f"few:few@{parts.netloc.rpartition('@')[2]}").geturl()
    daemon = Daemon(url, stage.nodes[:1], DEVNET)
    stage.daemons.append(daemon)
    await daemon.open()
    await daemon.settle()
    tip = stage.grow(stage.main, 5)
    stage.show(tip)
    await stage.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'few'")
    other = await taken(url)
    with capture_logs() as logs:
        for _ in range(4):
            assert not await daemon.poll()
    assert waits(logs)[-1] == "the database: out of connections" and len(waits(logs)) <= 2
    await other.close()
    await daemon.settle()
    await stage.untouched(tip)


async def taken(url: str) -> asyncpg.Connection:
    """The only connection; the ended session's place is free a moment later."""

    async def free() -> asyncpg.Connection | None:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            return await asyncpg.connect(url)
        return None

    return await eventually(free, "a connection that is free")


@pytest.mark.parametrize("table", ["indexer.raw_log", "public.orders", "indexer.commit_log", "indexer.orphaned_row"])
async def test_out_of_disk_at_any_table_of_a_step_or_a_swap(table: str, stage: Stage) -> None:
    """The server's own error, raised by a trigger: the step rolls back whole, whichever table had no room."""
    daemon = await stage.start()
    tip = stage.fork("b", 96, 9)
    stage.show(tip)
    await stage.execute(FULL.format(table))
    with capture_logs() as logs:
        for _ in range(4):
            assert not await daemon.poll()
    assert waits(logs) == ["the database: out of disk"]
    await stage.stands_at(stage.main)
    await stage.execute(f"DROP TRIGGER test_full ON {table}")
    await daemon.settle()
    await stage.equals(tip, [(96, 4)])


async def test_a_disk_that_is_full(troubled: EmbeddedServer, copies: Databases) -> None:
    """A database on a disk of its own, filled to the last page. Where none can be mounted the error is the server's, by
    a trigger: the test above."""
    source = await copies.make()
    with small_disk(troubled, 80) as disk:
        if disk is None:
            return
        await admin(troubled, f"CREATE TABLESPACE tiny LOCATION '{disk}'")
        name = urlsplit(source).path.strip("/")
        await admin(troubled, f'CREATE DATABASE tiny TEMPLATE "{name}" TABLESPACE tiny')
        try:
            async with Stage(troubled.url("tiny"), "full") as stage:
                daemon = await stage.start()
                tip = stage.grow(stage.main, 60)
                stage.show(tip)
                await stage.execute(FILLER)
                await fill(stage.own)
                with capture_logs() as logs:
                    for _ in range(60):
                        if not await daemon.poll() and daemon.progress.waiting:
                            break
                        tip = stage.grow(tip, 60)  # until the last free page of the tables is used
                        stage.show(tip)
                assert waits(logs) == ["the database: out of disk"]
                await stage.execute("DROP SCHEMA filler CASCADE")
                await daemon.settle()
                await stage.untouched(tip)
        finally:
            await admin(troubled, "DROP DATABASE tiny WITH (FORCE)", "DROP TABLESPACE tiny")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog asks early, and the server ends a wait for a lock soon; that it is within 60 seconds is tested on a
    clock of its own. Whoever answers, however slowly, has all the time there is."""
    monkeypatch.setattr(watchdog, "CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(watchdog, "STATEMENT_LIMIT_S", 0.5)
    monkeypatch.setattr(watchdog, "ASK_TIMEOUT_S", PATIENCE)
    monkeypatch.setattr(stall_detector, "SLOW_STATEMENT_S", PATIENCE)
    monkeypatch.setattr(stall_detector.StallDetector, "limit", property(lambda self: PATIENCE))
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", PATIENCE)
    monkeypatch.setitem(connection.SETTINGS, "lock_timeout", "10s")


@contextlib.asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[None]:
    feed = HeadFeed([], 0.05)
    async with background_task(daemon.runner.watchdog(feed).run()), background_task(daemon.runner.follow(feed)):
        yield


async def stuck(daemon: Daemon, name: str) -> str:
    """Until the watchdog says it; what it says."""
    await eventually(lambda: name in daemon.progress.stuck, lambda: f"{name} among {daemon.progress.stuck}")
    assert any(reason.startswith(name) for reason in daemon.progress.reasons_not_ready())
    return daemon.progress.stuck[name]


async def well(daemon: Daemon, number: int) -> None:
    p = daemon.progress
    await eventually(
        lambda: p.projected == number and not p.reasons_not_ready(),
        lambda: f"block {number}; it is at {p.projected}: {p.reasons_not_ready()}",
    )


async def waits_for(daemon: Daemon, name: str) -> None:
    p = daemon.progress
    await eventually(lambda: p.waiting.startswith(name), lambda: f"a wait for {name}; it waits for {p.waiting}")


async def test_a_server_that_is_paused_is_found_silent_and_left_for_a_new_connection(
    troubled: EmbeddedServer, stage: Stage, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await stage.start()
    tip = stage.grow(stage.main, 5)
    async with running(daemon):
        with paused(troubled), monkeypatch.context() as impatient:
            impatient.setattr(watchdog, "ASK_TIMEOUT_S", 0.5)
            impatient.setattr(connection, "CONNECT_TIMEOUT_S", 1.0)
            stage.show(tip)
            assert "the server has not answered" in await stuck(daemon, "statement")
            await waits_for(daemon, "the database: ")
        await well(daemon, tip.number)
    await stage.untouched(tip)
    assert daemon.progress.found_stuck["statement"] == 1


async def test_a_lock_that_another_session_holds_is_named_with_that_session(stage: Stage, soon: None) -> None:
    daemon = await stage.start()
    tip = stage.grow(stage.main, 5)
    holder = await asyncpg.connect(stage.url, server_settings={"application_name": "somebody's psql"})
    async with running(daemon):
        async with holder.transaction():
            await holder.execute("LOCK TABLE indexer.raw_log IN ACCESS EXCLUSIVE MODE")
            stage.show(tip)
            said = await stuck(daemon, "lock")
            assert f"lock of somebody's psql (pid {holder.get_server_pid()})" in said
            # The server ends the wait, and the step with it.
            await waits_for(daemon, "the database: a lock that another session holds")
        await holder.close()
        await well(daemon, tip.number)
    await stage.untouched(tip)


async def test_a_slow_statement_is_named_and_waited_for(
    stage: Stage, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await stage.start()
    tip = stage.grow(stage.main, 5)
    await stage.execute(
        "CREATE FUNCTION test.slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN WHILE NOT pg_try_advisory_xact_lock(7) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN NEW; END$$;"
        "CREATE TRIGGER test_slow BEFORE INSERT ON indexer.commit_log FOR EACH ROW EXECUTE FUNCTION test.slow()"
    )
    await stage.execute("SELECT pg_advisory_lock(7)")  # for as long as the statement is to take
    async with running(daemon):
        with monkeypatch.context() as impatient:
            impatient.setattr(stall_detector, "SLOW_STATEMENT_S", 0.8)
            stage.show(tip)
            assert "the database is slow" in await stuck(daemon, "statement")
        await stage.execute("SELECT pg_advisory_unlock(7)")
        await well(daemon, tip.number)
    assert not daemon.errors
    await stage.untouched(tip)


async def test_a_start_waits_for_a_server_that_is_just_starting(
    troubled: EmbeddedServer, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends with its error where nobody is there, or where it lasts."""
    daemon = Daemon(stage.url, stage.nodes[:1], DEVNET)
    daemon.progress.clock = clock = Clock(1000.0)
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise DatabaseUnreachableError("x") from asyncpg.CannotConnectNowError("starting up")

    async def pause(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(daemon.runner, "_pause", pause)
    await daemon.runner.prepare(work)
    assert tries == 4 and daemon.progress.waiting == "the database: starting, stopping or recovering"
    tries = -100
    with pytest.raises(DatabaseUnreachableError):
        await daemon.runner.prepare(work)
    assert clock.now - 1000 < runner_module.OPEN_TIMEOUT_S * 1.5
    with pytest.raises(DatabaseUnreachableError):
        monkeypatch.setattr(daemon.runner, "url", "postgresql://u:p@127.0.0.1:1/db")
        await daemon.runner.open()
    await daemon.stop()
