"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from indexer.follow.progress import Progress

log = structlog.get_logger()
EVERY = 10.0  # seconds between lines
WORTH_SHOWING = 5_000  # blocks behind


def on_terminal() -> bool:
    return sys.stderr.isatty()


@contextlib.asynccontextmanager
async def shown(progress: Progress, goal: Callable[[], int]) -> AsyncIterator[None]:
    """Shows how far the work towards block `goal()` is, while the block of code runs."""
    task = asyncio.create_task(_bar(progress, goal) if on_terminal() else _lines(progress, goal))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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


async def _bar(progress: Progress, goal: Callable[[], int]) -> None:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f}%"),
        MofNCompleteColumn(),
        TextColumn("blocks"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rows]:,} rows  {task.fields[wait]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task("projected", total=None, rows=0, wait="")
        while True:
            total = goal() - progress.origin + 1
            bar.update(
                task,
                total=max(total, 1) if progress.head >= 0 else None,
                completed=max(0, progress.projected - progress.origin + 1),
                rows=sum(progress.rows.values()),
                wait=progress.waiting and f"waiting for {progress.waiting}",
            )
            await asyncio.sleep(0.25)
