"""Head latency: from the moment a node serves a block to the moment its rows are committed.

    python -m benchmarks.latency [--blocks 200]

The daemon follows a chain of four blocks a second, about five logs each, served by a simulated chain: once woken by its
WebSocket, once by polling alone. A block counts as committed when another connection sees the checkpoint on it, which
looks every 2 ms. Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg
from eth_hash.auto import keccak

from benchmarks.chain import CHAIN_ID, MIX, Traffic
from benchmarks.figures import Figure, report
from indexer.embedded_pg.server import EmbeddedServer
from tests.support.daemon import Daemon
from tests.support.postgres import own_postgres
from tests.support.simchain.chain import Block, SimTx, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.view import Depth

INTERVAL = 0.25  # seconds between blocks, and between looks of a daemon that polls
ALLOWED = 0.1
LOOK = 0.002
WARM = 8  # blocks that do not count: the first ones after the start


class Chain:
    """A node whose head grows, and when each block of it was first served."""

    def __init__(self, node: SimNode, seed: int = 1) -> None:
        self.node, self.rng, self.seed = node, random.Random(seed), seed
        self.traffic = Traffic(self.rng)
        self.traffic.accounts = 100
        self.served: dict[int, float] = {}
        self._kinds = list(MIX)

    def grow(self) -> None:
        self.serve(self.extend())

    def extend(self) -> Block:
        """The next block, which the node does not show yet."""
        tree, head = self.node.tree, self.node.tree[self.node.head]
        stamp, txs = tree.next_timestamp(head), []
        for n in range(self.rng.randrange(4)):
            kinds = self.rng.choices(self._kinds, list(MIX.values()), k=self.rng.randrange(1, 7))
            txs.append(SimTx(keccak(b"%d %d" % (head.number, n)), self.traffic.transaction(kinds, stamp)))
        return tree.extend(head.hash, txs, timestamp=stamp)

    def serve(self, block: Block) -> None:
        """The node shows it from now on."""
        self.node.head = block.hash
        self.served[block.number] = time.monotonic()

    async def run(self, blocks: int) -> None:
        at = time.monotonic()
        for _ in range(blocks):
            at += INTERVAL
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            self.grow()


async def committed(url: str, last: int) -> dict[int, float]:
    """When each block up to `last` was seen to be committed."""
    connection = await asyncpg.connect(url)
    seen: dict[int, float] = {}
    known = -1
    query = await connection.prepare("SELECT number FROM indexer.checkpoint")
    until = time.monotonic() + 600
    while known < last and time.monotonic() < until:
        number = await query.fetchval()
        now = time.monotonic()
        if number is not None and number > known:
            seen |= dict.fromkeys(range(known + 1, number + 1), now)
            known = number
        await asyncio.sleep(LOOK)
    await connection.close()
    if known < last:
        raise RuntimeError(f"the daemon did not reach block {last}")
    return seen


async def wait_for_table(url: str) -> None:
    """Until the daemon has migrated."""
    connection = await asyncpg.connect(url)
    while await connection.fetchval("SELECT to_regclass('indexer.checkpoint')") is None:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await connection.close()


async def follow(url: str, blocks: int, websocket: bool, folder: Path) -> list[float]:
    """Seconds from served to committed, of each of `blocks` blocks."""
    async with SimNode(Tree(), chain_id=CHAIN_ID) as node:
        node.finalized, node.safe = Depth(40), Depth(20)
        chain = Chain(node)
        for _ in range(60):
            chain.grow()
        arguments = ["--rpc-url", node.url, "--http-port", "0", "--poll-interval", str(INTERVAL)]
        arguments += ["--ws-url", node.ws_url] if websocket else []
        daemon = Daemon(arguments, {"DATABASE_URL": url}, folder / f"{'ws' if websocket else 'polling'}.log")
        try:
            await wait_for_table(url)
            await committed(url, 60)
            if websocket:
                await asyncio.wait_for(node.subscribed(), 30)
            last = 60 + WARM + blocks
            seen, _ = await asyncio.gather(committed(url, last), chain.run(WARM + blocks))
        finally:
            daemon.terminate()
            daemon.kill()
    return [seen[n] - chain.served[n] for n in range(61 + WARM, last + 1)]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all is not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def figure(latencies: Sequence[float], way: str, limit: float | None) -> Figure:
    """The 99th percentile of latencies (s), in milliseconds, beside the limit (ms)."""
    half, most, worst = (percentile(latencies, share) * 1000 for share in (0.5, 0.99, 1.0))
    note = f"p50 {half:.0f} ms, worst {worst:.0f} ms of {len(latencies)} blocks"
    numbers = {"p50_ms": half, "p99_ms": most, "worst_ms": worst, "blocks": len(latencies)}
    return Figure(f"head latency p99, {way}", most, " ms", limit, most=True, note=note, numbers=numbers)


def measure(server: EmbeddedServer, blocks: int = 200) -> list[Figure]:
    """Milliseconds, with WebSocket and without."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for websocket in (True, False):
            name = f"bench_latency_{'ws' if websocket else 'polling'}"
            server.ensure_database(name)
            found = asyncio.run(follow(server.url(name), blocks, websocket, Path(folder)))
            limit = (ALLOWED if websocket else INTERVAL + ALLOWED) * 1000
            way = "WebSocket" if websocket else f"polling every {INTERVAL * 1000:.0f} ms"
            figures.append(figure(found, way, limit))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Head latency of the daemon.")
    parser.add_argument("--blocks", type=int, default=200)
    given = parser.parse_args()
    with own_postgres("bench", None) as server:
        figures = measure(server, given.blocks)
    print(report(figures))
    sys.exit(not all(figure.ok for figure in figures))


if __name__ == "__main__":
    main()
