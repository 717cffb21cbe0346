"""What taking blocks back costs: by depth, not by the size of the tables.

    python -m benchmarks.rollback [--rows 1000000] [--json]

The real Writer on a real PostgreSQL, fed with blocks of tests/simchain without a network. Three figures, each with the
limit that it must keep: a reorg of one block with few and with many rows below it (within 2x); 64 blocks with 10,000
rows (the swap under 1 s); 20,000 blocks with 100,000 rows (staging and swap under 60 s, memory flat) while a reader
looks every 50 ms and must see the old state or the new one, nothing between. Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer import config
from indexer.chain.types import Anchor, Header, Log
from indexer.ingest.units import Unit
from indexer.pg.server import EmbeddedServer
from indexer.store import lease, migrate, staging
from indexer.store.database import Connection, connect
from indexer.store.journal import Reorg
from indexer.store.standing import Binding, bind, load
from indexer.store.steps import Writer
from tests.simchain.chain import Block, Tree
from tests.simchain.world import Exchange, exchange

UNIT_BLOCKS = 200
ROUNDS = 9  # one-block reorgs on each size


def unit(blocks: Sequence[Block], addresses: tuple[str, ...]) -> Unit:
    """Blocks of the tree as a confirmed unit."""
    logs, headers = [], []
    for block in blocks:
        headers.append(Header(block.number, block.hash, block.parent, block.timestamp))
        for index, tx_index, tx, log in block:
            logs.append(
                Log(block.number, index, bytes.fromhex(log.address[2:]), tx.hash, tx_index, tuple(log.topics), log.data,
                    block.hash, block.timestamp)
            )  # fmt: skip
    return Unit(blocks[0].number, blocks[-1].number, addresses, logs, headers)


def slices(blocks: Sequence[Block], size: int) -> Iterator[Sequence[Block]]:
    for start in range(0, len(blocks), size):
        yield blocks[start : start + size]


@dataclass
class Bench:
    """One database and the chain in it. `conn` holds the lease."""

    conn: Connection
    writer: Writer
    tree: Tree
    world: Exchange
    addresses: tuple[str, ...]
    token: int
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    tip: Block = field(init=False)

    def __post_init__(self) -> None:
        self.tip = self.tree.genesis

    async def grow(
        self, blocks: int, density: float, *, final: bool, size: int = UNIT_BLOCKS, fresh: float = 0.02
    ) -> None:
        """More blocks on the tip, ingested and projected."""
        last = self.world.grow(self.tip.hash, blocks, self.rng, density, fresh=fresh)
        path = self.tree.path(last.hash)[-blocks:]
        for some in slices(path if self.tip.number else [self.tree.genesis, *path], size):
            standing = await load(self.conn, self.addresses)
            finalized = some[-1].number if final else -1
            await self.writer.ingest(self.conn, standing, unit(some, self.addresses), finalized, self.token)
        self.tip = last

    async def reorg(self, depth: int, density: float) -> tuple[float, float, int]:
        """Seconds of staging and of the swap, and the rows that were removed or restored."""
        fork = self.tree.path(self.tip.hash)[-depth - 1]
        new = self.world.grow(fork.hash, depth, self.rng, density, fresh=0.02, salt=self.rng.randbytes(4))
        path = self.tree.path(new.hash)[-depth:]
        started = time.monotonic()
        await staging.clear(self.conn, self.token)
        for some in slices(path, UNIT_BLOCKS):
            await staging.add(self.conn, unit(some, self.addresses), self.token)
        staged = time.monotonic()
        standing = await load(self.conn, self.addresses)
        done = Reorg(_anchor(fork), _anchor(self.tip), _anchor(new), self.addresses, "benchmark", "benchmark")
        await self.writer.replace(self.conn, standing, done, -1, self.token)
        self.tip = new
        removed: str = await self.conn.fetchval(
            "SELECT rows_removed FROM indexer.reorg_journal ORDER BY id DESC LIMIT 1"
        )
        rows = sum(n for table, n in json.loads(removed).items() if not table.startswith("indexer."))
        return staged - started, time.monotonic() - staged, rows

    async def rows(self) -> int:
        """Rows of the public append tables, about."""
        await self.conn.execute("ANALYZE")
        found: int = await self.conn.fetchval(
            "SELECT coalesce(sum(reltuples), 0)::bigint FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind = 'r'"
        )
        return found


def _anchor(block: Block) -> Anchor:
    return Anchor(block.number, block.hash, block.timestamp)


async def opened(url: str) -> Bench:
    """A migrated, bound database whose lease is held."""
    await migrate.upgrade_async(url)
    conn = await connect(url)
    deployment = config.load("devnet")
    tree = Tree()
    await bind(conn, Binding(deployment.name, deployment.chain_id, 0, tree.genesis.hash, 0))
    token = await lease.acquire(conn, "benchmark")
    assert token is not None
    addresses = tuple(sorted(c.address for c in deployment.contracts))
    return Bench(conn, Writer(deployment), tree, exchange(tree), addresses, token)


def resident() -> float:
    """MB of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Watch:
    """A reader every 50 ms, and the process's memory. `states`: what was seen; `peak`: MB above the start."""

    def __init__(self, url: str, fork: int) -> None:
        self.url, self.fork = url, fork
        self.states: set[tuple[Any, ...]] = set()
        self.looks, self.base, self.peak = 0, resident(), 0.0

    async def look(self, conn: Connection) -> tuple[Any, ...]:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            hash_ = await conn.fetchval("SELECT hash FROM indexer.checkpoint")
            bound = (self.fork + 1) * 100_000
            seen = [hash_]
            for table in ("order_history", "token_transfer", "market_trackers_history"):
                query = f"SELECT count(*), coalesce(sum(unique_id), 0) FROM {table} WHERE unique_id >= $1"
                seen += [*(await conn.fetch(query, bound))[0]]
        return tuple(seen)

    async def run(self) -> None:
        conn = await connect(self.url)
        try:
            while True:
                self.states.add(await self.look(conn))
                self.looks += 1
                self.peak = max(self.peak, resident() - self.base)
                await asyncio.sleep(0.05)
        finally:
            await conn.close()


@asynccontextmanager
async def watched(url: str, fork: int) -> AsyncIterator[Watch]:
    watch = Watch(url, fork)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def one_block(small: Bench, large: Bench, say: Any, rows: int) -> dict[str, Any]:
    """(a): a reorg of one block on few rows and on many."""
    sizes = {}
    for name, bench, wanted in (("small", small, 10_000), ("large", large, rows)):
        while (held := await bench.rows()) < wanted:
            say(f"{name}: {held:,} of {wanted:,} rows")
            await bench.grow(min(40_000, max(800, (wanted - held) // 12)), 4.0, final=True, size=2_000)
        sizes[name] = held
        await bench.grow(20, 2.0, final=False)
        await bench.conn.execute("VACUUM ANALYZE")
    times: dict[str, list[float]] = {"small": [], "large": []}
    for _ in range(ROUNDS):
        for name, bench in (("small", small), ("large", large)):
            staged, swapped, _ = await bench.reorg(1, 3.0)
            times[name].append(staged + swapped)
    few, many = (statistics.median(times[name]) for name in ("small", "large"))
    return {
        "figure": f"1 block on {sizes['large']:,} rows against {sizes['small']:,}",
        "measured": f"{many * 1000:.1f} ms against {few * 1000:.1f} ms: {many / few:.2f}x", "limit": "2x",
        "ok": many / few <= 2,
    }  # fmt: skip


async def sixty_four(bench: Bench) -> dict[str, Any]:
    """(b): 64 blocks with 10,000 rows."""
    await bench.grow(64, 72.0, final=False)
    staged, swapped, rows = await bench.reorg(64, 72.0)
    return {
        "figure": f"64 blocks, {rows:,} rows", "measured": f"{swapped:.2f} s, and {staged:.2f} s of staging before",
        "limit": "1 s", "ok": swapped < 1 and rows >= 10_000,
    }  # fmt: skip


async def window(bench: Bench, url: str) -> dict[str, Any]:
    """(c): the whole unfinalized window of an Orbit chain, with a reader."""
    fork = bench.tip.number
    await bench.grow(20_000, 2.2, final=False)
    old = bench.tip
    async with watched(url, fork) as watch:
        before = await watch.look(bench.conn)
        staged, swapped, rows = await bench.reorg(20_000, 2.2)
        after = await watch.look(bench.conn)
        await asyncio.sleep(0.2)
    assert (before[0], after[0]) == (old.hash, bench.tip.hash)
    between = watch.states - {before, after}
    return {
        "figure": f"20,000 blocks, {rows:,} rows", "limit": "60 s, 200 MB, 0 half states",
        "measured": f"{staged:.1f} s of staging, {swapped:.1f} s of swap; {watch.peak:.0f} MB more;"
        f" {len(between)} half states in {watch.looks} looks",
        "ok": staged + swapped < 60 and watch.peak < 200 and not between and rows >= 100_000,
    }  # fmt: skip


async def measure(server: EmbeddedServer, rows: int, say: Any) -> list[dict[str, Any]]:
    benches = []
    for name in ("small", "large"):
        server.ensure_database(name)
        benches.append(await opened(server.url(name)))
    small, large = benches
    figures = [await one_block(small, large, say, rows)]
    say("64 blocks")
    figures.append(await sixty_four(large))
    say("20,000 blocks")
    figures.append(await window(large, server.url("large")))
    for bench in benches:
        await bench.conn.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="What taking blocks back costs.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="public rows of the large database")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder)
    try:
        server.start()
        figures = asyncio.run(measure(server, options.rows, lambda text: print(text, file=sys.stderr, flush=True)))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps({"figures": figures}))
    else:
        for f in figures:
            print(f"{'OK    ' if f['ok'] else 'MISSED'} {f['figure']}: {f['measured']} (limit {f['limit']})")
    sys.exit(not all(f["ok"] for f in figures))


if __name__ == "__main__":
    main()
