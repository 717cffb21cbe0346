"""The daemon's whole life as the writer of `db roles`: what applications wrote is never touched."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from indexer import config
from indexer.attest.compare import compare_stored, ranges
from indexer.db.catalog import sql_name, table_kind
from indexer.db.connection import Connection, connection
from indexer.errors import IndexerError
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.projector.reproject import Reprojection
from indexer.reorg.heal import heal_trusted
from indexer.reorg.recovery import Recovery
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.schema import migrate
from indexer.schema.tables.metadata import public
from tests.scenarios.harness import Daemon
from tests.support.daemon import run
from tests.support.oracle.compare import differences, fetch_database
from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.world import exchange
from tests.system.test_roles import CHAIN, CONFIG, cast, prefix

__all__ = ["prefix"]


async def applications(conn: Connection) -> None:
    """Rows in every table that an application fills."""
    for name, table in public.tables.items():
        if table_kind(name) not in ("application", "reserved"):
            continue
        values = []
        for column in table.columns:
            type_ = str(column.type).partition("(")[0]
            value = {"TEXT": "'PENDING'", "BOOLEAN": "true", "TIMESTAMP": "'2025-01-01'", "JSONB": "'[1]'"}.get(
                type_, "7"
            )
            values.append(value)
        await conn.execute(f"INSERT INTO {sql_name(name)} VALUES ({', '.join(values)})")


async def theirs(url: str) -> dict[str, list[str]]:
    """Rows of applications with the versions that wrote them."""
    async with connection(url) as conn:
        return {
            name: [row[0] for row in await conn.fetch(f"SELECT t.xmin || ' ' || t.ctid || t FROM {sql_name(name)} t")]
            for name in public.tables
            if table_kind(name) in ("application", "reserved")
        }


async def equals(url: str, tree: Tree, tip: Block) -> None:
    found = differences(recompute(tree.logs(tip.hash), CONFIG), await fetch_database(url))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:10])


async def live(url: str, pool: Pool, node: SimNode, tree: Tree, final: Block, tip: Block) -> Block:
    """A history in bulk, by a process that would put indexes off; then the head with two reorgs. The last tip."""
    deployment, rng = config.load("devnet"), random.Random("live")
    runner = Runner(deployment, url, pool, DaemonProgress(), EngineOptions(first=0, last=final.number, defer_from=1))
    await runner.open()
    await runner.backfill()
    await runner.close()
    daemon = Daemon(url, [node], deployment)
    await daemon.open()
    await daemon.settle()
    for depth in (1, 20):
        tip = exchange(tree).fork(tip.hash, depth, depth + 2, rng, 2.0, salt=b"%d" % depth)
        node.head = tip.hash
        await daemon.settle()
    await daemon.stop()
    return tip


async def recover(url: str, pool: Pool, final: int) -> None:
    """Finds damage below finalized and heals it; projects everything again, and one event again."""
    deployment = config.load("devnet")
    async with connection(url) as conn, connection(url) as side:
        recovery = Recovery(deployment, pool, conn)
        state = await recovery.state()
        bad = [part async for part in compare_stored(conn, pool, state, 0, final) if part.differences]
        assert bad
        for segment in [s for part in bad for s in ranges(part.segment, part.differences)]:
            await heal_trusted(recovery, segment, "test")
        for events in ((), ("AccountOwnerUpdated",)):
            done = await Reprojection(deployment, conn, side, lambda _: None).run(None, events)
            assert done.rows and done.whole is not bool(events)


async def test_the_writers_whole_life_leaves_every_row_of_applications_alone(
    fresh_database: Callable[[], str], prefix: str
) -> None:
    actors = await asyncio.to_thread(cast, fresh_database(), prefix)
    await migrate.upgrade_async(actors.owner)
    async with connection(actors.admin) as conn:
        await applications(conn)
    before = await theirs(actors.admin)
    assert len(before) > 40 and all(before.values())
    tree, rng = Tree(), random.Random("roles")
    final = exchange(tree).grow(tree.genesis.hash, 100, rng, 1.5)
    tip = exchange(tree).grow(final.hash, 30, rng, 2.0)
    async with SimNode(tree, tip.hash, CHAIN) as node:
        node.finalized = node.safe = final.number
        pool = Pool([node.url], CHAIN)
        await pool.open()
        tip = await live(actors.writer, pool, node, tree, final, tip)
        await equals(actors.admin, tree, tip)
        async with connection(actors.admin) as conn:
            assert await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal") == 2
            assert await conn.fetchval("SELECT count(*) FROM indexer.orphaned_row") > 0
            await conn.execute("DELETE FROM indexer.raw_log WHERE block_number % 7 = 0 AND block_number < 60")
        await recover(actors.writer, pool, final.number)
        await pool.close()
    for name in ("check", "status"):
        done = await asyncio.to_thread(run, name, "--chain", "devnet", env={"DATABASE_URL": actors.writer})
        assert done.returncode == 0, done.stdout + done.stderr
    await equals(actors.admin, tree, tip)
    # Steps down that keep the tables, and up again; further down it is refused.
    await migrate.downgrade_async(actors.owner, "0012")
    await migrate.upgrade_async(actors.owner)
    for revision in ("0011", "0002", "base"):
        with pytest.raises(IndexerError, match="rows"):
            await migrate.downgrade_async(actors.owner, revision)
    assert await theirs(actors.admin) == before
