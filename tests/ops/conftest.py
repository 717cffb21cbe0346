"""Programs of Debian's packages. A test that lacks one fails: skipped, it would prove nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon


def program(name: str) -> str:
    """Its path."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: `make test-ops` installs it (.ci/ops-packages), as root on Debian")
    return found


DEBIAN_POSTGRES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(autouse=True)
def no_daemon_outlives_its_test() -> Iterator[None]:
    yield
    while Daemon.started:
        Daemon.started.pop().kill()
