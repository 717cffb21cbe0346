"""Progress display of long work: bars on a terminal, and a log line every ten seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from indexer.rpc.pool import Traffic
from indexer.runtime.progress import DaemonProgress
from indexer.runtime.tasks import background_task

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

log = structlog.get_logger()
LINE_INTERVAL_S = 10.0  # Time between log lines (s).
MIN_BLOCKS_SHOWN = 5_000  # No line is written while fewer blocks than this are left.


def stderr_is_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr.isatty()


def command_bars(*columns: str | ProgressColumn, transient: bool = False) -> Progress:
    """Return bars on stderr for a command with steps of its own; without a terminal they draw nothing."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), disable=not stderr_is_terminal(), transient=transient)


@contextlib.asynccontextmanager
async def show_progress(progress: DaemonProgress, goal: Callable[[], int]) -> AsyncIterator[None]:
    """Show the progress toward block `goal()` for the duration of the `async with` block."""
    if stderr_is_terminal():
        work = follow_bars(progress, goal)
    else:
        work = _lines(progress, goal)
    async with background_task(work):
        yield


@contextlib.asynccontextmanager
async def show_backfill_progress(
    progress: DaemonProgress, traffic: Callable[[], Traffic], last: int
) -> AsyncIterator[None]:
    """Show both stages of a backfill up to block `last` for the duration of the `async with` block."""
    rates = Rates(progress, traffic, last)
    if stderr_is_terminal():
        work = backfill_bars(rates)
    else:
        work = _backfill_lines(rates)
    async with background_task(work):
        yield


class Rates:
    """The numbers that the display shows of a backfill, with rates over the last seconds."""

    OVER = 15.0  # Length of the window that rates are measured over (s).

    def __init__(self, progress: DaemonProgress, traffic: Callable[[], Traffic], last: int) -> None:
        self.progress, self._traffic, self.last = progress, traffic, last
        self._samples: deque[tuple[float, ...]] = deque()

    def look(self) -> dict[str, Any]:
        """Take a sample and return rates (per second), progress and remaining time (s); None where nothing moves."""
        p, traffic = self.progress, self._traffic()
        start = p.projected if p.bulk_from is None else p.bulk_from
        now = (time.monotonic(), p.blocks, p.logs, p.projected, sum(p.rows.values()), traffic.requests)
        self._samples.append(now)
        while len(self._samples) > 2 and now[0] - self._samples[0][0] > self.OVER:
            self._samples.popleft()
        past = self._samples[0]
        seconds = max(now[0] - past[0], 0.01)
        blocks, logs, projected, rows, requests = ((b - a) / seconds for a, b in zip(past[1:], now[1:], strict=True))
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
        await asyncio.sleep(LINE_INTERVAL_S)
        log.info("backfill", **rates.look())


async def _lines(progress: DaemonProgress, goal: Callable[[], int]) -> None:
    start, started = progress.projected, time.monotonic()
    while True:
        await asyncio.sleep(LINE_INTERVAL_S)
        behind, done = goal() - progress.projected, progress.projected - start
        if behind < MIN_BLOCKS_SHOWN:
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


def _bars(*, remaining: bool) -> Progress:
    """Return bars that fit 80 columns, with a line of details below them for each task's field `more`.

    `remaining`: show rich's own estimate of the time left; otherwise the field `eta`.
    """
    # Imported here: a process that draws no bars need not load rich.
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Bars(Progress):
        """Bars with their details."""

        def get_renderables(self) -> Iterator[RenderableType]:
            """Yield the bars, then one line for each task, cut at the edge of the terminal."""
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if more := task.fields["more"]:
                    yield Text(f"  {more}", no_wrap=True, overflow="ellipsis")

    return Bars(
        TextColumn("[bold]{task.description:<9}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>5.1f}%"),
        MofNCompleteColumn(),
        TextColumn("blocks"),
        TimeRemainingColumn() if remaining else TextColumn("{task.fields[eta]:>9}"),
        console=Console(stderr=True),
    )


async def backfill_bars(rates: Rates) -> None:
    """Draw one bar for each stage of a backfill until cancelled."""
    with _bars(remaining=False) as bar:
        ingested = bar.add_task("ingested", total=None, eta="", more="")
        projected = bar.add_task("projected", total=None, eta="", more="")

        def draw() -> None:
            now, waiting = rates.look(), rates.progress.waiting
            errors = ", ".join(f"{n} {name}" for name, n in sorted(now["errors"].items()))
            bar.update(
                ingested,
                total=(now["blocks"] + now["blocks_missing"]) or None,
                completed=now["blocks"],
                eta=_format_eta(now["ingest_eta_seconds"]),
                more=f"{now['logs']:,} logs, {now['logs_per_second']:,}/s; {now['requests_per_second']:g} requests/s"
                f" of {now['range_size']:,} blocks{errors and '; ' + errors}",
            )
            bar.update(
                projected,
                total=now["to_project"] or None,
                completed=now["project_done"],
                eta=_format_eta(now["project_eta_seconds"]),
                more=f"{now['rows']:,} rows, {now['rows_per_second']:,}/s{waiting and '; waiting for ' + waiting}",
            )

        try:
            while True:
                draw()
                await asyncio.sleep(0.25)
        finally:
            draw()  # Leave the final numbers on the screen.


def _format_eta(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


async def follow_bars(progress: DaemonProgress, goal: Callable[[], int]) -> None:
    """Draw the bar of projected blocks toward block `goal()` until cancelled."""
    with _bars(remaining=True) as bar:
        task = bar.add_task("projected", total=None, more="")
        while True:
            total, waiting = goal() - progress.origin + 1, progress.waiting
            bar.update(
                task,
                total=max(total, 1) if progress.head >= 0 else None,
                completed=max(0, progress.projected - progress.origin + 1),
                more=f"{sum(progress.rows.values()):,} rows{waiting and '; waiting for ' + waiting}",
            )
            await asyncio.sleep(0.25)
