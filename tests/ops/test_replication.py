"""Logical replication of the public tables: a subscriber equals the publisher, whatever happens to the rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from indexer.embedded_pg.server import EmbeddedServer
from indexer.projector.reproject import project_again
from indexer.projector.step import Step
from tests.chaos.databases import Databases
from tests.scenarios.harness import Stage
from tests.scenarios.test_head_proof import places
from tests.support.postgres import own_postgres
from tests.support.waiting import eventually

pytestmark = pytest.mark.ops


@pytest.fixture(scope="module")
def copies() -> Iterator[Databases]:
    """Of a server that writes what logical replication needs."""
    with own_postgres("replication") as server:
        asyncio.run(configure(server))
        server.stop()
        server.start()
        yield Databases(server)


async def configure(server: EmbeddedServer) -> None:
    """What logical replication needs, and that does not wait between two tables."""
    conn = await asyncpg.connect(server.url("postgres"))
    await conn.execute("ALTER SYSTEM SET wal_level = 'logical'")
    for name, value in (("max_sync_workers_per_subscription", 8), ("max_logical_replication_workers", 12),
                        ("max_worker_processes", 20), ("wal_retrieve_retry_interval", 100)):  # fmt: skip
        await conn.execute(f"ALTER SYSTEM SET {name} = {value}")
    await conn.close()


@pytest.fixture
async def stage(copies: Databases, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    url = await copies.make()
    async with Stage(url, request.node.name) as made:
        yield made
    await copies.drop(url)


Pair = tuple[asyncpg.Connection, asyncpg.Connection]


@contextlib.asynccontextmanager
async def subscribed(stage: Stage, copies: Databases) -> AsyncIterator[Pair]:
    """Connections to the publisher and to a subscriber of docs/how-to/replicate.md."""
    url = await copies.make()
    publisher, subscriber = await asyncpg.connect(stage.url), await asyncpg.connect(url)
    parts = urlsplit(stage.url)
    source = (
        f"host={parts.hostname} port={parts.port} dbname={parts.path[1:]} user={parts.username}"
        f" password={unquote(parts.password or '')}"
    )
    await publisher.execute("CREATE PUBLICATION reya FOR TABLES IN SCHEMA public")
    # In one cluster the slot must be there first: making it would wait for the transaction that makes it.
    await publisher.execute("SELECT pg_create_logical_replication_slot('reya', 'pgoutput')")
    await subscriber.execute(
        f"CREATE SUBSCRIPTION reya CONNECTION '{source}' PUBLICATION reya"
        " WITH (create_slot = false, slot_name = 'reya')"
    )
    yield publisher, subscriber
    await subscriber.execute("ALTER SUBSCRIPTION reya DISABLE; ALTER SUBSCRIPTION reya SET (slot_name = NONE)")
    await subscriber.execute("DROP SUBSCRIPTION reya")
    await subscriber.close()

    async def free() -> bool:
        return bool(await publisher.fetchval("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'reya'"))

    await eventually(free, "the slot is free")
    await publisher.execute("SELECT pg_drop_replication_slot('reya')")
    await publisher.close()
    await copies.drop(url)


async def contents(conn: asyncpg.Connection) -> dict[str, tuple[int, str]]:
    """Number of rows and a hash of all rows, by public table."""
    found = {}
    names = await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    for (name,) in names:
        row = await conn.fetchrow(
            f"SELECT count(*), coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM public.\"{name}\" t"
        )
        assert row is not None
        found[name] = (row[0], row[1])
    return found


async def equal(pair: Pair) -> None:
    publisher, subscriber = pair
    wanted = await contents(publisher)
    assert sum(rows for rows, _ in wanted.values()) > 100

    async def same() -> bool:
        return await contents(subscriber) == wanted

    await eventually(same, "the subscriber equals the publisher")


@pytest.mark.parametrize("when", ["before the load", "later"])
async def test_a_subscriber_equals_the_publisher(when: str, stage: Stage, copies: Databases) -> None:
    if when == "later":
        await (await stage.start()).stop()
    async with subscribed(stage, copies) as pair:
        # The initial load, with keys put off where no publication needs them.
        daemon = await stage.start(0, defer_from=0)
        await equal(pair)
        # Reorgs, to a longer and to a shorter chain.
        stage.show(tip := stage.fork("b", 80, 26, density=4.0))
        await daemon.settle()
        stage.show(tip := stage.fork("c", 85, 12, tip, density=4.0))
        await daemon.settle()
        await stage.equals(tip)
        await equal(pair)
        # A heal of a log that was left out.
        before, tip = tip, stage.grow(tip, 6, density=4.0)
        stage.nodes[0].omit = {places(stage, tip, before.number)[0]}
        stage.show(tip)
        assert await daemon.prove(daemon.prover(stage.nodes[0])) == "up to date"
        assert daemon.progress.head_proof.healed == 1
        await equal(pair)
        # A whole reprojection empties every table and fills it again.
        engine = daemon.runner.engine
        state = await engine.observer.load_state(daemon.conn)
        await project_again(engine.rewriter, Step(daemon.conn, state, engine.token), state.next_block - 1)
        await daemon.settle()
        await equal(pair)
