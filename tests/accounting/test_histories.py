"""Histories of trades, funding, deleveraging, liquidations and transfers of ownership, drawn at random: whatever the
chain and the indexer go through meanwhile, every table is what the oracle computes."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.accounting.histories import STEPS
from tests.accounting.machine import ACTS, History
from tests.chaos.databases import Databases
from tests.chaos.process import small_and_impatient

EXAMPLES = 8
seen: Counter[str] = Counter()


SMALL = st.integers(0, 99)
# Trades are what most of a history is made of.
NAMES = st.sampled_from([*sorted(STEPS) * 6, *ACTS])


async def play(databases: Databases, seed: int, steps: list[tuple[str, int, int]]) -> None:
    history = History(await databases.make(), seed)
    await history.open()
    try:
        for name, who, n in steps:
            await history.do(name, who, n)
            seen[name] += 1
        await history.do("compare", 0, 0)
        seen["reorgs"] += history.reorgs
        seen["heals"] += history.healed
        seen["comparisons"] += history.compared
    finally:
        await history.close()
        await databases.drop(history.url)


def test_every_table_is_the_oracles_whatever_is_traded_and_whatever_happens(databases: Databases) -> None:
    seen.clear()

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32), st.lists(st.tuples(NAMES, SMALL, SMALL), min_size=60, max_size=120))
    def histories(seed: int, steps: list[tuple[str, int, int]]) -> None:
        with small_and_impatient():
            asyncio.run(play(databases, seed, steps))

    histories()
    never = {*STEPS, *ACTS, "reorgs", "heals"} - set(seen)
    assert not never, f"no example had {never}"
