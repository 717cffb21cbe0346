"""`make chaos-report`: adds up the parts of one campaign, and refuses what does not belong together.

    python -m tests.chaos.report [--partial] [--json] [FILE or FOLDER ...]

Exit code 0: all is well; 1: a part found a difference or failed; 2: refused, with one line that names the file and why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.parts import Part, Totals

FOLDER = Path("chaos")  # where `make chaos` puts the parts
ROWS = ("lost", "doubled", "unexplained")
REFUSED = 2  # exit code


class Refused(Exception):
    """A file that is no part of the campaign, or a part that is missing: one line."""


class Played(NamedTuple):
    """A part as its file has it; `campaign`: seed, parts and totals, equal in all of them."""

    path: Path
    campaign: dict[str, Any]
    part: Part
    commit: str
    counts: Totals
    by_kind: dict[str, dict[str, int]]
    rows: dict[str, int]
    seconds: float
    ok: bool
    failures: list[dict[str, str]]

    @property
    def totals(self) -> Totals:
        return Totals(*(self.campaign[name] for name in Totals._fields))


def files(paths: Iterable[Path]) -> list[Path]:
    """The files that are named, and those of the folders that are. Raises Refused."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise Refused(f"{path}: no part of a campaign is in it")
        found += inside
    return found


def read(path: Path) -> Played:
    """One part that was played to its end on a clean tree. Raises Refused."""
    try:
        told = json.loads(path.read_text())
        campaign, part = told["campaign"], Part(told["part"], told["campaign"]["parts"])
        counts = Totals(**told["counts"])
        played = Played(
            path, campaign, part, told["commit"], counts, {name: told["by_kind"][name] for name in Totals._fields},
            {name: told["rows"][name] for name in ROWS}, told["seconds"], told["ok"], told["failures"],
        )  # fmt: skip
        seed, wanted = part.seed(campaign["seed"]), part.share(played.totals)
        whole, clean, replay, interrupted = (told[name] for name in ("complete", "clean", "replay", "interrupted"))
        own = told["seed"]
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise Refused(f"{path}: not the report of a part ({type(error).__name__}: {error})") from error
    failed = f", {len(played.failures)} failures" if played.failures else ""
    refused = {
        "a replay of some of a campaign": replay,
        f"part {part} is none of its campaign": not 1 <= part.number <= part.of,
        f"its seed is {own}, part {part} has {seed}": own != seed,
        f"not complete: interrupted by {interrupted}": interrupted,
        f"not complete: {counts} of {wanted}{failed}": not whole or counts != wanted,
        "the tree was not clean, or its commit cannot be told": not (clean and played.commit),
        "its counts by kind do not add up": Totals(*(sum(of.values()) for of in played.by_kind.values())) != counts,
    }
    for why, so in refused.items():
        if so:
            raise Refused(f"{path}: {why}")
    return played


def together(played: Sequence[Played], *, partial: bool) -> None:
    """Raises Refused unless they are the parts of one campaign at one commit, each once; all of them, or `partial`."""
    first = played[0]
    parts: dict[Part, Path] = {}
    for one in played:
        if one.commit != first.commit:
            raise Refused(f"{one.path}: of commit {one.commit[:12]}, {first.path} is of {first.commit[:12]}")
        differs = [key for key in first.campaign | one.campaign if one.campaign.get(key) != first.campaign.get(key)]
        if differs:
            key = differs[0]
            theirs = f"{key} {one.campaign.get(key)}, {first.path} has {first.campaign.get(key)}"
            raise Refused(f"{one.path}: of another campaign: {theirs}")
        if one.part in parts:
            raise Refused(f"{one.path}: part {one.part} is in {parts[one.part]} too")
        parts[one.part] = one.path
    missing = [number for number in range(1, first.part.of + 1) if Part(number, first.part.of) not in parts]
    if missing and not partial:
        numbers = ", ".join(map(str, missing))
        raise Refused(
            f"{first.path.parent}: missing of {first.part.of} parts: {numbers} (--partial reports the others)"
        )


def summed(played: Sequence[Played]) -> dict[str, Any]:
    """The figures of all of them."""
    first = played[0]
    by_kind: dict[str, Counter[str]] = {name: Counter() for name in Totals._fields}
    rows: Counter[str] = Counter(dict.fromkeys(ROWS, 0))
    for one in played:
        rows.update(one.rows)
        for name, counts in one.by_kind.items():
            by_kind[name].update(counts)
    return {
        "campaign": first.campaign,
        "commit": first.commit,
        "parts": {"reported": len(played), "of": first.part.of, "partial": len(played) < first.part.of},
        "counts": {name: sum(getattr(one.counts, name) for one in played) for name in Totals._fields},
        "by_kind": {name: dict(counts.most_common()) for name, counts in by_kind.items()},
        "rows": dict(rows),
        "seconds": round(sum(one.seconds for one in played), 1),
        "longest_part_seconds": max(one.seconds for one in played),
        "ok": all(one.ok for one in played) and not rows.total(),
        "failures": [failure | {"file": str(one.path)} for one in played for failure in one.failures],
    }


def table(report: dict[str, Any]) -> str:
    """The figures for people."""
    campaign, parts, counts = report["campaign"], report["parts"], report["counts"]
    lines = [
        f"campaign of seed {campaign['seed']} at commit {report['commit'][:12]}:"
        f" {parts['reported']} of {parts['of']} parts, {report['seconds'] / 3600:.1f} hours,"
        f" the longest part {report['longest_part_seconds'] / 60:.0f} minutes"
    ]
    if parts["partial"]:
        steps = f"{counts['steps']:,} steps of {campaign['steps']:,}"
        lines.append(f"PARTIAL: {parts['reported']} of {parts['of']} parts, {steps}")
    lines += ["", f"{'':12} {'played':>9} {'of':>9}"]
    lines += [f"{name:12} {counts[name]:>9,} {campaign[name]:>9,}" for name in Totals._fields]
    lines += [f"{'rows ' + name:17} {report['rows'][name]:>4,} {0:>9}" for name in ROWS]
    for name in Totals._fields:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in report["by_kind"][name].items())
        lines += ["", f"{name} by kind: {kinds or 'none'}"]
    for one in report["failures"]:
        what = one["error"].strip().partition("\n")[0]
        lines += ["", f"FAILED in {one['file']} at {one['where']}: {what}", f"to see it again: {one['replay']}"]
    return "\n".join([*lines, "", "all is well" if report["ok"] else "FAILED"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.report", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[FOLDER], help="files or folders; chaos/ unless told")
    parser.add_argument("--partial", action="store_true", help="report even if parts are missing, and say so")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    asked = parser.parse_args(arguments)
    try:
        played = [read(path) for path in files(asked.paths)]
        together(played, partial=asked.partial)
    except Refused as error:
        print(error, file=sys.stderr)
        return REFUSED
    report = summed(played)
    print(json.dumps(report, indent=2) if asked.json else table(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
