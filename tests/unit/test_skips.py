"""A run with an unlisted skip fails, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
CONFTEST = """
import sys; sys.path.insert(0, {root!r})
from tests.support.skips import Skips
def pytest_configure(config):
    config.pluginmanager.register(Skips({allowed!r}), "skips")
"""
SKIPPING = """
import pytest
def test_a(): pytest.skip("no reason")
@pytest.mark.xfail
def test_b(): assert False
def test_c(): pass
"""
MODULE = "import pytest\npytest.importorskip('no_such_module')\n"


@pytest.mark.parametrize("processes", ["", "2"])
def test_an_unlisted_skip_of_a_test_or_a_module_fails_the_run(processes: str, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(SKIPPING)
    (tmp_path / "test_y.py").write_text(MODULE)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(root=str(ROOT), allowed={}))
    done = run(tmp_path, processes)
    assert done.returncode == 1, done.stdout
    for name in ("test_x.py::test_a", "test_x.py::test_b", "test_y.py"):
        assert f"not on the list in tests/support/skips.py: {name}:" in done.stdout, done.stdout


def test_listed_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(SKIPPING)
    allowed = dict.fromkeys(("test_x.py::test_a", "test_x.py::test_b"), "a reason")
    (tmp_path / "conftest.py").write_text(CONFTEST.format(root=str(ROOT), allowed=allowed))
    done = run(tmp_path, "")
    assert done.returncode == 0 and "1 skipped" in done.stdout, done.stdout


def run(folder: Path, processes: str) -> subprocess.CompletedProcess[str]:
    plugins = ["-p", "xdist", "-n", processes] if processes else []
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugins, "--rootdir", str(folder), "."],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
