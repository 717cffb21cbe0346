"""Nodes asked again without pauses, one stage for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from indexer.ingest import fetch
from indexer.rpc import retry
from tests.chaos.databases import Databases
from tests.scenarios.harness import Stage


@pytest.fixture
async def url(databases: Databases) -> AsyncIterator[str]:
    """A migrated database."""
    made = await databases.make()
    yield made
    await databases.drop(made)


@pytest.fixture
async def stage(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """100 blocks, 60 of them final, on two nodes; no daemon yet."""
    async with Stage(url, request.node.nodeid) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as ever, without the pauses between."""
    monkeypatch.setattr(retry, "_backoff", lambda _: 0.0)
    monkeypatch.setattr(fetch, "_RETRY_PAUSES_S", (0.0,) * 5)
