"""Progress of long work: a bar on a terminal (`bars`), a line every ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from indexer.background import beside
from indexer.follow.progress import Progress
from indexer.rpc.pool import Traffic

log = structlog.get_logger()
EVERY = 10.0  # seconds between lines
WORTH_SHOWING = 5_000  # blocks behind


def on_terminal() -> bool:
    return sys.stderr.isatty()


@contextlib.asynccontextmanager
async def shown(progress: Progress, goal: Callable[[], int]) -> AsyncIterator[None]:
    """Shows how far the work towards block `goal()` is, while the block of code runs."""
    if on_terminal():
        from indexer.cli import bars  # here, because where nobody looks nothing is drawn

        work = bars.followed(progress, goal)
    else:
        work = _lines(progress, goal)
    async with beside(work):
        yield


@contextlib.asynccontextmanager
async def backfill_shown(progress: Progress, traffic: Callable[[], Traffic], last: int) -> AsyncIterator[None]:
    """Shows both stages of a backfill up to block `last`, while the block of code runs."""
    rates = Rates(progress, traffic, last)
    if on_terminal():
        from indexer.cli import bars

        work = bars.backfilled(rates)
    else:
        work = _backfill_lines(rates)
    async with beside(work):
        yield


class Rates:
    """What the display says of a backfill, measured over the last seconds."""

    OVER = 15.0  # seconds

    def __init__(self, progress: Progress, traffic: Callable[[], Traffic], last: int) -> None:
        self.progress, self._traffic, self.last = progress, traffic, last
        self._seen: deque[tuple[float, ...]] = deque()

    def look(self) -> dict[str, Any]:
        """Rates a second, how far both stages are, and seconds to their ends; None where nothing moves."""
        p, traffic = self.progress, self._traffic()
        start = p.projected if p.bulk_from is None else p.bulk_from
        now = (time.monotonic(), p.blocks, p.logs, p.projected, sum(p.rows.values()), traffic.requests)
        self._seen.append(now)
        while len(self._seen) > 2 and now[0] - self._seen[0][0] > self.OVER:
            self._seen.popleft()
        past = self._seen[0]
        span = max(now[0] - past[0], 0.01)
        blocks, logs, projected, rows, requests = ((b - a) / span for a, b in zip(past[1:], now[1:], strict=True))
        to_project = max(0, self.last - start)
        return {
            "blocks": p.blocks,
            "blocks_missing": max(0, p.to_ingest - p.blocks),
            "ingest_eta_seconds": round((p.to_ingest - p.blocks) / blocks) if blocks else None,
            "projected": p.projected,
            "to_project": to_project,
            "project_done": max(0, min(to_project, p.projected - start)),
            "project_eta_seconds": round(max(0, self.last - p.projected) / projected) if projected else None,
            "logs": p.logs,
            "rows": sum(p.rows.values()),
            "logs_per_second": round(logs),
            "rows_per_second": round(rows),
            "requests_per_second": round(requests, 1),
            "range_size": traffic.size,
            "errors": dict(traffic.errors),
        }


async def _backfill_lines(rates: Rates) -> None:
    rates.look()
    while True:
        await asyncio.sleep(EVERY)
        log.info("backfill", **rates.look())


async def _lines(progress: Progress, goal: Callable[[], int]) -> None:
    start, started = progress.projected, time.monotonic()
    while True:
        await asyncio.sleep(EVERY)
        behind, done = goal() - progress.projected, progress.projected - start
        if behind < WORTH_SHOWING:
            continue
        rate = done / (time.monotonic() - started)
        log.info(
            "progress",
            projected=progress.projected,
            ingested=progress.ingested,
            goal=goal(),
            percent=round(100 * (progress.projected - progress.origin + 1) / max(1, goal() - progress.origin + 1), 2),
            blocks_per_second=round(rate),
            eta_seconds=round(behind / rate) if rate else None,
            logs=progress.logs,
        )
