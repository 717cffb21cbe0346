"""What the display of a backfill says, from numbers alone."""

from __future__ import annotations

import pytest

from indexer.cli import progress_bars
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
