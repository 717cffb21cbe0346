"""Progress bars on a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from indexer.cli.display import Rates
from indexer.follow.progress import Progress


async def backfilled(rates: Rates) -> None:
    columns = (
        TextColumn("[bold]{task.description:<9}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>5.1f}%"),
        MofNCompleteColumn(),
        TextColumn("blocks"),
        TextColumn("{task.fields[eta]:>9}"),
        TextColumn("{task.fields[more]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=False) as bar:
        ingested = bar.add_task("ingested", total=None, eta="", more="")
        projected = bar.add_task("projected", total=None, eta="", more="")

        def draw() -> None:
            seen, waiting = rates.look(), rates.progress.waiting
            errors = ", ".join(f"{n} {name}" for name, n in sorted(seen["errors"].items()))
            bar.update(
                ingested,
                total=(seen["blocks"] + seen["blocks_missing"]) or None,
                completed=seen["blocks"],
                eta=_until(seen["ingest_eta_seconds"]),
                more=f"{seen['logs']:,} logs, {seen['logs_per_second']:,}/s; {seen['requests_per_second']:g} requests/s"
                f" of {seen['range_size']:,} blocks{errors and '; ' + errors}",
            )
            bar.update(
                projected,
                total=seen["to_project"] or None,
                completed=seen["project_done"],
                eta=_until(seen["project_eta_seconds"]),
                more=f"{seen['rows']:,} rows, {seen['rows_per_second']:,}/s{waiting and '; waiting for ' + waiting}",
            )

        try:
            while True:
                draw()
                await asyncio.sleep(0.25)
        finally:
            draw()  # how it ended


def _until(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


async def followed(progress: Progress, goal: Callable[[], int]) -> None:
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
