"""Compares a database with what was emitted: the recompute by tests/support/oracle, and the raw logs byte by byte."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from tests.support.anvil.driver import Driver
from tests.support.oracle.compare import LEVELS, differences, fetch_database, fetch_level
from tests.support.oracle.recompute import recompute

CONFIG = Path(__file__).parents[2] / "config"


async def assert_equals_truth(url: str, driver: Driver, config: Path = CONFIG / "reya.toml", first: int = 0) -> None:
    """Every public table equals the recompute of the canonical logs from block `first`; its rows at finalized and at
    safe are the recompute up to there; and the raw logs are equal."""
    logs = [g for g in driver.canonical() if int(g["blockNumber"], 16) >= first]
    found = differences(recompute(logs, config), await fetch_database(url))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])
    for suffix in LEVELS:
        last, rows = await fetch_level(url, suffix)
        there = recompute([g for g in logs if int(g["blockNumber"], 16) <= last], config)
        found = differences({table: there[table] for table in rows if table in there}, rows)
        assert rows and not found, f"{len(found)} differences{suffix}:\n" + "\n".join(found[:20])
    conn = await asyncpg.connect(url)
    try:
        raw = await conn.fetch(
            "SELECT r.block_number, r.log_index, r.address, r.topics, r.data, r.transaction_hash, b.hash"
            " FROM indexer.raw_log r JOIN indexer.block b ON b.number = r.block_number ORDER BY 1, 2"
        )
        numbers = await conn.fetch("SELECT hash, number FROM indexer.checkpoint")
    finally:
        await conn.close()
    emitted = [
        (
            int(g["blockNumber"], 16),
            int(g["logIndex"], 16),
            bytes.fromhex(g["address"][2:]),
            b"".join(bytes.fromhex(t[2:]) for t in g["topics"]),
            bytes.fromhex(g["data"][2:]),
            bytes.fromhex(g["transactionHash"][2:]),
            bytes.fromhex(g["blockHash"][2:]),
        )
        for g in logs
    ]
    assert [tuple(r) for r in raw] == emitted
    # A daemon's checkpoint is the head, a backfill's is finalized.
    ends = [driver.node.block(tag) for tag in ("latest", "finalized")]
    ((number, block_hash),) = [(n["number"], "0x" + n["hash"].hex()) for n in numbers]
    assert (number, block_hash) in [(int(b["number"], 16), b["hash"]) for b in ends]
