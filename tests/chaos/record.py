"""What a run of `make chaos` did so far and what went wrong, in a file at any moment, an interrupted one included."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.campaign import Episode
from tests.chaos.case import Case, by_kind
from tests.chaos.kills import Campaign
from tests.chaos.machine import Differs, Machine
from tests.chaos.parts import Part, Totals
from tests.chaos.truth import wrong_rows

ROOT = Path(__file__).parents[2]
TELL = 10.0  # seconds between two lines, and between two writes of the file


class Record:
    """Counts by kind as things happen. `replay`: only some of a campaign was asked for, so it is no part of one.

    A signal sets `interrupted`: from then on errors are those of the end, and count for nothing.
    """

    def __init__(self, campaign: str, part: Part, totals: Totals, out: Path | None, *, replay: bool = False) -> None:
        self.campaign, self.part, self.totals, self.out, self.replay = campaign, part, totals, out, replay
        self.seed, self.asked = part.seed(campaign), part.share(totals)
        self.started, self._told = time.monotonic(), 0.0
        self.began_at = _tree()
        self.ended, self.interrupted = False, ""
        self.steps: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.lies: Counter[str] = Counter()
        self.rows: Counter[str] = Counter(lost=0, doubled=0, unexplained=0)
        self.inside, self.comparisons, self.reorgs, self.deepest = 0, 0, 0, 0
        self.wrong, self.blamed = 0, 0
        self.took: dict[str, float] = {}  # seconds by stage
        self.borne: Counter[str] = Counter()
        self.missed: list[str] = []
        self.failures: list[dict[str, str]] = []
        self.schedule: list[dict[str, Any]] = []  # each fault as it went
        self.cases: list[Case] = []
        self.compared = 0  # rows, after faults

    @property
    def done(self) -> Totals:
        return Totals(self.steps.total(), self.kills.total(), self.faults.total(), self.lies.total())

    @property
    def ok(self) -> bool:
        return not self.failures and not self.rows.total()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    # -- what happens

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """How long one of the four took, also when it was interrupted."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.took[name] = round(time.monotonic() - began, 1)

    def go_on(self) -> None:
        """Raises KeyboardInterrupt when the run was: whoever was cut off may have swallowed the first one."""
        if self.interrupted:
            raise KeyboardInterrupt

    def tell(self, now: bool = False) -> None:
        if now or time.monotonic() - self._told > TELL:
            self._told = time.monotonic()
            print(
                f"{self.seconds:6.0f} s: {self.done} ({self.inside} kills inside a transaction), {self.reorgs} reorgs,"
                f" {self.comparisons} comparisons, {len(self.failures)} failures",
                flush=True,
            )
            self.save()

    def fail(self, error: BaseException, where: str, replay: str) -> None:
        if self.interrupted:
            return
        if isinstance(error, Differs):
            self.rows.update(wrong_rows(error.found))
        text = str(error) if isinstance(error, Differs) else "".join(traceback.format_exception(error))
        again = f"python -m tests.chaos --seed {self.seed} {replay}"
        self.failures.append({"where": where, "replay": again, "error": text[-3000:]})
        print(f"FAILED at {where}, seed {self.seed}: {text}\nto see it again: {again}", flush=True)
        self.save()

    def stepped(self, name: str) -> None:
        self.steps[name] += 1
        self.tell()

    def killed(self, point: str, inside: bool) -> None:
        """One more; `inside` a transaction, at the armed point."""
        self.inside += inside
        self.kills[point if inside else "at random"] += 1
        if point and not inside:
            self.missed.append(point)
        self.tell()

    def lied(self, kind: str) -> None:
        """A lie that somebody was told."""
        self.lies[kind] += 1
        self.tell()

    def fault(self, case: Case) -> None:
        """One that was seen and is over."""
        self.faults[case.fault.kind] += 1
        signal, _ = min(case.seen.items(), key=lambda pair: pair[1])
        where = f" {case.place.endpoint}" if case.place.endpoint else ""
        print(
            f"{self.seconds:6.0f} s: fault {case.fault.number}, {case.fault.kind}{where}: seen after"
            f" {case.detect or 0:.1f} s by {signal}, healed after {case.heal or 0:.1f} s",
            flush=True,
        )
        self.tell()

    def episode(self, one: Episode) -> None:
        """However it ended."""
        self.cases += one.cases
        self.schedule += [case.as_json(self.started) | {"mode": one.mode} for case in one.cases]
        self.compared += one.rows
        self.saw(one)

    def saw(self, one: Machine | Campaign | Episode) -> None:
        self.comparisons += one.comparisons
        self.reorgs += one.reorgs
        self.deepest = max(self.deepest, one.deepest)

    # -- the file

    def save(self) -> None:
        """Whole or not at all, whenever the process ends."""
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            beside = self.out.with_name(f".{self.out.name}.{os.getpid()}")
            beside.write_text(json.dumps(self.shown(), indent=2) + "\n")
            beside.replace(self.out)

    def end(self) -> None:
        """The last write, which alone may say that everything was played."""
        self.ended = True
        self.save()

    def shown(self) -> dict[str, Any]:
        commit, clean = self.began_at
        return {
            "campaign": {"seed": self.campaign, "parts": self.part.of} | self.totals._asdict(),
            "part": self.part.number,
            "seed": self.seed,
            "commit": commit,
            "clean": clean and (not self.ended or _tree() == self.began_at),
            "replay": self.replay,
            "interrupted": self.interrupted,
            "complete": self.ended and not self.interrupted and self.done == self.asked,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "seconds_by_stage": self.took,
            "counts": self.done._asdict(),
            "by_kind": {
                name: dict(getattr(self, name).most_common()) for name in Totals._fields
            },
            "rows": dict(self.rows),
            "failures": self.failures,
            "kills_inside_transaction": self.inside,
            "points_not_passed": self.missed,
            "errors_borne": dict(self.borne.most_common()),
            "reorgs": self.reorgs,
            "deepest": self.deepest,
            "comparisons": self.comparisons,
            "logs_stored_wrong": self.wrong,
            "blamed_and_healed": self.blamed,
            "faults": {"by_kind": by_kind(self.cases), "rows_compared": self.compared, "schedule": self.schedule},
        }  # fmt: skip


def _tree() -> tuple[str, bool]:
    """The commit that is checked out ("" when that cannot be told), and whether there is nothing besides it."""
    commit = _git("rev-parse", "HEAD")
    return (commit or "").strip(), bool(commit) and _git("status", "--porcelain") == ""


def _git(*arguments: str) -> str | None:
    """What it prints; None when there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
