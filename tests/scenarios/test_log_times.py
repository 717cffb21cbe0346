"""`blockTimestamp` in the logs of eth_getLogs, wrong in every way, while headers are right: it dates no row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from indexer.follow import action_executor
from tests.chaos.truth import CONFIG
from tests.scenarios.harness import Stage
from tests.support.oracle.base import TABLES
from tests.support.oracle.recompute import recompute

HEAD, FINAL = 12, 10  # 13 blocks

FORMS: dict[str, Callable[[int], Any]] = {
    "zero": lambda _: "0x0",
    "a minute late": lambda time: hex(time + 60),
    "a second early": lambda time: hex(time - 1),
    "milliseconds": lambda time: hex(time * 1000),
    "decimal text": str,
    "beyond year 10000": lambda _: hex(2**63),
    "no text": lambda time: [time],
}


@pytest.fixture
async def small(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with Stage(url, request.node.nodeid, head=HEAD, final=FINAL) as made:
        made.main = made.grow(made.tree.genesis, HEAD, 3.0)
        made.show(made.main)
        yield made


def lie(stage: Stage, form: Callable[[int], Any], spread: str) -> None:
    """Every log of the node, or one log of each block, carries a wrong time."""

    def patched(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen: set[str] = set()
        for log in logs:
            if spread == "every log" or log["blockNumber"] not in seen:
                log["blockTimestamp"] = form(int(log["blockTimestamp"], 16))
            seen.add(log["blockNumber"])
        return logs

    stage.nodes[0].patch_logs = patched


async def dated_right(stage: Stage, last: int) -> None:
    """Rows are written at the times of their blocks, which the oracle's `created_at` are."""
    logs = stage.tree.logs(stage.at(stage.main, last).hash, 0)
    expected = recompute(logs, CONFIG)
    compared = 0
    for table in TABLES:
        rows = expected.get(table, [])
        if rows and "created_at" in rows[0]:
            want = sorted(row["created_at"] for row in rows)
            have = sorted(row[0] for row in await stage.fetch(f"SELECT created_at FROM public.{table}"))
            assert have == want, table
            assert all(at.replace(tzinfo=UTC) > datetime(2020, 1, 1, tzinfo=UTC) for at in have)
            compared += len(have)
    assert compared > 10
    path = stage.tree.path(stage.main.hash)
    for number, time in await stage.fetch("SELECT number, timestamp FROM indexer.block"):
        assert time == path[number].timestamp, number


@pytest.mark.parametrize("bulk", [False, True], ids=["step by step", "in bulk"])
@pytest.mark.parametrize("spread", ["every log", "one log of a block"])
@pytest.mark.parametrize("form", FORMS)
async def test_a_wrong_time_in_logs_dates_no_row(
    small: Stage, monkeypatch: pytest.MonkeyPatch, form: str, spread: str, bulk: bool
) -> None:
    if bulk:
        monkeypatch.setattr(action_executor, "MIN_CATCH_UP_BLOCKS", 5)
    lie(small, FORMS[form], spread)
    daemon = await small.start(max_blocks=4)
    assert daemon.errors == 0
    await small.equals(small.main)
    await dated_right(small, HEAD)


@pytest.mark.parametrize("spread", ["every log", "one log of a block"])
@pytest.mark.parametrize("form", FORMS)
async def test_a_wrong_time_in_logs_dates_no_row_of_a_backfill(small: Stage, form: str, spread: str) -> None:
    lie(small, FORMS[form], spread)
    daemon = await small.start(first=0, last=FINAL)
    assert daemon.errors == 0
    await dated_right(small, FINAL)
