"""The sides of the backfill benchmark: each a process of its own on a database of its own, against one node."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import aiohttp

from benchmarks import bare_floor, same_rows_floor
from benchmarks.floor import Source
from benchmarks.measure import PROGRAM, Cost, Databases, fetch, run
from tests.support.simchain.fast import ask

NAIVE_LOGS = 20_000  # about so many of the first are the naive loop's: all of them would take minutes
LABELS = {
    "naive": "naive web3.py loop",
    "bare": "bare floor",
    "ingest": "ours, ingest only",
    "same": "same-rows floor",
    "ours": "ours, everything",
}


class Node(Protocol):
    url: str

    def stats(self) -> dict[str, Any]: ...

    def reset(self, **knobs: object) -> None: ...


class OutsideNode:
    """A node that was there before; its counts, where it gives any at /stats."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def stats(self) -> dict[str, Any]:
        with contextlib.suppress(urllib.error.URLError, ValueError):
            told: dict[str, Any] = ask(f"{self.url}/stats")
            return told
        return {}

    def reset(self, **knobs: object) -> None:
        assert not knobs, "an outside node cannot be told how to behave"
        with contextlib.suppress(urllib.error.URLError, ValueError):
            ask(f"{self.url}/reset", {})


@dataclass(frozen=True, slots=True)
class Run:
    """One side's run over `logs` logs; what the node was asked. `condition`: how the node behaved."""

    side: str
    workers: int
    logs: int
    cost: Cost
    methods: dict[str, int] = field(default_factory=dict)
    http: int = 0
    limited: int = 0
    refused: int = 0
    condition: str = ""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.logs / self.cost.wall

    @property
    def cpu_per_event(self) -> float:
        """Microseconds, of our processes."""
        return self.cost.cpu / self.logs * 1e6

    @property
    def log_requests(self) -> int:
        return self.methods.get("eth_getLogs", 0)

    @property
    def header_requests(self) -> int:
        return self.methods.get("eth_getBlockByNumber", 0)

    def as_json(self) -> dict[str, Any]:
        told = {"side": self.side, "workers": self.workers, "logs": self.logs, "events_per_second": round(self.rate)}
        asked = {"http_requests": self.http, "limited": self.limited, "refused": self.refused, "calls": self.methods}
        return told | {"condition": self.condition} | self.cost.as_json() | asked

    def cells(self) -> tuple[str, ...]:
        c = self.cost
        label = LABELS[self.side] + (f", {self.condition}" if self.condition else "")
        return (
            label, str(self.workers), f"{self.logs:,}", f"{self.rate:,.0f}", f"{c.wall:.2f}", f"{c.cpu:.2f}",
            f"{c.server_cpu:.2f}", f"{self.cpu_per_event:.1f}", f"{c.peak:.0f}", str(self.log_requests),
            str(self.header_requests), str(self.http),
        )  # fmt: skip


HEAD = (
    "side", "workers", "events", "events/s", "wall s", "CPU s", "PostgreSQL s", "CPU us/event", "peak MB", "getLogs",
    "headers", "HTTP",
)  # fmt: skip


@dataclass
class Bench:
    """One chain of `head` blocks with `logs` logs. `empty`: our side makes the schema itself, on its own time.

    `url`: the database of the last run. There is no other: the server's vacuum would work on it during the next run.
    """

    node: Node
    databases: Databases
    head: int
    logs: int
    empty: bool = False
    url: str = ""

    def run(self, side: str, workers: int = 1, condition: str = "", **knobs: object) -> Run:
        """Runs a side on a fresh database."""
        self.drop()
        self.url = self._database(side)
        command = self._command(side, workers)
        self.node.reset(**knobs)
        # Slower than 500 events a second is stuck.
        limit = 120 + self.logs / 500
        cost = run(command, self.databases.postmaster, {"DATABASE_URL": self.url}, limit)
        stats = self.node.stats()
        logs = self._written(side, cost)
        cost = replace(cost, node_cpu=stats.get("cpu_seconds", stats.get("server_cpu_s", 0.0)))
        return Run(
            side, workers, logs, cost, stats.get("methods", {}), stats.get("http_requests", 0),
            stats.get("limited", stats.get("http_429", 0)), sum(stats.get("errors", {}).values()), condition,
        )  # fmt: skip

    def _command(self, side: str, workers: int) -> list[str]:
        if side in ("ours", "ingest"):
            command = [PROGRAM, "backfill", "--from-block", "0", "--to-block", str(self.head)]
            command += ["--workers", str(workers)] if "--workers" in flags() else []
            command += ["--ingest-only"] if side == "ingest" else []
            return [*command, "--rpc-url", self.node.url]
        module = {"bare": "bare_floor", "same": "same_rows_floor", "naive": "naive"}[side]
        blocks = min(self.head, self.head * NAIVE_LOGS // self.logs) if side == "naive" else self.head
        command = [sys.executable, "-m", f"benchmarks.{module}", "--workers", str(workers), "--head", str(blocks)]
        return [*command, "--node", self.node.url, "--database", self.url]

    def _database(self, side: str) -> str:
        url = self.databases.fresh(migrated=side == "same" or (side in ("ours", "ingest") and not self.empty))
        if side == "bare":
            asyncio.run(bare_floor.prepare(url))
        elif side == "same":
            asyncio.run(same_rows_floor.prepare(url))
        return url

    def _written(self, side: str, cost: Cost) -> int:
        """How many logs were written; a side that left some out was not faster but wrong."""
        if side in ("bare", "naive"):
            written = int(cost.output.split()[-2])
        else:
            written = asyncio.run(fetch(self.url, "SELECT count(*) AS n FROM indexer.raw_log"))[0]["n"]
        if side != "naive" and written != self.logs:
            raise RuntimeError(f"{LABELS[side]} wrote {written} of {self.logs} logs")
        return written

    def drop(self) -> None:
        if self.url:
            self.databases.drop(self.url)
            self.url = ""


def flags() -> str:
    """The help of `backfill`: a release that takes no --workers is measured without."""
    if not _HELP:
        _HELP.append(subprocess.run([PROGRAM, "backfill", "--help"], capture_output=True, text=True, check=True).stdout)
    return _HELP[0]


_HELP: list[str] = []


def ranges_needed(url: str, head: int, cap: int = 2_000, target: int = 1_000) -> int:
    """The requests of a planner that knows the chain: each as many blocks as hold `target` logs, `cap` at most."""
    rows = asyncio.run(fetch(url, "SELECT block_number AS n, count(*) AS c FROM indexer.raw_log GROUP BY 1 ORDER BY 1"))
    count = {row["n"]: row["c"] for row in rows}
    needed = blocks = logs = 0
    for number in range(head + 1):
        blocks, logs = blocks + 1, logs + count.get(number, 0)
        if logs >= target or blocks == cap:
            needed, blocks, logs = needed + 1, 0, 0
    return needed + (blocks > 0)


async def ceiling(node: str, head: int, blocks: int = 200) -> float:
    """Logs a second that the node gives to one client that parses them with orjson and does nothing else."""
    total, started = 0, time.monotonic()
    async with aiohttp.ClientSession() as session:
        source = Source(session, node)
        coming = asyncio.ensure_future(source.logs(0, min(head, blocks - 1)))
        for first in range(blocks, head + 1 + blocks, blocks):
            found = await coming
            if first <= head:
                coming = asyncio.ensure_future(source.logs(first, min(head, first + blocks - 1)))
                await asyncio.sleep(0)
            total += len(found)
    return total / (time.monotonic() - started)


def median(runs: Sequence[Run]) -> Run:
    """The run of the middle wall time."""
    return sorted(runs, key=lambda one: one.cost.wall)[len(runs) // 2]
