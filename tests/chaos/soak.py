"""`make soak`: the real daemon for minutes on a chain that grows and forks fast, while its signals are read.

Memory, file descriptors and lag of the first third after a warm-up are compared with those of the last; then the
database with the chain. What grew, or differs, is a failure: the exit code is then 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import family
from indexer.config import load
from indexer.runtime.tasks import cancel_and_wait
from tests.chaos.databases import Databases
from tests.chaos.growing import Growing
from tests.chaos.signals import Observer
from tests.chaos.truth import CONFIG, Truth, checked, reorgs
from tests.support.anvil.node import free_port
from tests.support.daemon import Daemon, get, wait_synced
from tests.support.postgres import own_postgres

BLOCKS = 60  # of the chain when it begins
BEAT = 0.1  # seconds a block
SAMPLE = 1.0  # seconds
WARM_UP = 0.25  # share of the run, at most LONGEST_WARM_UP: caches and the history of the status page fill
LONGEST_WARM_UP = 150.0  # seconds
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """`at` seconds of the run; `rss` in MB and `fds` of all processes of the daemon together; `lag` in blocks."""

    at: float
    rss: float
    fds: int
    processes: int
    lag: float


# Name of the figure, in words, what it is of a sample; by how much it may grow: a number or a share, whichever is more.
MEASURED: tuple[tuple[str, str, Callable[[Sample], float], float, float], ...] = (
    ("rss_mb", "memory (MB)", lambda sample: sample.rss, 8.0, 0.05),
    ("fds", "file descriptors", lambda sample: sample.fds, 2.0, 0.0),
    ("lag_blocks", "lag (blocks)", lambda sample: sample.lag, 2.0, 0.0),
)


def sampled(pid: int, at: float, lag: float) -> Sample:
    rss, fds, alive = 0.0, 0, 0
    for one in family(pid):
        process = Path(f"/proc/{one}")
        try:
            rss += int((process / "statm").read_text().split()[1]) * PAGE / 2**20
            fds += sum(1 for _ in (process / "fd").iterdir())
            alive += 1
        except OSError:  # it ended between
            continue
    return Sample(at, rss, fds, alive, lag)


class Soak:
    """`seconds` of one daemon on a chain of this seed."""

    def __init__(self, databases: Databases, seed: int, seconds: float, folder: Path) -> None:
        self.databases, self.seed, self.seconds, self.folder = databases, seed, seconds, folder
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        self.scrapes, self.blocks, self.reorgs, self.rows, self.logs = 0, 0, 0, 0, 0

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            self.net = Growing(random.Random(f"soak {self.seed}"), BLOCKS, 2)
            for node in self.net.nodes:
                stack.enter_context(node)
            self.url = await self.databases.make()
            stack.push_async_callback(self.databases.drop, self.url)
            await self._follow()
            await self._compare()

    async def _follow(self) -> None:
        port, log = free_port(), self.folder / "log"
        arguments = ["--chain", str(CONFIG), "--http-port", str(port), "--ws-url", self.net.nodes[0].ws_url]
        for node in self.net.nodes:
            arguments += ["--rpc-url", node.url]
        daemon = Daemon(arguments, {"DATABASE_URL": self.url}, log)
        observer = Observer(f"http://127.0.0.1:{port}")
        tasks = [asyncio.create_task(work) for work in (self.net.grow(BEAT), observer.run(), self._page(port))]
        try:
            await self._sample(daemon, observer)
            await cancel_and_wait(*tasks)
            self.net.settle(0)
            await wait_synced(self.url, self.net.tip.number, self.net.tip.hex)
            code, _ = daemon.terminate()
            assert code == 0, f"exit {code} on SIGTERM: {log.read_text()[-2000:]}"
        finally:
            await cancel_and_wait(*tasks)
            daemon.kill()
            Daemon.started.remove(daemon)

    async def _page(self, port: int) -> None:
        """Somebody has the status page open, and something asks for readiness."""
        while True:
            await asyncio.sleep(1.0)
            for path in ("/", "/ready", "/live", "/status", "/metrics"):
                try:
                    await asyncio.to_thread(get, f"http://127.0.0.1:{port}{path}")
                    self.scrapes += 1
                except OSError:  # not up yet
                    continue

    async def _sample(self, daemon: Daemon, observer: Observer) -> None:
        began = told = time.monotonic()
        while (now := time.monotonic()) < began + self.seconds:
            await asyncio.sleep(SAMPLE)
            assert daemon.process.poll() is None, f"the daemon ended: {daemon.log.read_text()[-2000:]}"
            lag = observer.last.total("lag_blocks", tag="latest")
            self.samples.append(sampled(daemon.process.pid, now - began, lag))
            if now - told > 30:
                told, one = now, self.samples[-1]
                print(
                    f"{one.at:6.0f} s: block {self.net.tip.number}, {self.net.reorgs} reorgs, {one.rss:.1f} MB,"
                    f" {one.fds} file descriptors, {one.lag:.0f} blocks behind",
                    flush=True,
                )

    async def _compare(self) -> None:
        deployment = load(str(CONFIG))
        truth = Truth(self.net.tree, self.net.tip, 0, {c.address for c in deployment.contracts})
        found = await truth.everything(self.url) or await checked(self.url, deployment)
        self.rows, self.logs, self.blocks = truth.rows, len(truth.logs), self.net.tip.number
        self.reorgs, _ = await reorgs(self.url)
        if found:
            self.failures.append(f"{len(found)} differences: {'; '.join(found[:20])}")

    def figures(self) -> dict[str, Any]:
        """What was measured, judged."""
        warm_up = min(self.seconds * WARM_UP, LONGEST_WARM_UP)
        grown, failures = judged(self.samples, warm_up)
        self.failures += failures
        return {
            "seed": self.seed,
            "minutes": round(self.seconds / 60, 2),
            "warm_up_seconds": round(warm_up, 1),
            "samples": len(self.samples),
            "processes": max(s.processes for s in self.samples),
            **grown,
            "blocks": self.blocks,
            "logs": self.logs,
            "reorgs": self.reorgs,
            "http_requests": self.scrapes,
            "rows_compared": self.rows,
            "ok": not self.failures,
            "failures": self.failures,
        }


def judged(samples: Sequence[Sample], warm_up: float) -> tuple[dict[str, Any], list[str]]:
    """The first third after the warm-up against the last, medians of each; and in words what grew by too much."""
    warm = [s for s in samples if s.at >= warm_up]
    third = max(1, len(warm) // 3)
    figures: dict[str, Any] = {}
    failures = []
    for name, what, of, least, share in MEASURED:
        values = [of(sample) for sample in warm]
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        figures[name] = {"first": round(first, 2), "last": round(last, 2), "most": round(max(values), 2)}
        if last - first > max(least, share * first):
            failures.append(f"{what} grew from {first:.1f} to {last:.1f}, by more than {max(least, share * first):.1f}")
    return figures, failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with own_postgres("soak") as server:
        soak = Soak(Databases(server), asked.seed, asked.minutes * 60, server.data_dir)
        asyncio.run(soak.run())
    figures = json.dumps(soak.figures(), indent=2)
    if asked.out:
        asked.out.write_text(figures + "\n")
    print(figures)
    return 0 if not soak.failures else 1


if __name__ == "__main__":
    sys.exit(main())
