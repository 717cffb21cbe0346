"""The unit, as systemd's own tool reads it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.ops.conftest import program
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.ops
UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "reya-indexer.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name  # its program is not installed here
    unit.write_text(UNIT.read_text().replace("/opt/reya-indexer/.venv/bin/reya-indexer", "/bin/true"))
    done = analyze("verify", str(unit))
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    done = analyze("security", "--offline=true", "--no-pager", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout[-500:]
    exposure = re.search(r"exposure level for \S+ ([\d.]+)", done.stdout)
    assert exposure and float(exposure[1]) < 2


def test_a_mistake_in_the_unit_is_seen(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("ProtectSystem=strict", "ProtectSystm=strict"))
    assert "ProtectSystm" in analyze("verify", str(unit)).stderr
