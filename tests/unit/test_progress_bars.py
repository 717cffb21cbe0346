"""What a terminal shows: the numbers of a backfill, bars and help at 80 and 120 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from indexer.cli import progress_bars
from indexer.cli.main import cli
from indexer.rpc.pool import Traffic
from indexer.runtime.progress import DaemonProgress


def test_both_stages_have_their_share_their_rate_and_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, now = DaemonProgress(), 100.0
    asked = Traffic(0, {}, 2000)
    monkeypatch.setattr("indexer.cli.progress_bars.time.monotonic", lambda: now)
    rates = progress_bars.Rates(progress, lambda: asked, 10_099)
    progress.projected = 99
    seen = rates.look()
    assert (seen["to_project"], seen["project_done"], seen["ingest_eta_seconds"]) == (10_000, 0, None)
    progress.to_ingest, progress.bulk_from = 10_000, 99
    progress.blocks, progress.logs, progress.projected, now = 4_000, 8_000, 2_099, 110.0
    progress.rows["orders"] = 5_000
    asked = Traffic(40, {"RateLimited": 2}, 500)
    seen = rates.look()
    assert (seen["blocks"], seen["blocks_missing"], seen["ingest_eta_seconds"]) == (4_000, 6_000, 15)
    assert (seen["project_done"], seen["to_project"], seen["project_eta_seconds"]) == (2_000, 10_000, 40)
    assert (seen["logs_per_second"], seen["rows_per_second"], seen["requests_per_second"]) == (800, 500, 4.0)
    assert (seen["range_size"], seen["errors"]) == (500, {"RateLimited": 2})
    assert progress_bars._format_eta(3_725) == "1:02:05" and progress_bars._format_eta(None) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_bars_fit_the_terminal_and_their_details_stand_below(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for remaining in (False, True):
        bars = progress_bars._bars(remaining=remaining)
        for name, more in (("ingested", "1,234,567 logs, 12,345/s; 12.5 requests/s"), ("projected", "x" * 300)):
            bars.add_task(name, total=2_000_000, completed=500_000, eta="0:12:10", more=more)
        with bars.console.capture() as captured:
            bars.console.print(bars.get_renderable())
        one, two, details, long = captured.get().splitlines()
        for line in (one, two):
            assert "25.0%" in line and "500000/2000000" in line and line.count("━") == 5, line
        assert one.startswith("ingested") and two.startswith("projected")
        assert details.strip() == "1,234,567 logs, 12,345/s; 12.5 requests/s"
        assert len(long) == width and long.endswith("…")


def test_help_summaries_are_whole_at_80_columns() -> None:
    def groups(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        if isinstance(command, click.Group):
            yield path
            for name in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), name)
                assert found is not None
                yield from groups(found, [*path, name])

    for path in groups(cli, []):
        shown = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
        cut = [line for line in shown.splitlines() if line.endswith("...") and not line.startswith("Usage")]
        assert "Commands:" in shown and not cut, cut
