"""No test leaves a daemon behind, whatever it failed on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon


@pytest.fixture(autouse=True)
def no_daemon_outlives_its_test() -> Iterator[None]:
    yield
    while Daemon.started:
        Daemon.started.pop().kill()
