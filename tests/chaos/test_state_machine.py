"""Everything at once, at random: forks, faults, crashes, a second writer; then the oracle."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.chaos.databases import Databases
from tests.chaos.machine import OPERATIONS, Machine
from tests.chaos.process import small_and_impatient

# No shrinking: an example costs seconds, and the steps that failed are printed.
FEW = settings(
    max_examples=12, stateful_step_count=35, deadline=None, derandomize=True, database=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip


class Chaos(RuleBasedStateMachine):
    """The operations as rules, in an event loop that runs only while one of them does."""

    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.machine: Machine | None = None

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.machine = Machine(self.databases, seed)
        self.loop.run(self.machine.open())

    def do(self, name: str, numbers: dict[str, int]) -> None:
        assert self.machine is not None
        self.loop.run(self.machine.do(name, numbers))

    def teardown(self) -> None:
        try:
            if self.machine is not None:
                self.loop.run(self._end(self.machine))
        finally:
            self.loop.close()

    async def _end(self, machine: Machine) -> None:
        try:
            await machine.quiesce()
        finally:
            await machine.close()


def _rule_of(name: str) -> Any:
    def play(self: Chaos, **numbers: int) -> None:
        self.do(name, numbers)

    play.__name__ = name
    made: Any = rule
    return made(**{key: st.integers(*limits) for key, limits in OPERATIONS[name].limits.items()})(play)


for _name in OPERATIONS:
    setattr(Chaos, _name, _rule_of(_name))


def test_whatever_happens_the_tables_are_the_projection_of_the_canonical_chain(databases: Databases) -> None:
    machine = type("WithDatabases", (Chaos,), {"databases": databases})
    with small_and_impatient():
        run_state_machine_as_test(machine, settings=FEW)


@pytest.mark.parametrize("seed", range(3))
async def test_long_histories_by_weight(seed: int, databases: Databases) -> None:
    with small_and_impatient(*random.Random(seed).choice([(3, 2, 4), (50, 30, 200)])):
        machine = Machine(databases, f"suite {seed}")
        await machine.open()
        try:
            for _ in range(60):
                await machine.do(*machine.draw())
            await machine.quiesce()
        finally:
            await machine.close()
