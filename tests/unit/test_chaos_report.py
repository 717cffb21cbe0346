"""The parts of a chaos campaign: they add up to it, and a report takes no other ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import parts, report
from tests.chaos.parts import WHOLE, Part, Totals
from tests.chaos.truth import wrong_rows

COMMIT = "1234567890ab" + "0" * 28
TOTALS = Totals(1000, 50, 20, 21)
Files = list[Path]


def content(part: Part, totals: Totals = TOTALS, seed: str = "7") -> dict[str, Any]:
    """What a part that went well writes."""
    counts = part.share(totals)._asdict()
    return {
        "campaign": {"seed": seed, "parts": part.of} | totals._asdict(),
        "part": part.number, "seed": part.seed(seed), "commit": COMMIT, "clean": True, "replay": False,
        "interrupted": "", "complete": True, "ok": True, "seconds": 100.0 + part.number, "counts": counts,
        "by_kind": {name: {"one": count - count // 3, "other": count // 3} for name, count in counts.items()},
        "rows": {"lost": 0, "doubled": 0, "unexplained": 0}, "failures": [],
    }  # fmt: skip


@pytest.fixture
def played(tmp_path: Path) -> Files:
    """Three parts, in order."""
    files = []
    for number in (1, 2, 3):
        part = Part(number, 3)
        files.append(tmp_path / part.file("7"))
        files[-1].write_text(json.dumps(content(part)))
    return files


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    told = json.loads(file.read_text())
    edit(told)
    file.write_text(json.dumps(told))


@given(totals=st.builds(Totals, *[st.integers(0, 200_000)] * 4), of=st.integers(1, 60))
def test_the_parts_add_up_to_the_campaign_and_differ_by_one_at_most(totals: Totals, of: int) -> None:
    shares = [Part(number, of).share(totals) for number in range(1, of + 1)]
    assert Totals(*map(sum, zip(*shares, strict=True))) == totals
    for counts in zip(*shares, strict=True):
        assert max(counts) - min(counts) <= 1
    assert len({Part(number, of).seed("7") for number in range(1, of + 1)}) == of


def test_a_part_has_a_seed_and_a_file_of_its_own_and_the_whole_the_campaigns() -> None:
    assert Part().seed("7") == "7" and Part(3, 12).seed("7") == "7.3of12" and Part(3, 12).seed("8") == "8.3of12"
    assert Part(3, 12).file("7") == "seed-7-part-03-of-12.json"
    assert WHOLE == (100_000, 500, 200, 200) and str(WHOLE) == "100,000 steps, 500 kills, 200 faults, 200 lies"


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "/3", "3/", "a/3", "-1/3", "1/0", "1/3/4", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    assert parts.parse("3/12") == Part(3, 12)
    with pytest.raises(ValueError, match=r"K/N|invalid"):
        parts.parse(text)


def test_a_report_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    name = Part(1, 2).file("7")
    assert parts.destination(tmp_path / "one.json", Part(1, 2), "7") == tmp_path / "one.json"
    assert parts.destination(tmp_path / "chaos", Part(1, 2), "7") == tmp_path / "chaos" / name
    assert parts.destination(tmp_path, Part(1, 2), "7") == tmp_path / name


def test_all_parts_of_a_campaign_are_summed(played: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(played[0].parent), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == TOTALS._asdict() and told["rows"] == {"lost": 0, "doubled": 0, "unexplained": 0}
    assert {name: sum(of.values()) for name, of in told["by_kind"].items()} == TOTALS._asdict()
    assert told["parts"] == {"reported": 3, "of": 3, "partial": False} and told["commit"] == COMMIT
    assert (told["seconds"], told["longest_part_seconds"], told["ok"]) == (306.0, 103.0, True)
    assert report.main([str(file) for file in reversed(played)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("campaign of seed 7 at commit 1234567890ab: 3 of 3 parts,")
    assert [line.split() for line in lines if line.startswith(Totals._fields)][:4] == [
        ["steps", "1,000", "1,000"], ["kills", "50", "50"], ["faults", "20", "20"], ["lies", "21", "21"],
    ]  # fmt: skip
    assert lines[-1] == "all is well" and not [line for line in lines if "PARTIAL" in line]


Edit = Callable[[dict[str, Any]], Any]
REFUSALS: dict[str, tuple[Edit, str]] = {
    "another commit": (lambda t: t.update(commit="f" * 40), "of commit ffffffffffff, "),
    "a dirty tree": (lambda t: t.update(clean=False), "the tree was not clean"),
    "no commit": (lambda t: t.update(commit=""), "the tree was not clean, or its commit cannot be told"),
    "another seed": (lambda t: t.update(content(Part(2, 3), seed="8")), "of another campaign: seed 8, "),
    "other totals": (lambda t: t.update(content(Part(2, 3), Totals(1000, 50, 20, 22))), "another campaign: lies 22, "),
    "another number of parts": (lambda t: t.update(content(Part(2, 4))), "of another campaign: parts 4, "),
    "the seed of another part": (lambda t: t.update(seed="7.1of3"), "its seed is 7.1of3, part 2/3 has 7.2of3"),
    "doubled": (lambda t: t.update(content(Part(1, 3))), "part 1/3 is in "),
    "none of the parts": (lambda t: t.update(part=4, seed="7.4of3"), "part 4/3 is none of its campaign"),
    "interrupted": (lambda t: t.update(interrupted="SIGINT", complete=False), "not complete: interrupted by SIGINT"),
    "not at its end": (lambda t: t.update(complete=False), "not complete: 333 steps, "),
    "fewer steps": (lambda t: t["counts"].update(steps=332), "not complete: 332 steps, "),
    "kinds that do not add up": (lambda t: t["by_kind"]["lies"].update(one=0), "by kind do not add up"),
    "a replay": (lambda t: t.update(replay=True), "a replay of some of a campaign"),
    "another format": (lambda t: t.pop("counts"), "not the report of a part (KeyError: 'counts')"),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("partial", [False, True])
def test_what_does_not_belong_to_the_campaign_is_refused_in_one_line_that_names_the_file(
    name: str, partial: bool, played: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, why = REFUSALS[name]
    change(played[1], edit)
    assert report.main([str(played[0].parent), *(["--partial"] if partial else [])]) == report.REFUSED
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith(f"{played[1]}: ") and why in said.err


@pytest.mark.parametrize(("text", "why"), [("", "JSONDecodeError"), ("[]", "TypeError"), (None, "No such file")])
def test_a_file_that_is_no_report_is_refused(
    text: str | None, why: str, played: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    played[1].unlink() if text is None else played[1].write_text(text)
    assert report.main([str(file) for file in played]) == report.REFUSED
    said = capsys.readouterr().err
    assert said.startswith(f"{played[1]}: ") and why in said and len(said.splitlines()) == 1


def test_missing_parts_are_named_and_reported_without_only_when_asked(
    played: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played[1].unlink()
    assert report.main([str(tmp_path)]) == report.REFUSED
    assert capsys.readouterr().err.startswith(f"{tmp_path}: missing of 3 parts: 2 ")
    assert report.main([str(tmp_path), "--partial"]) == 0
    assert "PARTIAL: 2 of 3 parts, 667 steps of 1,000\n" in capsys.readouterr().out
    assert report.main([str(tmp_path), "--partial", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == {"reported": 2, "of": 3, "partial": True} and told["counts"]["steps"] == 667
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty"), "--partial"]) == report.REFUSED
    assert "no part of a campaign is in it" in capsys.readouterr().err


def test_a_part_that_failed_is_reported_and_fails_the_report(played: Files, capsys: pytest.CaptureFixture[str]) -> None:
    failure = {"where": "step 7", "replay": "python -m tests.chaos --seed 7.2of3", "error": "orders: missing\nmore"}
    change(
        played[1], lambda t: t.update(ok=False, failures=[failure], rows={"lost": 2, "doubled": 0, "unexplained": 1})
    )
    assert report.main([str(played[0].parent)]) == 1
    said = capsys.readouterr().out
    assert f"FAILED in {played[1]} at step 7: orders: missing\n" in said and "--seed 7.2of3\n" in said
    assert [line.split() for line in said.splitlines() if line.startswith("rows ")] == [
        ["rows", "lost", "2", "0"], ["rows", "doubled", "0", "0"], ["rows", "unexplained", "1", "0"],
    ]  # fmt: skip
    change(played[1], lambda t: t.update(ok=True, failures=[]))  # rows are enough
    assert report.main([str(played[0].parent)]) == 1


def test_differences_are_counted_as_lost_doubled_or_unexplained() -> None:
    found = [
        "orders ('a',): missing", "orders ('a',): missing (_safe)", "raw_log (1, 2): missing",
        "orders ('b',): there 2 times", "orders ('b',): there 2 times (_finalized)",
        "orders ('c',): not on the chain", "orders ('d',) fee: 1, should be 2 (_safe)", "checkpoint 3: should be 4",
    ]  # fmt: skip
    assert wrong_rows(found) == {"lost": 3, "doubled": 2, "unexplained": 3}
    assert wrong_rows([]) == {"lost": 0, "doubled": 0, "unexplained": 0}
