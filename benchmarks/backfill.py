"""Backfill against its floors and a naive loop, in one run on the same node and the same PostgreSQL.

    python -m benchmarks.backfill [--logs 100000,1000000] [--workers 1,2] [--json FILE] [--quick]
    python -m benchmarks.backfill --node URL --head N --logs N    # a node that is there

Each side is a process of its own on a fresh database, its start counted; sides alternate, and ratios are medians of the
rounds. The floors write without any check: the bare one the events into plain tables, the same-rows one the very rows
of the indexer into the very tables, and that they are the very rows is compared. Schemas are made before the clock
starts, on both sides (with --empty ours makes its own while it runs). Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import contextlib
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chain, decoders, latency
from benchmarks.figures import Figure, machine, report, table
from benchmarks.measure import ROOT, Databases, Digests, digests
from benchmarks.sides import HEAD, LABELS, Bench, Node, OutsideNode, Run, ceiling, flags, median, ranges_needed
from indexer.embedded_pg.server import EmbeddedServer
from tests.support.simchain.fast import FastNode

LOGS_PER_BLOCK = 5
# Chains so sparse that the node's cap of 2,000 blocks binds: a hundred ranges.
SPARSE_BLOCKS, SPARSE_LOGS = 200_000, 20_000
CONDITIONS: dict[str, dict[str, object]] = {
    "50 ms latency": {"latency_ms": 50.0},
    "429 above 20 requests/s": {"rate_limit": 20, "retry_after": 1.0},
}
Runs = dict[tuple[str, int], list[Run]]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def plural(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def rounds(bench: Bench, workers: Sequence[int], count: int, naive: bool) -> tuple[Runs, int]:
    """Every side `count` times, in turn, and the number of ranges that this chain needs.

    Raises RuntimeError unless the floor wrote what the indexer wrote: compared in the first round.
    """
    ingest = ["bare", "ingest"] if "--ingest-only" in flags() else ["bare"]
    sides = [(side, n) for n in workers for side in (*ingest, "same", "ours")]
    runs: Runs = {}
    written: dict[tuple[str, int], Digests] = {}
    needed = 0
    for number in range(count):
        for side, n in [("naive", 1), *sides] if naive else sides:
            done = bench.run(side, n)
            runs.setdefault((side, n), []).append(done)
            say(f"round {number + 1}: {LABELS[side]}, {plural(n)}: {done.rate:,.0f} events/s")
            if number == 0 and side in ("ingest", "same", "ours"):
                written[side, n] = asyncio.run(digests(bench.url))
                needed = needed or ranges_needed(bench.url, bench.head)
        if number == 0:
            agree(written, written["same", workers[0]])
    return runs, needed


def agree(written: dict[tuple[str, int], Digests], floor: Digests) -> None:
    """Raises RuntimeError when a side wrote other rows than the floor."""
    for (side, workers), found in written.items():
        tables = ("indexer.raw_log", "indexer.block") if side == "ingest" else sorted(floor.keys() | found.keys())
        if other := [table for table in tables if found.get(table) != floor.get(table)]:
            raise RuntimeError(f"{LABELS[side]}, {plural(workers)}, differs from the floor in {', '.join(other)}")
    say("the rows of the same-rows floor are the indexer's, in every table")


def ratio(runs: Runs, ours: tuple[str, int], other: tuple[str, int]) -> float:
    """Ours in events a second against the other's: the median of the rounds."""
    return statistics.median(a.rate / b.rate for a, b in zip(runs[ours], runs[other], strict=True))


def figures_of(runs: Runs, workers: Sequence[int], needed: int) -> list[Figure]:
    """The figures of one chain."""
    found = []
    for title, ours, floor in (("ingest only", "ingest", "bare"), ("everything", "ours", "same")):
        for n in workers:
            if (ours, n) in runs:
                a, b = median(runs[ours, n]), median(runs[floor, n])
                note = f"{a.rate:,.0f} against {b.rate:,.0f} events/s"
                name = f"{title} against the {LABELS[floor]}, {plural(n)}, {a.logs:,} logs"
                found.append(Figure(name, ratio(runs, (ours, n), (floor, n)), "x", 0.7, note=note))
    if ("naive", 1) in runs:
        note = f"{median(runs['naive', 1]).rate:,.0f} events/s on its part"
        faster = ratio(runs, ("ours", workers[0]), ("naive", 1))
        found.append(Figure("everything against the naive loop", faster, "x", 7, note=note))
    for n in workers:
        run, floor_cost = median(runs["ours", n]), median(runs["same", n]).cost
        note = (
            f"PostgreSQL's {run.cost.server_cpu / run.logs * 1e6:.0f};"
            f" the floor's {floor_cost.cpu / run.logs * 1e6:.0f} and {floor_cost.server_cpu / run.logs * 1e6:.0f}"
        )
        name = f"CPU per event, {plural(n)}, {run.logs:,} logs"
        found.append(Figure(name, run.cpu_per_event, " us", 60, most=True, note=note))
        if run.methods:  # an outside node may count nothing
            found.append(requests(run, needed, f"{plural(n)}, {run.logs:,} logs"))
    return found


def requests(run: Run, needed: int, title: str) -> Figure:
    note = f"{run.log_requests} of {needed}; {run.header_requests} headers, {run.http} HTTP requests"
    if run.limited or run.refused:
        note += f", {run.limited} of them 429, {run.refused} calls refused"
    return Figure(
        f"getLogs requests against ranges needed, {title}", run.log_requests / needed, "x", 1.1, most=True, note=note
    )


@contextlib.contextmanager
def chain_node(folder: Path, blocks: int, logs: int, seed: int, log_timestamp: bool) -> Iterator[FastNode]:
    """A node that serves such a chain; the file is made unless it is there."""
    path = folder / f"chain-{blocks}-{logs}-{seed}.jsonl"
    if not path.exists():
        say(f"making a chain of {logs:,} logs in {blocks:,} blocks")
        chain.write(path, blocks, logs, seed)
    with FastNode(path, log_timestamp=log_timestamp) as node:
        yield node


class Session:
    """What was asked for on the command line, and everything that was found."""

    def __init__(self, given: argparse.Namespace, databases: Databases) -> None:
        self.given, self.databases = given, databases
        self.workers = [int(n) for n in given.workers.split(",")]
        self.rounds = 1 if given.quick else given.rounds
        self.runs: list[Run] = []
        self.figures: list[Figure] = []
        self.everything: dict[int, Run] = {}  # by logs

    def size(self, node: Node, head: int, logs: int, *, first: bool) -> Bench:
        """All sides on one chain."""
        bench = Bench(node, self.databases, head, logs, self.given.empty)
        given = asyncio.run(ceiling(node.url, head))
        self.figures.append(Figure(f"the node's ceiling, {logs:,} logs", given, " logs/s", note="one client, orjson"))
        runs, needed = rounds(bench, self.workers, self.rounds, naive=first)
        self.runs += [median(some) for some in runs.values()]
        self.figures += figures_of(runs, self.workers, needed)
        self.everything[logs] = median(runs["ours", self.workers[0]])
        return bench

    def condition(self, bench: Bench, name: str, knobs: dict[str, object]) -> Run:
        """Our side alone, against a node with a limit."""
        workers = max(self.workers)
        run = bench.run("ours", workers, name, **knobs)
        self.runs.append(run)
        needed = ranges_needed(bench.url, bench.head)
        self.figures.append(requests(run, needed, name))
        say(f"{name}: {run.rate:,.0f} events/s")
        return run

    def growth(self) -> None:
        """The cost of an event on the largest chain against the smallest."""
        few, many = self.everything[min(self.everything)], self.everything[max(self.everything)]
        if few is not many:
            walls = [run.cost.wall / run.logs * 1e6 for run in (few, many)]
            cpus = [(run.cost.cpu + run.cost.server_cpu) / run.logs * 1e6 for run in (few, many)]
            note = f"{walls[1]:.1f} against {walls[0]:.1f} us; CPU with PostgreSQL {cpus[1]:.1f} against {cpus[0]:.1f}"
            name = f"time per event at {many.logs:,} logs against {few.logs:,}"
            self.figures.append(Figure(name, walls[1] / walls[0], "x", 1.15, most=True, note=note))
        largest = max((run for run in self.runs if run.side in ("ours", "ingest")), key=lambda run: run.cost.peak)
        note = f"{LABELS[largest.side]}, {plural(largest.workers)}, {largest.logs:,} logs"
        self.figures.append(
            Figure("memory of our largest process", largest.cost.peak, " MB", 300, most=True, note=note)
        )

    def own(self, folder: Path) -> None:
        """On chains of our own, with everything that only such a node can be told."""
        given, sizes = self.given, sorted(int(n) for n in self.given.logs.split(","))
        for logs in sizes:
            with chain_node(folder, logs // LOGS_PER_BLOCK, logs, given.seed, given.log_timestamp) as node:
                bench = self.size(node, logs // LOGS_PER_BLOCK, logs, first=logs == sizes[0])
                if logs == sizes[0]:
                    for name, knobs in CONDITIONS.items():
                        self.condition(bench, name, knobs)
                bench.drop()
        shrunk = 10 if given.quick else 1
        blocks, logs = SPARSE_BLOCKS // shrunk, SPARSE_LOGS // shrunk
        with chain_node(folder, blocks, logs, given.seed, given.log_timestamp) as node:
            bench = Bench(node, self.databases, blocks, logs, given.empty)
            name = f"a sparse chain, node capped at 2,000 of {blocks:,} blocks"
            refused = self.condition(bench, name, {"max_range": 2_000}).refused
            self.figures.append(Figure("refused requests of that node", refused, "", 1, most=True))
            bench.drop()
        self.growth()
        self.figures += decoders.measure(rounds=3 if given.quick else 5)
        self.figures += latency.measure(self.databases.server, 40 if given.quick else 200)

    def report(self, about: dict[str, Any]) -> str:
        text = [table(HEAD, [run.cells() for run in self.runs]), "", report(self.figures)]
        if self.databases.migration:
            text += ["", f"making the schema of an empty database: {self.databases.migration.wall:.2f} s"]
        text += [", ".join(f"{key} {value}" for key, value in about.items())]
        return "\n".join(text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Backfill against its floors and a naive loop.")
    parser.add_argument("--logs", default="100000", help="sizes of the chains, separated by commas")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--seed", type=int, default=1729)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, shorter runs beside")
    parser.add_argument("--empty", action="store_true", help="our side starts on a database without a schema")
    parser.add_argument("--log-timestamp", action="store_true", help="the node's logs carry their block's time")
    parser.add_argument("--chains", type=Path, help="a folder that keeps the chains for the next run")
    parser.add_argument("--json", type=Path, help="a file to write everything to")
    parser.add_argument("--node", help="the URL of a node that is there")
    parser.add_argument("--head", type=int, help="its last block")
    given = parser.parse_args()
    if bool(given.node) != bool(given.head):
        parser.error("--node and --head go together, and --logs is then the number of logs up to that block")
    return given


def main() -> None:
    given, about = parsed(), machine()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whatever was started is ended then too
    # As an installation has it: a checkout that was never run would be compiled at each start, on every side.
    for package in ("indexer", "benchmarks", "tests"):
        compileall.compile_dir(ROOT / package, quiet=2)
    with tempfile.TemporaryDirectory(prefix="reya-indexer-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = EmbeddedServer(folder / "postgres")
        server.start()
        try:
            session = Session(given, Databases(server))
            if given.node:
                session.size(OutsideNode(given.node), given.head, int(given.logs), first=True)
            else:
                chains = given.chains or folder
                chains.mkdir(parents=True, exist_ok=True)
                session.own(chains)
        finally:
            server.stop()
    print(session.report(about))
    if given.json:
        told = {"machine": about, "runs": [r.as_json() for r in session.runs]}
        told |= {"figures": [f.as_json() for f in session.figures]}
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    sys.exit(not all(figure.ok for figure in session.figures))


if __name__ == "__main__":
    main()
