"""`make chaos` in parts, as a process of its own: what each writes, also when it is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import report
from tests.support.daemon import environment
from tests.support.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.chaos", "--out", str(folder), "--kills", "0", "--faults", "0", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def test_the_parts_of_a_campaign_play_all_of_it_and_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "chaos"
    for part in ("1/2", "2/2"):
        code, said = end(start(folder, "--seed", "3", "--part", part, "--steps", "7", "--lies", "3"))
        assert code == 0, said
    told = written(folder)
    assert [one["counts"] for one in told] == [
        {"steps": 3, "kills": 0, "faults": 0, "lies": 1}, {"steps": 4, "kills": 0, "faults": 0, "lies": 2},
    ]  # fmt: skip
    for one in told:
        assert one["complete"] and one["ok"] and one["rows"] == {"lost": 0, "doubled": 0, "unexplained": 0}
        assert {name: sum(of.values()) for name, of in one["by_kind"].items()} == one["counts"]
        assert len(one["commit"]) == 40 and one["seconds"] > 0
    assert [one["seed"] for one in told] == ["3.1of2", "3.2of2"]
    for file in folder.glob("*.json"):  # a developer's tree is seldom clean
        file.write_text(json.dumps(json.loads(file.read_text()) | {"clean": True}))
    assert report.main([str(folder)]) == 0
    assert "steps                7         7\n" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_part_writes_what_it_did_and_the_report_refuses_it(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "chaos"
    process = start(folder, "--part", "1/1", "--steps", "100000", "--lies", "0")
    try:
        await eventually(
            lambda: process.poll() is not None or any(one["counts"]["steps"] for one in written(folder)), "a step"
        )
        assert not written(folder)[0]["complete"]  # a run that is killed leaves this
        process.send_signal(number)
        code, said = end(process)
    finally:
        process.kill()
    assert code == 128 + number, said
    (told,) = written(folder)
    assert told["interrupted"] == number.name and not told["complete"] and told["failures"] == []
    assert 0 < sum(told["by_kind"]["steps"].values()) == told["counts"]["steps"] < 100_000
    assert report.main([str(folder), "--partial"]) == report.REFUSED
    assert f"not complete: interrupted by {number.name}" in capsys.readouterr().err
