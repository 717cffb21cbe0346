"""Proof at the head: how soon a lie is healed, what proving costs, and what strict mode adds to the latency.

    python -m benchmarks.proof [--blocks 240] [--rounds 2]

A chain of four blocks a second, as in `benchmarks.latency`, served by simulated nodes that are honest about headers and
receipts. In every third block with several logs of ours eth_getLogs leaves one out, misnumbers it or changes it, in
turn, on every endpoint. Healed means: another connection sees the commit that replaced the logs; it looks every 2 ms.
The latency is measured without the proof of the head, with it, and in strict mode, in turn, and each mode's rounds are
taken together. Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.chain import CHAIN_ID
from benchmarks.figures import Figure, report
from benchmarks.latency import INTERVAL, LOOK, WARM, Chain, committed, figure, percentile, wait_for_table
from indexer.config import load
from indexer.embedded_pg.server import EmbeddedServer
from indexer.runtime.tasks import background_task
from tests.support.daemon import Daemon
from tests.support.postgres import own_postgres
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.view import Depth, Json

REYA = load("reya")
OURS = frozenset(c.address for c in REYA.contracts)
HISTORY = 60  # blocks before the daemon starts
LIE_EVERY = 3  # blocks with several logs of ours
ONE_S, THREE_S = 5.0, 2.0  # within which a lie must be healed, by the number of endpoints
STRICT_S = 0.12
MODES: dict[str, dict[str, bool]] = {"without": {"head": False}, "shipped": {}, "strict": {"before_commit": True}}


def written(folder: Path, name: str, **attest: bool) -> Path:
    """The shipped deployment with other settings of `[attest]`."""
    text, settings = REYA.path.read_text(), "".join(f"{key} = {str(on).lower()}\n" for key, on in attest.items())
    lines = [line for line in text.splitlines() if line.split("=")[0].strip() not in attest]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines).replace("[attest]\n", f"[attest]\n{settings}", 1))
    return path


class Liars:
    """Nodes that show one tree and lie about the same logs; counts the requests for receipts."""

    def __init__(self, nodes: list[SimNode], *, lie: bool) -> None:
        self.nodes, self.lie = nodes, lie
        self.lies: dict[int, str] = {}  # block -> what is wrong about it
        self.receipts = 0
        self.with_logs = 0
        self._several = 0
        self._changed: set[tuple[str, str]] = set()
        for node in nodes:
            node.fault_for = self._count
            node.patch_logs = self._patch

    def _count(self, asked: Any) -> None:
        calls = asked if isinstance(asked, list) else [asked]
        self.receipts += any(call["method"] == "eth_getBlockReceipts" for call in calls)

    def _patch(self, logs: list[Json]) -> list[Json]:
        return [g | {"data": "0x"} if (g["blockHash"], g["logIndex"]) in self._changed else g for g in logs]

    def grown(self, block: Block) -> None:
        """Lie about this block if it is its turn; call before anybody sees it."""
        ours = [index for index, _, _, log in block if log.address in OURS]
        self.with_logs += bool(ours)
        if len(ours) < 3 or not self.lie:
            return
        self._several += 1
        if self._several % LIE_EVERY:
            return
        place, kind = (block.hash, ours[1]), ("omitted", "misnumbered", "altered")[len(self.lies) % 3]
        self.lies[block.number] = kind
        if kind == "altered":
            self._changed.add(("0x" + block.hash.hex(), hex(place[1])))
        for node in self.nodes:
            if kind == "omitted":
                node.omit = node.omit | {place}
            elif kind == "misnumbered":
                node.wrong_index = node.wrong_index | {place: place[1] + 500}


async def watch_heals(url: str, seen: dict[int, float]) -> None:
    """Record when the fault of a block is seen to be committed, which is when its logs were healed."""
    connection = await asyncpg.connect(url)
    query = await connection.prepare(
        "SELECT block_number FROM indexer.blame WHERE NOT block_number = ANY($1::bigint[])"
    )
    try:
        while True:
            for (number,) in await query.fetch(list(seen)):
                seen[number] = time.monotonic()
            await asyncio.sleep(LOOK)
    finally:
        await connection.close()


class Run:
    """One daemon on one chain: seconds from served to committed, and from served to healed."""

    def __init__(self, url: str, toml: Path, folder: Path, endpoints: int, *, lie: bool) -> None:
        self.url, self.toml, self.folder, self.endpoints, self.lie = url, toml, folder, endpoints, lie
        self.latencies: list[float] = []
        self.heals: list[float] = []
        self.unhealed = 0
        self.requests = 0.0  # for receipts, per block with logs of ours

    async def measure(self, blocks: int) -> Run:
        async with AsyncExitStack() as stack:
            tree = Tree()
            nodes = [await stack.enter_async_context(SimNode(tree, chain_id=CHAIN_ID)) for _ in range(self.endpoints)]
            for node in nodes:
                node.finalized, node.safe = Depth(4 * blocks), Depth(20)
            chain, liars = Chain(nodes[0]), Liars(nodes, lie=False)
            for _ in range(HISTORY):
                chain.grow()
            self._show(nodes)
            daemon = self._daemon(nodes)
            try:
                await wait_for_table(self.url)
                await committed(self.url, HISTORY)
                await asyncio.wait_for(nodes[0].subscribed(), 60)
                last = HISTORY + WARM + blocks
                found: dict[int, float] = {}
                async with background_task(watch_heals(self.url, found)), asyncio.TaskGroup() as tasks:
                    seeing = tasks.create_task(committed(self.url, last))
                    await self._grow(chain, nodes, liars, WARM + blocks)
                    until = time.monotonic() + 3 * ONE_S
                    while not liars.lies.keys() <= found.keys() and time.monotonic() < until:  # noqa: ASYNC110
                        await asyncio.sleep(LOOK)
                seen = seeing.result()
            finally:
                daemon.terminate()
                daemon.kill()
        self.latencies = [seen[n] - chain.served[n] for n in range(HISTORY + WARM + 1, last + 1)]
        self.heals = [found[n] - chain.served[n] for n in liars.lies if n in found]
        self.unhealed = len(liars.lies.keys() - found.keys())
        self.requests = liars.receipts / max(1, liars.with_logs)
        return self

    def _daemon(self, nodes: list[SimNode]) -> Daemon:
        arguments = ["--chain", str(self.toml), "--http-port", "0", "--poll-interval", str(INTERVAL)]
        arguments += [part for node in nodes for part in ("--rpc-url", node.url)] + ["--ws-url", nodes[0].ws_url]
        return Daemon(arguments, {"DATABASE_URL": self.url}, self.folder / f"{self.toml.stem}.log")

    async def _grow(self, chain: Chain, nodes: list[SimNode], liars: Liars, blocks: int) -> None:
        """Grow at the chain's pace; lies begin once the daemon is warm."""
        at = time.monotonic()
        for turn in range(blocks):
            at += INTERVAL
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            if turn == WARM:
                liars.lie, liars.receipts, liars.with_logs = self.lie, 0, 0
            block = chain.extend()
            liars.grown(block)
            chain.serve(block)
            self._show(nodes)

    @staticmethod
    def _show(nodes: list[SimNode]) -> None:
        for node in nodes[1:]:
            node.head = nodes[0].head


def healing(run: Run, limit: float) -> Figure:
    """The time until a lie is healed; one that was not healed counts as ever so long."""
    times = [*run.heals, *[float("inf")] * run.unhealed]
    note = f"p50 {percentile(times, 0.5):.2f} s, worst {max(times):.2f} s of {len(times)} lies, {run.unhealed} unhealed"
    numbers = {"p99_s": percentile(times, 0.99), "lies": len(times), "unhealed": run.unhealed}
    endpoints = "one endpoint" if run.endpoints == 1 else f"{run.endpoints} endpoints"
    return Figure(f"healed, {endpoints}", percentile(times, 0.99), " s", limit, most=True, note=note, numbers=numbers)


def measure(server: EmbeddedServer, blocks: int, rounds: int) -> list[Figure]:
    """All figures; each run has a database of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(name: str, endpoints: int, *, lie: bool, **attest: bool) -> Run:
            server.ensure_database(f"bench_proof_{name}")
            toml = written(folder, name, **attest)
            made = Run(server.url(f"bench_proof_{name}"), toml, folder, endpoints, lie=lie)
            return asyncio.run(made.measure(blocks))

        one, three = run("one", 1, lie=True), run("three", 3, lie=True)
        modes: dict[str, list[Run]] = {mode: [] for mode in MODES}
        for turn in range(rounds):
            for mode, attest in MODES.items():
                modes[mode].append(run(f"{mode}_{turn}", 1, lie=False, **attest))
    latencies = {mode: [s for made in runs for s in made.latencies] for mode, runs in modes.items()}
    base = 1000 * percentile(latencies["without"], 0.99)
    asked = max(made.requests for made in modes["shipped"])
    return [
        healing(one, ONE_S),
        healing(three, THREE_S),
        Figure("requests per block with logs", asked, "", 1.0, most=True, note="for receipts; headers cost none"),
        figure(latencies["without"], "head not proven", None),
        figure(latencies["shipped"], "head proven", base + max(0.05 * base, 2.0)),
        figure(latencies["strict"], "strict mode", 1000 * STRICT_S),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Proof at the head.")
    parser.add_argument("--blocks", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=2, help="times that each mode's latency is measured")
    given = parser.parse_args()
    with own_postgres("bench", None) as server:
        figures = measure(server, given.blocks, given.rounds)
    print(report(figures))
    sys.exit(not all(figure.ok for figure in figures))


if __name__ == "__main__":
    main()
