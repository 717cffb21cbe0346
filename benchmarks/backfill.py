"""Backfill against a naive web3.py loop, in one run on the same node and the same PostgreSQL.

    python -m benchmarks.backfill --logs 20000

The node is tests/replay.py in a process of its own; its own speed bounds both sides. The loop does what such scripts
do: get_logs over 2,000 blocks, process_log, one INSERT per event into one table, no checks. The indexer writes raw
logs, blocks, coverage, checkpoint and the public table, and confirms what it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import shutil
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path

import asyncpg
from web3 import Web3

from indexer.pg.server import EmbeddedServer
from tests.daemon import run
from tests.replay import ReplayNode, chain

RUSD = "0xa9f32a851b1800742e47725da54a09a7ef2556a3"
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
LOGS_PER_BLOCK = 5
ROOT = Path(__file__).parents[1]


def serve(logs: int, told: Queue[str]) -> None:
    """Serves `logs` rUSD transfers, five a block, with block times in the logs as current nodes give them."""

    def transfer(block: int, index: int) -> dict[str, object]:
        n = block * LOGS_PER_BLOCK + index
        return {
            "address": RUSD, "topics": [TRANSFER, f"0x{n:064x}", f"0x{n + 1:064x}"], "data": f"0x{n:064x}",
            "transactionHash": f"0x{n:064x}", "transactionIndex": hex(index), "logIndex": hex(index),
            "blockTimestamp": hex(1_700_000_000 + block), "removed": False,
        }  # fmt: skip

    async def forever() -> None:
        blocks = logs // LOGS_PER_BLOCK
        filled = {b: [transfer(b, i) for i in range(LOGS_PER_BLOCK)] for b in range(blocks)}
        async with ReplayNode(1729, chain(blocks, filled)) as node:
            told.put(node.url)
            await asyncio.Event().wait()

    asyncio.run(forever())


async def naive(url: str, node: str, blocks: int) -> float:
    """Seconds of the naive loop."""
    w3 = Web3(Web3.HTTPProvider(node))
    abi = json.loads((ROOT / "abis/erc20.json").read_text())
    event = w3.eth.contract(abi=abi).events.Transfer()
    conn = await asyncpg.connect(url)
    await conn.execute("CREATE TABLE naive (id text PRIMARY KEY, f text, t text, v numeric(78,0), block bigint)")
    started = time.monotonic()
    address = Web3.to_checksum_address(RUSD)
    for first in range(0, blocks, 2000):
        asked = {"fromBlock": first, "toBlock": min(first + 1999, blocks - 1), "address": address}
        for log in w3.eth.get_logs(asked):  # type: ignore[arg-type]
            read = event.process_log(log)
            await conn.execute(
                "INSERT INTO naive VALUES ($1, $2, $3, $4::text::numeric, $5)",
                f"{log['transactionHash'].hex()}-{log['logIndex']}",
                read["args"]["from"],
                read["args"]["to"],
                str(read["args"]["value"]),
                log["blockNumber"],
            )
    elapsed = time.monotonic() - started
    await conn.close()
    return elapsed


def indexed(url: str, node: str) -> float:
    """Seconds of `reya-indexer backfill`, the start of the process included."""
    run("migrate", env={"DATABASE_URL": url})
    started = time.monotonic()
    done = run("backfill", "--from-block", "0", "--rpc-url", node, env={"DATABASE_URL": url}, timeout=3600)
    elapsed = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    return elapsed


async def count(url: str, table: str) -> int:
    conn = await asyncpg.connect(url)
    found: int = await conn.fetchval(f"SELECT count(*) FROM {table}")
    await conn.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Backfill against a naive web3.py loop.")
    parser.add_argument("--logs", type=int, default=20_000)
    logs = parser.parse_args().logs
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder)
    told: Queue[str] = multiprocessing.Queue()
    process = multiprocessing.Process(target=serve, args=(logs, told), daemon=True)
    try:
        server.start()
        server.ensure_database("bench")
        server.ensure_database("naive")
        process.start()
        node = told.get(timeout=120)
        ours = indexed(server.url("bench"), node)
        theirs = asyncio.run(naive(server.url("naive"), node, logs // LOGS_PER_BLOCK))
        assert asyncio.run(count(server.url("bench"), "token_transfer")) == logs
        assert asyncio.run(count(server.url("naive"), "naive")) == logs
        print(f"naive web3.py loop   {logs / theirs:10,.0f} logs/s  {theirs:7.1f} s")
        print(f"reya-indexer         {logs / ours:10,.0f} logs/s  {ours:7.1f} s")
        print(f"ratio                {theirs / ours:10.1f}")
    finally:
        process.kill()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
