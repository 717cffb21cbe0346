"""What taking blocks back costs: by depth, not by the size of the tables.

    python -m benchmarks.rollback [--rows 1000000] [--json]

The real Writer on a real PostgreSQL, fed with blocks of a simulated chain without a network. Three figures,
each with the
limit that it must keep: a reorg of one block with few and with many rows below it (within 2x); 64 blocks with 10,000
rows (the swap under 1 s); 20,000 blocks with 100,000 rows (staging and swap under 60 s, memory flat) while a reader
looks every 50 ms and must see the old state or the new one, nothing between. The first two are medians. Rows are what
was removed from the public tables or restored in them. Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from indexer import config
from indexer.chain.batch import LogBatch
from indexer.chain.types import BlockRef, Header, Log, address_bytes
from indexer.db.connection import Connection, connect
from indexer.embedded_pg.server import EmbeddedServer
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step
from indexer.projector.writer import Writer
from indexer.schema import migrate
from indexer.store import lease, staging
from indexer.store.index_state import DeploymentBinding, bind, load_index_state
from indexer.store.reorg_journal import Reorg
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.world import Exchange, exchange

UNIT_BLOCKS = 200
ONE_BLOCK_ROUNDS, BLOCKS_64_ROUNDS = 25, 7
# MB above the start, and MB that the whole window may take more than half of it: what is held are chunks of 20,000
# logs with their rows, however deep the reorg.
MEMORY_LIMIT, GROWTH_LIMIT = 256, 50
Say = Callable[[str], None]


class Taken(NamedTuple):
    """A reorg: seconds of staging and of the swap, begin to commit; public rows removed or restored. `cpu`: seconds
    that this process and the server's worked on the swap; on a busy machine the swap lasts longer than that."""

    staging: float
    swap: float
    cpu: float
    rows: int

    @property
    def total(self) -> float:
        return self.staging + self.swap


def unit(blocks: Sequence[Block], addresses: tuple[str, ...]) -> LogBatch:
    """Blocks of the tree as a confirmed unit."""
    logs, headers = [], []
    for block in blocks:
        headers.append(Header(block.number, block.hash, block.parent, block.timestamp))
        for index, tx_index, tx, log in block:
            logs.append(
                Log(block.number, index, address_bytes(log.address), tx.hash, tx_index, tuple(log.topics), log.data,
                    block.hash, block.timestamp)
            )  # fmt: skip
    return LogBatch(blocks[0].number, blocks[-1].number, addresses, logs, headers)


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

    async def step(self) -> Step:
        return Step(self.conn, await load_index_state(self.conn, self.addresses), self.token)

    async def grow(
        self, blocks: int, density: float, *, final: bool, size: int = UNIT_BLOCKS, fresh: float = 0.02
    ) -> None:
        """More blocks on the tip, ingested and projected."""
        last = self.world.grow(self.tip.hash, blocks, self.rng, density, fresh=fresh)
        path = self.tree.path(last.hash)[-blocks:]
        for some in slices(path if self.tip.number else [self.tree.genesis, *path], size):
            step = await self.step()
            finalized = some[-1].number if final else -1
            await self.writer.commit_batch(step, unit(some, self.addresses), finalized)
        self.tip = last

    def branch(self, depth: int, density: float) -> list[Block]:
        """The fork point `depth` blocks below the tip, and as many other blocks on it."""
        fork = self.tree.path(self.tip.hash)[-depth - 1]
        new = self.world.grow(fork.hash, depth, self.rng, density, fresh=0.02, salt=self.rng.randbytes(4))
        path = self.tree.path(new.hash)[-depth - 1 :]
        # The chain is no part of what is measured: without this every full collection walks all of it.
        gc.collect()
        gc.freeze()
        return path

    async def take(self, branch: Sequence[Block]) -> Taken:
        """Reorgs to a branch as the follower does: staged in units, then swapped."""
        fork, new = branch[0], branch[-1]
        started = time.monotonic()
        await staging.clear(self.conn, self.token)
        for some in slices(branch[1:], UNIT_BLOCKS):
            await staging.add(self.conn, unit(some, self.addresses), self.token)
        backend: int = await self.conn.fetchval("SELECT pg_backend_pid()")
        worked, staged = cpu(backend), time.monotonic()
        step = await self.step()
        done = Reorg(_anchor(fork), _anchor(self.tip), _anchor(new), self.addresses, "benchmark", "benchmark")
        await Rewriter(self.writer).apply_reorg(step, done, -1)
        worked, swapped = cpu(backend) - worked, time.monotonic()
        self.tip = new
        removed: str = await self.conn.fetchval(
            "SELECT rows_removed FROM indexer.reorg_journal ORDER BY id DESC LIMIT 1"
        )
        rows = sum(n for table, n in json.loads(removed).items() if not table.startswith("indexer."))
        return Taken(staged - started, swapped - staged, worked, rows)

    async def rows(self) -> int:
        """Rows of the public tables, about."""
        await self.conn.execute("ANALYZE")
        found: int = await self.conn.fetchval(
            "SELECT coalesce(sum(reltuples), 0)::bigint FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind = 'r'"
        )
        return found


def _anchor(block: Block) -> BlockRef:
    return BlockRef(block.number, block.hash, block.timestamp)


async def opened(url: str) -> Bench:
    """A migrated, bound database whose lease is held."""
    await migrate.upgrade_async(url)
    conn = await connect(url)
    deployment = config.load("devnet")
    tree = Tree()
    await bind(conn, DeploymentBinding(deployment.name, deployment.chain_id, 0, tree.genesis.hash, 0))
    token = await lease.acquire(conn, "benchmark")
    assert token is not None
    addresses = tuple(sorted(c.address for c in deployment.contracts))
    return Bench(conn, Writer(deployment), tree, exchange(tree), addresses, token)


def cpu(backend: int) -> float:
    """CPU seconds of this process and of one server process."""
    spent = Path(f"/proc/{backend}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return time.process_time() + sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def resident() -> float:
    """MB of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Watch:
    """A reader every 50 ms, in a thread of its own, and the memory of the process.

    `states`: what was seen; `looks`: how often; `peak`: most MB at any look. What ended it early is raised.
    """

    def __init__(self, url: str, fork: int) -> None:
        self.url, self.fork = url, fork
        self.states: set[tuple[Any, ...]] = set()
        self.looks, self.peak = 0, 0.0
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    async def look(self, conn: Connection) -> tuple[Any, ...]:
        """One snapshot: the checkpoint, a state table as a whole, three append tables above the fork point."""
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            seen = [await conn.fetchval("SELECT hash FROM indexer.checkpoint")]
            seen += (await conn.fetch("SELECT count(*), sum(base), max(unique_id) FROM position_raw"))[0]
            for table in ("order_history", "token_transfer", "market_trackers_history"):
                query = f"SELECT count(*), sum(unique_id) FROM {table} WHERE unique_id >= $1"
                seen += (await conn.fetch(query, (self.fork + 1) * 100_000))[0]
        return tuple(seen)

    async def _run(self) -> None:
        conn = await connect(self.url)
        try:
            while not self._over.is_set():
                self.states.add(await self.look(conn))
                self.looks += 1
                self.peak = max(self.peak, resident())
                await asyncio.sleep(0.05)
        finally:
            await conn.close()

    def _work(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:
            self._failure = error

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure:
            raise self._failure


def figure(name: str, limit: str, ok: bool, measured: str, **numbers: float) -> dict[str, Any]:
    return {"figure": name, "limit": limit, "ok": ok, "measured": measured, "numbers": numbers}


async def one_block(small: Bench, large: Bench, say: Say, rows: int) -> dict[str, Any]:
    """(a): a reorg of one block on few rows and on many."""
    sizes = {}
    for name, bench, wanted in (("small", small, 10_000), ("large", large, rows)):
        while (held := await bench.rows()) < wanted:
            say(f"{name} database: {held:,} of {wanted:,} rows")
            await bench.grow(min(40_000, max(100, (wanted - held) // 12)), 4.0, final=True, size=2_000)
        sizes[name] = held
        await bench.grow(20, 2.0, final=False)
        await bench.conn.execute("VACUUM ANALYZE")
    times: dict[str, list[Taken]] = {"small": [], "large": []}
    for _ in range(ONE_BLOCK_ROUNDS):
        for name, bench in (("small", small), ("large", large)):
            times[name].append(await bench.take(bench.branch(1, 3.0)))
    few, many = (statistics.median(t.total for t in times[name]) for name in ("small", "large"))
    changed = statistics.median(t.rows for t in times["large"])
    return figure(
        f"1 block, {changed:.0f} rows, on {sizes['large']:,} rows against {sizes['small']:,}", "2x", many / few <= 2,
        f"{many / few:.2f}x: {many * 1000:.1f} ms against {few * 1000:.1f} ms, staging included",
        ratio=many / few, large_seconds=many, small_seconds=few, large_rows=sizes["large"], small_rows=sizes["small"],
        rows=changed,
    )  # fmt: skip


async def sixty_four(bench: Bench) -> dict[str, Any]:
    """(b): 64 blocks with 10,000 rows."""
    await bench.grow(64, 61.0, final=False)
    taken = [await bench.take(bench.branch(64, 61.0)) for _ in range(BLOCKS_64_ROUNDS)]
    swap, total = statistics.median(t.swap for t in taken), statistics.median(t.total for t in taken)
    rows, worst = statistics.median(t.rows for t in taken), max(t.swap for t in taken)
    spent = statistics.median(t.cpu for t in taken)
    return figure(
        f"64 blocks, {rows:,.0f} rows", "1 s", swap < 1 and rows >= 10_000,
        f"{swap:.2f} s of swap (worst of {len(taken)}: {worst:.2f} s; CPU {spent:.2f} s), {total:.2f} s with staging",
        swap_seconds=swap, worst_swap_seconds=worst, swap_cpu_seconds=spent, total_seconds=total, rows=rows,
    )  # fmt: skip


async def window(bench: Bench, url: str) -> dict[str, Any]:
    """(c): the whole unfinalized window of an Orbit chain, with a reader. Before it the upper half, for its memory."""
    fork, depth, density = bench.tip.number, 20_000, 1.9
    await bench.grow(depth, density, final=False)
    upper, whole = bench.branch(depth // 2, density), bench.branch(depth, density)
    base, watches, half_states = resident(), [], 0
    for branch in (upper, whole):
        with Watch(url, fork) as watch:
            before = await watch.look(bench.conn)
            await asyncio.sleep(0.5)
            taken = await bench.take(branch)
            after = await watch.look(bench.conn)
            await asyncio.sleep(0.5)
        assert before[0] != after[0] and watch.states >= {before, after}, "the reader saw both"
        half_states += len(watch.states - {before, after})
        watches.append(watch)
    half, full = (watch.peak - base for watch in watches)
    looks = sum(watch.looks for watch in watches)
    return figure(
        f"{depth:,} blocks, {taken.rows:,} rows",
        f"60 s; {MEMORY_LIMIT} MB, {GROWTH_LIMIT} MB more than half the depth; no half state",
        taken.total < 60 and taken.rows >= 100_000 and full < MEMORY_LIMIT and full - half < GROWTH_LIMIT
        and not half_states,
        f"{taken.total:.1f} s, {taken.swap:.1f} s of them swap; {full:.0f} MB above {base:.0f} MB, half the depth"
        f" {half:.0f} MB; {half_states} half states in {looks} looks",
        total_seconds=taken.total, swap_seconds=taken.swap, swap_cpu_seconds=taken.cpu, rows=taken.rows,
        memory_growth_mb=full, memory_growth_half_depth_mb=half, half_states=half_states, looks=looks,
    )  # fmt: skip


async def measure(server: EmbeddedServer, rows: int, say: Say) -> list[dict[str, Any]]:
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
            print(f"{'OK' if f['ok'] else 'MISSED':8}{f['figure']}\n{'':8}{f['measured']} (limit: {f['limit']})")
    sys.exit(not all(f["ok"] for f in figures))


if __name__ == "__main__":
    main()
