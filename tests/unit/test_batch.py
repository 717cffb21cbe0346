"""How confirmed ranges are put together for a commit, and which state rows are kept between steps."""

from __future__ import annotations

import asyncio

import pytest

from indexer.chain.batch import LogBatch
from indexer.chain.types import Log
from indexer.ingest import ingestor
from indexer.projections import positions
from indexer.projections.events import StateKey
from indexer.projections.project import WHOLE_TABLES, merge_rows, split_row, tables_of
from indexer.projector import pipeline
from indexer.projector.pipeline import StateCache

LOG = Log(0, 0, bytes(20), bytes(32), 0, (), b"", bytes(32))


def unit(first: int, last: int, logs: int) -> LogBatch:
    return LogBatch(first, last, (), [LOG] * logs, [])


async def groups(units: list[LogBatch], last: int) -> list[tuple[int, int]]:
    ready: asyncio.Queue[list[LogBatch] | None] = asyncio.Queue()
    for one in units:
        ready.put_nowait([one])
    ready.put_nowait(None)
    found = []
    while group := await ingestor._next_group(ready, last):
        found.append((group[0].first, group[-1].last))
    return found


async def test_what_little_is_left_of_a_task_is_committed_with_the_group_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingestor, "GROUP_LOGS", 80)
    ten = [unit(n * 10, n * 10 + 9, 10) for n in range(10)]
    assert await groups(ten, 99) == [(0, 99)]
    assert await groups(ten, 119) == [(0, 99)], "what is left is known by blocks, not by what waits"
    # More than half as many blocks again are a group of their own.
    assert await groups([*ten, *[unit(n * 10, n * 10 + 9, 10) for n in range(10, 13)]], 129) == [(0, 79), (80, 129)]


async def test_a_group_ends_however_few_logs_its_ranges_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestor, "GROUP_BATCHES", 3)
    empty = [unit(n, n, 0) for n in range(9)]
    assert await groups(empty, 1000) == [(0, 2), (3, 5), (6, 8)]
    assert await groups(empty, 8) == [(0, 2), (3, 5), (6, 8)]
    assert await groups(empty[:7], 6) == [(0, 2), (3, 6)], "one block more, not three"


def test_rows_of_the_step_before_and_of_whole_tables_are_always_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CACHE_ROWS", 4)
    carried, whole = StateCache(), (WHOLE_TABLES[0], (1,))
    carried.rows[whole] = {"id": 1}
    steps: list[set[StateKey]] = [{("t", (n + k,)) for k in range(5)} for n in range(0, 60, 3)]
    before: set[StateKey] = set()
    for number, keys in enumerate(steps):
        lacking = carried.missing(keys)
        assert not lacking & before, "the step before is not committed yet"
        carried.rows.update((key, {"step": number}) for key in lacking)
        assert keys <= carried.rows.keys() and whole in carried.rows
        assert len(carried.rows) + len(carried._older) <= 2 * (4 + 5 + 1)
        before = keys


def test_what_was_not_used_for_two_generations_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CACHE_ROWS", 2)
    carried = StateCache()
    for keys in ({1, 2, 3}, {4, 5, 6}, {7, 8, 9}):
        named: set[StateKey] = {("t", (key,)) for key in keys}
        carried.rows.update(dict.fromkeys(carried.missing(named)))
    assert carried.missing({("t", (1,)), ("t", (4,)), ("t", (9,))}) == {("t", (1,)), ("t", (4,))}


def test_a_state_row_of_two_tables_is_taken_apart_and_put_together() -> None:
    values = tuple(range(len(positions.ROWS.names)))
    rows = split_row("positions", values)
    assert tables_of("positions") == ("positions", "position_raw") and merge_rows("positions", rows) == values
    assert split_row("positions", None) == (None, None) and merge_rows("positions", (None, None)) is None
    assert merge_rows("Asset", split_row("Asset", {"address": "0x"})) == {"address": "0x"}
