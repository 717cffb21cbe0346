"""The wheel alone, away from the checkout: ABIs, configuration and migrations come with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.anvil.node import ROOT, AnvilNode
from tests.support.daemon import environment
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own: what an installation has."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "-w", folder, ROOT], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        assert not [n for n in names if n.startswith("tests/")]
        packed.extractall(folder / "site")
    return folder / "site"


def installed(site: Path, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The program from the wheel's files, started elsewhere; -P keeps the current folder out of its path."""
    code = "import sys, indexer; from indexer.cli.main import main; print(indexer.__file__, file=sys.stderr); main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env=environment(env) | {"PYTHONPATH": str(site)}, cwd="/", capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip


def test_it_knows_its_deployments(unpacked: Path) -> None:
    for chain in ("reya", "cronos", "devnet", "arbitrum"):
        done = installed(unpacked, "config", "check", "--chain", chain, env={})
        assert done.returncode == 0, done.stderr
        assert str(unpacked) in done.stderr and str(unpacked) in done.stdout


def test_it_migrates_and_indexes(unpacked: Path, fresh_database: Callable[[], str]) -> None:
    with AnvilNode() as node:
        node.mine(12)
        node.finalize()
        env = {"DATABASE_URL": fresh_database(), "REYA_RPC_URL": node.url}
        done = installed(unpacked, "backfill", "--from-block", "0", env=env)
        assert done.returncode == 0 and "projected up to 12" in done.stdout, done.stderr
        assert installed(unpacked, "migrate", "--check", env=env).returncode == 0
