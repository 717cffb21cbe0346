"""Real blocks of Arbitrum One through the whole program: every ERC-20 transfer becomes its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from indexer import config
from indexer.chain.bloom import may_contain
from indexer.db.catalog import sql_name
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.schema import migrate
from indexer.schema.tables.metadata import TABLES
from tests.support.replay import ReplayNode

DATA = Path(__file__).parents[1] / "data/arbitrum_one_blocks.jsonl"
BLOCKS = [json.loads(line) for line in DATA.read_text().splitlines()]
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


def transfers(block: dict[str, Any]) -> list[dict[str, Any]]:
    return [g for g in block["logs"] if g["topics"] and g["topics"][0] == TRANSFER and len(g["topics"]) == 3]


TOKENS = sorted({g["address"] for b in BLOCKS for g in transfers(b)})


def deployment(folder: Path) -> config.Deployment:
    lines = ['name = "real"', "chain_id = 42161", 'env_prefix = "REAL"']
    for i, token in enumerate(TOKENS):
        lines += ["[[contract]]", f'name = "token_{i}"', f'address = "{token}"', 'abis = ["erc20"]', "erc20 = true"]
    path = folder / "real.toml"
    path.write_text("\n".join(lines))
    return config.load(str(path))


def expected_rows(block: dict[str, Any]) -> list[tuple[Any, ...]]:
    number, rows = int(block["number"], 16), []
    for log in transfers(block):
        index = int(log["logIndex"], 16)
        addresses = ["0x" + t[-40:] for t in log["topics"][1:]]
        row = (f"{log['transactionHash']}-{index}", log["address"], *addresses, int(log["data"], 16))
        rows.append((*row, number, int(block["timestamp"], 16), log["transactionHash"], number * 100_000 + index))
    return sorted(rows)


async def test_every_transfer_of_the_real_blocks_is_a_row_and_nothing_else_is(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    chain = deployment(tmp_path)
    url = fresh_database()
    await migrate.upgrade_async(url)
    admin = await asyncpg.connect(url)
    compared = 0
    for block in BLOCKS:
        # The blocks are scattered over years, so each is a range of its own, from its own origin, in an empty database.
        number = int(block["number"], 16)
        ours = ("raw_log", "block", "head_proof", "coverage", "deployment", "commit_log")
        await admin.execute(f"TRUNCATE {', '.join([*map(sql_name, TABLES), *(f'indexer.{name}' for name in ours)])}")
        await admin.execute("UPDATE indexer.checkpoint SET number = NULL, digest = NULL, rollback_floor = NULL")
        async with ReplayNode(42161, [block]) as node:
            pool = Pool([node.url], 42161, max_blocks=2000)
            await pool.open()
            runner = Runner(chain, url, pool, DaemonProgress(), EngineOptions(first=number, last=number))
            await runner.open()
            state = await runner.backfill()
            assert state is not None and state.checkpoint is not None and state.checkpoint.number == number
            assert runner.conn is not None
            rows = await runner.conn.fetch(
                "SELECT id, token, from_address, to_address, amount, block_number, block_timestamp, transaction_hash,"
                " unique_id FROM token_transfer"
            )
            assert sorted(tuple(r) for r in rows) == expected_rows(block)
            compared += len(rows)
            raw = await runner.conn.fetchval("SELECT count(*) FROM indexer.raw_log")
            assert raw == sum(g["address"] in TOKENS for g in block["logs"])
            await runner.close()
            await pool.close()
    await admin.close()
    assert compared == sum(len(transfers(b)) for b in BLOCKS) > 300


def test_the_bloom_of_every_real_block_announces_every_contract_that_logged_in_it() -> None:
    for block in BLOCKS:
        bloom = bytes.fromhex(block["logsBloom"][2:])
        assert all(may_contain(bloom, bytes.fromhex(g["address"][2:])) for g in block["logs"])
    absent = sum(not may_contain(bytes.fromhex(b["logsBloom"][2:]), b"\x01" * 20) for b in BLOCKS)
    assert absent > len(BLOCKS) // 2
