"""heal against a fresh index: random omissions, random damage, by replay of what is touched and by projecting all."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer import config
from indexer.attest.compare import compare_stored, ranges
from indexer.db.connection import connection
from indexer.follow.engine_options import EngineOptions
from indexer.follow.maintenance import Maintenance
from indexer.follow.runner import Runner
from indexer.projector import replay
from indexer.reorg.heal import heal_trusted
from indexer.reorg.recovery import Recovery
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.schema import migrate
from indexer.store.index_state import load_index_state
from tests.support.oracle.compare import differences, fetch_database
from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.view import Depth
from tests.support.simchain.world import exchange

CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"
CHAIN = 89346162


async def follow(url: str, node: SimNode, pool: Pool, tip: Block, first: int = 0) -> None:
    """A backfill to the tip, in this process."""
    runner = Runner(config.load("devnet"), url, pool, DaemonProgress(), EngineOptions(first=first, last=tip.number))
    try:
        await runner.open()
        await runner.backfill()
    finally:
        await runner.close()


async def healed(url: str, pool: Pool, last: int) -> int:
    """Verifies up to `last` and heals what differs. How many ranges."""
    async with connection(url) as conn:
        recovery = Recovery(config.load("devnet"), pool, conn)
        state = await recovery.state()
        bad = [part async for part in compare_stored(conn, pool, state, 0, last) if part.differences]
        segments = [s for part in bad for s in ranges(part.segment, part.differences)]
        for segment in segments:
            await heal_trusted(recovery, segment, "test")
        return len(segments)


async def equal(url: str, tree: Tree, tip: Block, first: int = 0) -> None:
    found = differences(recompute(tree.logs(tip.hash, first), CONFIG), await fetch_database(url))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:10])


@pytest.mark.parametrize("most", [replay.MAX_REPLAYED, 0], ids=["touched rows are replayed", "all is projected again"])
@pytest.mark.parametrize("seed", range(4))
async def test_healed_tables_equal_a_fresh_index_and_later_reorgs_still_do(
    seed: int, most: int, fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_REPLAYED", most)
    rng, tree, url = random.Random(seed), Tree(), fresh_database()
    world = exchange(tree)
    tip = world.grow(tree.genesis.hash, 150, rng, 2.0)
    await migrate.upgrade_async(url)
    async with SimNode(tree, tip.hash, CHAIN) as node:
        node.finalized = node.safe = Depth(30)
        pool = Pool([node.url], CHAIN)
        await pool.open()
        try:
            final = [g for g in tree.logs(tip.hash) if int(g["blockNumber"], 16) <= tip.number - 30]
            for lost in rng.sample(final, rng.choice([1, 5, 40])):
                node.omit.add((bytes.fromhex(lost["blockHash"][2:]), int(lost["logIndex"], 16)))
            await follow(url, node, pool, tip)
            node.omit.clear()
            assert await healed(url, pool, tip.number - 30) > 0
            assert await healed(url, pool, tip.number - 30) == 0
            await equal(url, tree, tip)
            # Before-images were corrected with the rows: a reorg down to the floor restores healed values.
            tip = world.fork(tip.hash, 29, 31, rng)
            node.head = tip.hash
            await follow(url, node, pool, tip)
            await equal(url, tree, tip)
        finally:
            await pool.close()


async def test_a_lower_origin_is_healed_in_one_commit_and_readers_never_see_emptied_tables(
    fresh_database: Callable[[], str],
) -> None:
    rng, tree, url = random.Random(9), Tree(), fresh_database()
    tip = exchange(tree).grow(tree.genesis.hash, 150, rng, 2.0)
    await migrate.upgrade_async(url)
    async with SimNode(tree, tip.hash, CHAIN) as node:
        node.finalized = node.safe = Depth(30)
        pool = Pool([node.url], CHAIN)
        await pool.open()
        try:
            for origin, kinds in ((90, []), (86, ["heal"]), (0, ["heal", "reproject"])):
                await follow(url, node, pool, tip, origin)
                await equal(url, tree, tip, origin)
                async with connection(url) as conn:
                    rows = await conn.fetch("SELECT kind FROM indexer.commit_log WHERE kind <> 'forward' ORDER BY seq")
                # Further down backstop accounts are configured, which any liquidation may need: all again.
                assert [r["kind"] for r in rows] == kinds
        finally:
            await pool.close()


async def test_growing_before_images_are_an_incident_and_none_is_cut(fresh_database: Callable[[], str]) -> None:
    rng, tree, url = random.Random(9), Tree(), fresh_database()
    tip = exchange(tree).grow(tree.genesis.hash, 60, rng, 2.0)
    await migrate.upgrade_async(url)
    async with SimNode(tree, tip.hash, CHAIN) as node:
        node.finalized = node.safe = Depth(40)
        pool = Pool([node.url], CHAIN)
        await pool.open()
        try:
            await follow(url, node, pool, tip)
        finally:
            await pool.close()
    count, alarm = "SELECT count(*) FROM indexer.before_image", "SELECT count(*) FROM indexer.incident WHERE kind ="
    alarm += " 'before_images_grow' AND resolved_at IS NULL"
    deployment, progress = config.load("devnet"), DaemonProgress()
    async with connection(url) as conn:
        state = await load_index_state(conn, [c.address for c in deployment.contracts])
        images = await conn.fetchval(count)
        assert images > 10
        for most, open_incidents in ((10, 1), (10, 1), (images, 0)):
            await Maintenance(progress, config.Keep(), most).count_images(conn, state)
            assert (await conn.fetchval(alarm), await conn.fetchval(count)) == (open_incidents, images)
        assert progress.before_images == images
