"""How many statements a step sends: checking that its changes took effect costs none of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest

from indexer.store import stream_slots
from tests.chaos.databases import Databases
from tests.scenarios.harness import Stage

# Statements, each COPY among them, of each step forward by one block, and of each reorg with the blocks that follow.
# They depend on what is in the blocks: a change of the simulated exchange changes them, a check of effects must not.
# (When the checks were added, this test had the same counts before and after: 62, 159, 58, 176, 61, 178 for the blocks
# of that time.)
STATEMENTS = [(55, 139), (65, 156), (41, 177)]
COUNTED = ("execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_to_table")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Statements by method, of every connection."""
    counter: Counter[str] = Counter()

    def counting(name: str) -> None:
        method = getattr(asyncpg.Connection, name)

        async def call(self: asyncpg.Connection, *args: object, **options: object) -> object:
            counter[name] += 1
            return await method(self, *args, **options)

        monkeypatch.setattr(f"indexer.db.connection.MonitoredConnection.{name}", call)

    for name in COUNTED:
        counting(name)
    return counter


@pytest.fixture
async def stage(databases: Databases, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    url = await databases.make()
    async with Stage(url, "statements") as made:
        yield made
    await databases.drop(url)


@pytest.mark.parametrize("captured", [False, True], ids=["without a slot", "with a slot"])
async def test_checking_effects_and_capturing_changes_cost_no_statement(
    captured: bool, stage: Stage, sent: Counter[str]
) -> None:
    daemon = await stage.start()
    if captured:
        await stream_slots.create(stage.own, "test", "instant")
    counts = []
    for n in range(len(STATEMENTS)):
        tip = stage.tree[stage.nodes[0].head]
        stage.show(stage.busy(f"f{n}", tip.number, 1) if tip is stage.main else stage.grow(tip, 1, 3.0))
        sent.clear()
        await daemon.settle()
        forward = sent.total()
        tip = stage.tree[stage.nodes[0].head]
        stage.show(stage.fork(f"r{n}", tip.number - 5, 6, tip))
        sent.clear()
        await daemon.settle()
        counts.append((forward, sent.total()))
    assert counts == STATEMENTS
    assert bool(await stage.value("SELECT count(*) FROM indexer.change_log")) == captured


async def test_a_slot_costs_a_step_up_to_the_floor_no_statement_and_no_row(stage: Stage, sent: Counter[str]) -> None:
    """Twice the same step of the same blocks, projected again: without a slot, and with one."""
    for node in stage.nodes:
        node.finalized = node.safe = 100
    daemon = await stage.start()
    counts = []
    for digest in ("one", "two"):
        daemon.runner.engine.writer.digest = digest
        sent.clear()
        await daemon.settle()
        counts.append(sent.total())
        if digest == "one":
            await stream_slots.create(stage.own, "test", "instant")
    assert counts[0] == counts[1]
    assert await stage.fetch("SELECT op, table_name FROM indexer.change_log") == [(0, "")]
    last = await stage.fetch("SELECT kind, captured FROM indexer.commit_log ORDER BY seq DESC LIMIT 2")
    assert last == [("forward", False), ("reproject", True)]
