"""Real parts for the tests: a PostgreSQL of our own supervisor, and fresh databases in it."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from indexer.embedded_pg.server import EmbeddedServer
from tests.chaos.databases import Databases
from tests.support import skips
from tests.support.daemon import ENDPOINTS
from tests.support.postgres import own_postgres

# How long an example takes says how busy the machine is, nothing else.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(skips.Skips(skips.ALLOWED), "skips")


@pytest.fixture(autouse=True)
def no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own DATABASE_URL or endpoints must never be what the tests write to."""
    for name in list(os.environ):
        if name.startswith(("DATABASE_URL", "REYA_INDEXER_")) or name.removesuffix("_FILE").endswith(ENDPOINTS):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """One PostgreSQL per test process, in a folder that an unprivileged server process can reach."""
    with own_postgres("tests") as running:
        yield running


@pytest.fixture(scope="session")
def databases(server: EmbeddedServer) -> Iterator[Databases]:
    """Migrated ones, by copy of one template; whoever makes one drops it."""
    made = Databases(server)
    yield made
    asyncio.run(made.close())


@pytest.fixture
def fresh_database(server: EmbeddedServer) -> Iterator[Callable[[], str]]:
    """Makes new, empty databases; they are dropped after the test."""
    made: list[str] = []

    def make() -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        server.ensure_database(name)
        made.append(name)
        return server.url(name)

    yield make
    for name in made:
        asyncio.run(_drop(server.url("postgres"), name))


async def _drop(url: str, name: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await conn.close()
