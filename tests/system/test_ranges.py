"""Long empty history, nodes that serve few blocks at once, and blocks with more logs than a node serves at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from indexer import config
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.schema import migrate
from tests.support.replay import ReplayNode, chain
from tests.support.simchain.chain import SimLog, SimTx, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.refusals import Provider

RUSD = "0xa9f32a851b1800742e47725da54a09a7ef2556a3"
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


def transfer(n: int) -> dict[str, object]:
    return {
        "address": RUSD,
        "topics": [TRANSFER, "0x" + "00" * 32, f"0x{n:064x}"],
        "data": f"0x{n:064x}",
        "transactionHash": f"0x{n:064x}",
        "transactionIndex": "0x0",
        "logIndex": "0x0",
        "removed": False,
    }


@pytest.mark.parametrize(("cap", "configured"), [(None, 2000), (2000, 2000), (2000, 50_000), (300, 2000), (1, 64)])
async def test_a_node_that_serves_few_blocks_at_once_is_read_whole(
    cap: int | None, configured: int, fresh_database: Callable[[], str]
) -> None:
    length = 12_000 if cap != 1 else 130
    numbers = range(7, length, 113)
    url = fresh_database()
    await migrate.upgrade_async(url)
    deployment = replace(config.load("reya"), max_blocks=configured)
    async with ReplayNode(1729, chain(length, {n: [transfer(n)] for n in numbers}), cap=cap) as node:
        pool = Pool([node.url], 1729, max_blocks=configured)
        await pool.open()
        runner = Runner(deployment, url, pool, DaemonProgress(), EngineOptions(first=0, last=length - 1))
        await runner.open()
        state = await runner.backfill()
        assert state is not None and state.checkpoint is not None and state.checkpoint.number == length - 1
        assert runner.conn is not None
        rows = await runner.conn.fetch("SELECT amount FROM token_transfer ORDER BY unique_id")
        assert [r["amount"] for r in rows] == list(numbers)
        # Its message names what it serves: one refusal teaches it.
        assert node.refused <= (0 if cap is None or cap >= configured else 1)
        asked = length // min(configured, cap or configured)
        assert node.requests <= asked * 2 + 20
        await runner.close()
        await pool.close()


@pytest.mark.parametrize("says", ["reya", "geth", "nitro"])
@pytest.mark.parametrize("finalized", [60, 20])
async def test_a_block_with_more_logs_than_the_node_serves_is_stored_whole(
    says: Provider, finalized: int, fresh_database: Callable[[], str]
) -> None:
    tree, amounts, head = Tree(), list[int](), b""
    for number in range(1, 61):
        count = 12 if number in (30, 31) else number % 7 == 0
        amounts += (new := [number * 100 + n for n in range(count)])
        logs = [
            SimLog(RUSD, (bytes.fromhex(TRANSFER[2:]), bytes(32), n.to_bytes(32, "big")), n.to_bytes(32, "big"))
            for n in new
        ]
        txs = [SimTx(number.to_bytes(32, "big"), logs)] if logs else []
        head = tree.extend(tree.genesis.hash if number == 1 else head, txs).hash
    url = fresh_database()
    await migrate.upgrade_async(url)
    async with SimNode(tree, head, chain_id=1729) as node:
        node.max_logs, node.says, node.finalized = 5, says, finalized
        pool = Pool([node.url], 1729)
        await pool.open()
        above = finalized < 60  # that is the follower's
        runner = Runner(
            config.load("reya"), url, pool, DaemonProgress(), EngineOptions(first=0, last=None if above else finalized)
        )
        await runner.open()
        assert runner.conn is not None
        if above:
            while await runner.engine.run_cycle(runner.conn):
                pass
        else:
            await runner.backfill()
        rows = await runner.conn.fetch("SELECT amount FROM token_transfer ORDER BY unique_id")
        assert [r["amount"] for r in rows] == amounts
        assert node.requests["eth_getBlockReceipts"] >= 2
        await runner.close()
        await pool.close()
