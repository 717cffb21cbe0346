"""Logs that a node leaves out, makes up an index for, or proves falsely, in the middle of everything else."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.databases import Databases
from tests.chaos.liars import SURE, omissions


@pytest.mark.parametrize("seed", range(2))
async def test_omitted_logs_are_found_whatever_else_happens(seed: int, databases: Databases) -> None:
    told: list[str] = []
    wrong, blamed = await omissions(databases, seed, 4, told.append)
    assert 0 < wrong <= blamed
    assert len(told) == 4 and Counter(told)[SURE] == 1
