"""The database and the endpoint of the matrix, once for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from indexer.embedded_pg.server import EmbeddedServer
from tests.matrix.causes import Place
from tests.matrix.place import prepared


@pytest.fixture(scope="module")
def place(server: EmbeddedServer) -> Iterator[Place]:
    with prepared(server) as made:
        yield made
