"""CatchUp work with small limits: whoever waits for room must be sure that somebody makes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from indexer.chain.batch import LogBatch
from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header, Log
from indexer.follow import action_executor, catch_up
from indexer.follow.catch_up import BufferedSource
from indexer.ingest import ingestor
from indexer.projector import pipeline
from tests.scenarios.harness import Stage
from tests.support.waiting import guard


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (action_executor, "MIN_CATCH_UP_BLOCKS", 10), (ingestor, "GROUP_LOGS", 5), (ingestor, "GROUP_SECONDS", 0.0),
        (catch_up, "MAX_BUFFERED_LOGS", 12), (catch_up, "STEP_LOGS", 3), (pipeline, "STEP_LOGS", 3),
        (pipeline, "CACHE_ROWS", 4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


async def test_a_long_range_is_ingested_and_projected_side_by_side(stage: Stage) -> None:
    stage.nodes[0].finalized = stage.nodes[0].safe = 100
    daemon = await stage.start(max_blocks=4)
    kinds = [kind for (kind,) in await stage.fetch("SELECT kind FROM indexer.commit_log")]
    assert len(kinds) > 10 and daemon.progress.steps["ingest"] > 5
    await stage.equals(stage.main)


async def test_without_the_lease_nothing_is_held_for_a_projection_that_does_not_come(stage: Stage) -> None:
    stage.nodes[0].finalized = stage.nodes[0].safe = 100
    worker = await stage.start(max_blocks=4, first=0, last=100, ingest_only=True, settled=False)
    async with guard("the end of ingesting"):
        await worker.settle()
    assert worker.progress.steps["ingest"] > 5 and not worker.progress.steps["project"]
    holder = await stage.start(max_blocks=4)
    assert not holder.progress.steps["ingest"] and holder.progress.steps["project"] > 5
    await stage.equals(stage.main)


async def test_a_stale_projection_waits_for_the_past_of_a_new_contract(stage: Stage) -> None:
    stage.nodes[0].finalized = stage.nodes[0].safe = 100
    before = await stage.start(max_blocks=4, without=["core"])
    await before.stop()
    async with guard("the projection"):
        await stage.start(max_blocks=4)
    await stage.equals(stage.main)


def unit(first: int, last: int, logs: int) -> LogBatch:
    made = [Log(first, i, b"\1" * 20, b"\2" * 32, 0, (), b"", b"\3" * 32) for i in range(logs)]
    ends = [Header(n, b"%32d" % n, b"%32d" % (n - 1), n) for n in (first, last)]
    return LogBatch(first, last, ("0x" + "01" * 20,), made, ends)


async def test_units_out_of_order_never_block_the_one_that_moves_the_front() -> None:
    nowhere: Any = None  # a database that must not be asked
    held = BufferedSource(nowhere, {"0x" + "01" * 20: []}, 0, 100, projecting=True)
    async with guard("room for a unit"):
        await held.offer(unit(20, 29, 8))
        await held.offer(unit(30, 39, 8))
        await held.offer(unit(40, 49, 8))  # no room: it will be read from the database
        await held.offer(unit(0, 19, 5))
        assert held.block == 49
        assert (await held.next(0)) is not None
        found = await held.next(20)
        assert found is not None and found.chunk.first == 20 and found.anchor.number >= 29
    waiting = asyncio.create_task(held.offer(unit(50, 59, 9)))
    await asyncio.sleep(0.05)
    await held.mark_covered(ContractRange(50, 99, ("0x" + "01" * 20,)))
    await held.close()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
