"""`make chaos`: thousands of random steps against the engine in this process, then kills of the real daemon, then
histories whose nodes leave logs out, then faults of endpoints and PostgreSQL, each of which must be seen.

Everything follows from the seed but the timing of sockets and processes. What differs is told with what to type to see
it again; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.campaign import Episode
from tests.chaos.case import Case, by_kind
from tests.chaos.databases import Databases
from tests.chaos.faults import KINDS
from tests.chaos.kills import CAMPAIGN, Campaign
from tests.chaos.liars import omissions
from tests.chaos.machine import Differs, Machine
from tests.chaos.process import small_and_impatient
from tests.chaos.schedule import EPISODE as FAULTS
from tests.chaos.schedule import mode_of, some
from tests.chaos.truth import lost_and_doubled
from tests.support.postgres import own_postgres

EPISODE = 250  # steps on one chain and database
STEP_LIMIT = 120.0  # seconds
MOST_FAILURES = 5
SECONDS = ("detect_seconds_p50", "detect_seconds_max", "heal_seconds_p50", "heal_seconds_max")
BATCHES = ((3, 2, 4), (20, 7, 9), (50, 30, 200))  # logs projected, blocks staged, blocks chained at once


class Report:
    """What was done so far, and what went wrong."""

    def __init__(self, seed: int) -> None:
        self.seed, self.started, self._told = seed, time.monotonic(), 0.0
        self.steps, self.kills, self.inside, self.comparisons, self.reorgs, self.deepest = 0, 0, 0, 0, 0, 0
        self.lost, self.doubled = 0, 0
        self.lies, self.wrong, self.blamed = 0, 0, 0
        self.operations: Counter[str] = Counter()
        self.borne: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.missed: list[str] = []
        self.failures: list[dict[str, str]] = []
        self.faults: list[dict[str, Any]] = []  # each as it went
        self.cases: list[Case] = []
        self.rows = 0  # compared after faults

    def tell(self, now: bool = False) -> None:
        if now or time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            print(
                f"{self._told - self.started:6.0f} s: {self.steps} steps, {self.kills} kills ({self.inside} inside a"
                f" transaction), {self.reorgs} reorgs, {self.comparisons} comparisons, {len(self.failures)} failures",
                flush=True,
            )

    def fail(self, error: BaseException, where: str, replay: str) -> None:
        lost, doubled = lost_and_doubled(error.found) if isinstance(error, Differs) else (0, 0)
        self.lost, self.doubled = self.lost + lost, self.doubled + doubled
        text = str(error) if isinstance(error, Differs) else "".join(traceback.format_exception(error))
        again = f"python -m tests.chaos --seed {self.seed} {replay}"
        self.failures.append({"where": where, "replay": again, "error": text[-3000:]})
        print(f"FAILED at {where}, seed {self.seed}: {text}\nto see it again: {again}", flush=True)

    def killed(self, point: str, inside: bool) -> None:
        """One more; `inside` a transaction, at the armed point."""
        self.kills, self.inside = self.kills + 1, self.inside + inside
        self.points[point if inside else "at random"] += 1
        if point and not inside:
            self.missed.append(point)
        self.tell()

    def fault(self, case: Case) -> None:
        """One that was seen and is over."""
        signal, _ = min(case.seen.items(), key=lambda pair: pair[1])
        where = f" {case.place.endpoint}" if case.place.endpoint else ""
        print(
            f"{time.monotonic() - self.started:6.0f} s: fault {case.fault.number}, {case.fault.kind}{where}: seen after"
            f" {case.detect or 0:.1f} s by {signal}, healed after {case.heal or 0:.1f} s",
            flush=True,
        )

    def episode(self, one: Episode) -> None:
        """However it ended."""
        self.cases += one.cases
        self.faults += [case.as_json(self.started) | {"mode": one.mode} for case in one.cases]
        self.rows += one.rows
        self.saw(one)

    def saw(self, one: Machine | Campaign | Episode) -> None:
        self.comparisons += one.comparisons
        self.reorgs += one.reorgs
        self.deepest = max(self.deepest, one.deepest)

    def shown(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "steps": self.steps,
            "operations": dict(self.operations.most_common()),
            "errors_borne": dict(self.borne.most_common()),
            "kills": self.kills,
            "kills_inside_transaction": self.inside,
            "kills_by_point": dict(self.points.most_common()),
            "points_not_passed": self.missed,
            "reorgs": self.reorgs,
            "deepest": self.deepest,
            "comparisons": self.comparisons,
            "lost": self.lost,
            "doubled": self.doubled,
            "omissions": {"histories": self.lies, "logs_stored_wrong": self.wrong, "blamed_and_healed": self.blamed},
            "faults": {"by_kind": by_kind(self.cases), "rows_compared": self.rows, "schedule": self.faults},
            "commit": _git("rev-parse", "HEAD"),
            "modified": bool(_git("status", "--porcelain", "--", "indexer", "tests", "migrations")),
            "seconds": round(time.monotonic() - self.started, 1),
            "ok": not self.failures,
            "failures": self.failures,
        }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


async def _episode(databases: Databases, report: Report, number: int, steps: int) -> None:
    """Up to EPISODE steps on a fresh chain and database; ends with a comparison."""
    machine, step, name = Machine(databases, f"{report.seed}/{number}"), number * EPISODE, "open"
    replay = f"--from-step {step} --steps {steps} --kills 0 --lies 0 --faults 0"
    try:
        await machine.open()
        try:
            for _ in range(steps):
                name, numbers = machine.draw()
                name = f"{name} {numbers}"
                async with asyncio.timeout(STEP_LIMIT):
                    await machine.do(name.split()[0], numbers)
                step, report.steps = step + 1, report.steps + 1
                report.tell()
            await machine.quiesce()
        finally:
            await machine.close()
    except Exception as error:
        report.fail(error, f"step {step}, {name}", replay)
    report.saw(machine)
    report.operations.update(machine.done)
    report.borne.update(machine.process.errors)


def _steps(databases: Databases, report: Report, first: int, steps: int) -> None:
    number = first // EPISODE
    while report.steps < steps and len(report.failures) < MOST_FAILURES:
        before = report.steps
        with small_and_impatient(*random.Random(f"{report.seed}/{number}").choice(BATCHES)):
            asyncio.run(_episode(databases, report, number, min(EPISODE, steps - report.steps)))
        if report.steps == before and report.failures:
            break
        number += 1


def _kills(databases: Databases, report: Report, first: int, kills: int, folder: Path) -> None:
    number = first // CAMPAIGN
    while report.kills < kills and len(report.failures) < MOST_FAILURES:
        wanted = min(CAMPAIGN, kills - report.kills)
        campaign = Campaign(databases, f"{report.seed}/kills/{number}", folder, report.killed)
        try:
            campaign.run(wanted)
        except Exception as error:
            at = number * CAMPAIGN
            report.fail(
                error,
                f"kill {at + campaign.killed}",
                f"--steps 0 --from-kill {at} --kills {wanted} --lies 0 --faults 0",
            )
        report.saw(campaign)
        number += 1


def _lies(databases: Databases, report: Report, first: int, histories: int) -> None:
    for number in range(first, first + histories):
        try:
            wrong, blamed = asyncio.run(omissions(databases, f"{report.seed}/{number}"))
        except Exception as error:
            report.fail(error, f"history {number}", f"--steps 0 --kills 0 --from-lie {number} --lies 1 --faults 0")
            continue
        report.lies, report.wrong, report.blamed = report.lies + 1, report.wrong + wrong, report.blamed + blamed


def _faults(databases: Databases, report: Report, first: int, count: int, kinds: list[str], folder: Path) -> None:
    """From the beginning of the episode that the fault `first` is of."""
    number, last = first // FAULTS, first + count
    while number * FAULTS < last and len(report.failures) < MOST_FAILURES:
        at = number * FAULTS
        chosen = some(report.seed, at, min(FAULTS, last - at), kinds)
        seed = f"{report.seed}/faults/{number}"
        episode = Episode(databases, seed, mode_of(report.seed, number), chosen, folder, report.fault)
        print(f"{time.monotonic() - report.started:6.0f} s: faults {at} to {at + len(chosen) - 1}, {episode.mode}")
        try:
            asyncio.run(episode.run())
        except Exception as failed:
            error = first_of(failed)
            only = "".join(f" --kind {name!r}" for name in kinds)
            again = f"--steps 0 --kills 0 --lies 0 --from-fault {at} --faults {len(chosen)}{only}"
            where = next((f"fault {c.fault.number}, {c.fault.kind}" for c in episode.cases if not c.over), "the end")
            report.fail(error, f"faults from {at}: {where}", again)
        report.episode(episode)
        number += 1
    _told(by_kind(report.cases), report.rows)


def first_of(error: Exception) -> Exception:
    """Of those that happened at once, the first: the others followed from it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(figures: dict[str, dict[str, Any]], rows: int) -> None:
    """The figures for people."""
    if not figures:
        return
    print(f"{'fault':20} injected detected  detect p50   max   heal p50   max  (seconds)")
    for name, of in figures.items():
        took = [f"{of[key]:.1f}" if of[key] is not None else "-" for key in SECONDS]
        counts = f"{of['injected']:8} {of['detected']:8}"
        print(f"{name:20} {counts}  {took[0]:>10} {took[1]:>5}   {took[2]:>8} {took[3]:>5}")
    print(f"{rows:,} rows compared")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--from-step", type=int, default=0, help="begin with the chain that this step is of")
    parser.add_argument("--from-kill", type=int, default=0, help="begin with the chain that this kill is of")
    parser.add_argument("--lies", type=int, default=30, help="histories whose nodes leave logs out")
    parser.add_argument("--from-lie", type=int, default=0, help="begin with this history")
    parser.add_argument("--faults", type=int, default=40, help="faults of endpoints and PostgreSQL")
    parser.add_argument("--from-fault", type=int, default=0, help="begin with the chain that this fault is of")
    parser.add_argument("--kind", action="append", default=[], choices=sorted(KINDS), help="only these faults")
    parser.add_argument("--out", type=Path, help="where the report goes as JSON")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report(asked.seed)
    with own_postgres("chaos") as server:
        databases = Databases(server)
        _steps(databases, report, asked.from_step, asked.steps)
        _kills(databases, report, asked.from_kill, asked.kills, server.data_dir)
        _lies(databases, report, asked.from_lie, asked.lies)
        _faults(databases, report, asked.from_fault, asked.faults, asked.kind, server.data_dir)
    report.tell(now=True)
    shown = json.dumps(report.shown(), indent=2)
    if asked.out:
        asked.out.write_text(shown + "\n")
    print(shown)
    return 0 if not report.failures else 1


if __name__ == "__main__":
    sys.exit(main())
