"""Logs that a node leaves out, makes up an index for, or proves falsely, in the middle of everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from indexer.pg.server import EmbeddedServer
from tests.chaos.databases import Databases
from tests.chaos.liars import omissions


@pytest.fixture
def databases(server: EmbeddedServer) -> Iterator[Databases]:
    made = Databases(server)
    yield made
    asyncio.run(made.close())


@pytest.mark.parametrize("seed", range(2))
async def test_omitted_logs_are_found_whatever_else_happens(seed: int, databases: Databases) -> None:
    wrong, blamed = await omissions(databases, seed)
    assert 0 < wrong <= blamed
