"""`make chaos`: thousands of random steps against the engine in this process, then kills of the real daemon, then
histories whose nodes leave logs out, then faults of endpoints and PostgreSQL, each of which must be seen.

Everything follows from the seed but the timing of sockets and processes. What differs is told with what to type to see
it again; the exit code is then 1. `--part K/N` plays a part of a larger campaign, from a seed of its own; `python -m
tests.chaos.report` adds the parts up. SIGINT and SIGTERM end a run with what it did in its report, which then says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

from tests.chaos import liars, parts
from tests.chaos.campaign import Episode
from tests.chaos.case import by_kind
from tests.chaos.databases import Databases
from tests.chaos.faults import KINDS
from tests.chaos.kills import CAMPAIGN, Campaign
from tests.chaos.machine import Machine
from tests.chaos.parts import SHORT, WHOLE, Part, Totals
from tests.chaos.process import small_and_impatient
from tests.chaos.record import Record
from tests.chaos.schedule import EPISODE as FAULTS
from tests.chaos.schedule import mode_of, some
from tests.support.postgres import own_postgres

EPISODE = 250  # steps on one chain and database
STEP_LIMIT = 120.0  # seconds
MOST_FAILURES = 5
SECONDS = ("detect_seconds_p50", "detect_seconds_max", "heal_seconds_p50", "heal_seconds_max")
BATCHES = ((3, 2, 4), (20, 7, 9), (50, 30, 200))  # logs projected, blocks staged, blocks chained at once


async def _episode(databases: Databases, record: Record, number: int, steps: int) -> None:
    """Up to EPISODE steps on a fresh chain and database; ends with a comparison."""
    machine, step, name = Machine(databases, f"{record.seed}/{number}"), number * EPISODE, "open"
    replay = f"--from-step {step} --steps {steps} --kills 0 --lies 0 --faults 0"
    try:
        await machine.open()
        try:
            for _ in range(steps):
                name, numbers = machine.draw()
                name = f"{name} {numbers}"
                async with asyncio.timeout(STEP_LIMIT):
                    await machine.do(name.split()[0], numbers)
                record.go_on()
                step += 1
                record.stepped(name.split()[0])
            await machine.quiesce()
        finally:
            await machine.close()
    except Exception as error:
        record.fail(error, f"step {step}, {name}", replay)
    record.saw(machine)
    record.borne.update(machine.process.errors)


def _steps(databases: Databases, record: Record, first: int, steps: int) -> None:
    number = first // EPISODE
    while record.done.steps < steps and len(record.failures) < MOST_FAILURES:
        before = record.done.steps
        with small_and_impatient(*random.Random(f"{record.seed}/{number}").choice(BATCHES)):
            asyncio.run(_episode(databases, record, number, min(EPISODE, steps - before)))
        record.go_on()
        if record.done.steps == before and record.failures:
            break
        number += 1


def _kills(databases: Databases, record: Record, first: int, kills: int, folder: Path) -> None:
    number = first // CAMPAIGN
    while record.done.kills < kills and len(record.failures) < MOST_FAILURES:
        wanted = min(CAMPAIGN, kills - record.done.kills)
        campaign = Campaign(databases, f"{record.seed}/kills/{number}", folder, record.killed)
        try:
            campaign.run(wanted)
        except Exception as error:
            at = number * CAMPAIGN
            again = f"--steps 0 --from-kill {at} --kills {wanted} --lies 0 --faults 0"
            record.fail(error, f"kill {at + campaign.killed}", again)
        record.go_on()
        record.saw(campaign)
        number += 1


def _lies(databases: Databases, record: Record, first: int, count: int) -> None:
    """From the beginning of the history that the lie `first` is of."""
    number, last = first // liars.HISTORY, first + count
    while number * liars.HISTORY < last and len(record.failures) < MOST_FAILURES:
        at = number * liars.HISTORY
        lies = min(liars.HISTORY, last - at)
        try:
            wrong, blamed = asyncio.run(liars.omissions(databases, f"{record.seed}/{number}", lies, record.lied))
            record.wrong, record.blamed = record.wrong + wrong, record.blamed + blamed
        except Exception as error:
            again = f"--steps 0 --kills 0 --from-lie {at} --lies {lies} --faults 0"
            record.fail(error, f"lies from {at}", again)
        record.go_on()
        number += 1


def _faults(databases: Databases, record: Record, first: int, count: int, kinds: list[str], folder: Path) -> None:
    """From the beginning of the episode that the fault `first` is of."""
    number, last = first // FAULTS, first + count
    while number * FAULTS < last and len(record.failures) < MOST_FAILURES:
        at = number * FAULTS
        chosen = some(record.seed, at, min(FAULTS, last - at), kinds)
        seed = f"{record.seed}/faults/{number}"
        episode = Episode(databases, seed, mode_of(record.seed, number), chosen, folder, record.fault)
        print(f"{record.seconds:6.0f} s: faults {at} to {at + len(chosen) - 1}, {episode.mode}")
        try:
            asyncio.run(episode.run())
        except Exception as failed:
            error = first_of(failed)
            only = "".join(f" --kind {name!r}" for name in kinds)
            again = f"--steps 0 --kills 0 --lies 0 --from-fault {at} --faults {len(chosen)}{only}"
            where = next((f"fault {c.fault.number}, {c.fault.kind}" for c in episode.cases if not c.over), "the end")
            record.fail(error, f"faults from {at}: {where}", again)
        finally:
            record.episode(episode)
        record.go_on()
        number += 1
    _told(by_kind(record.cases), record.compared)


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


def _part(text: str) -> Part:
    try:
        return parts.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default="1", help="of the campaign, or of what is played again")
    parser.add_argument("--part", type=_part, metavar="K/N", help="the K-th of N parts of one campaign")
    whole = f"a campaign in parts has {WHOLE}, one in one go {SHORT}, unless told otherwise"
    parser.add_argument("--steps", type=int, help=f"random steps; {whole}")
    parser.add_argument("--kills", type=int, help="kills of the daemon")
    parser.add_argument("--lies", type=int, help="logs that a node leaves out or numbers wrongly, when it is asked")
    parser.add_argument("--faults", type=int, help="faults of endpoints and PostgreSQL")
    parser.add_argument("--from-step", type=int, default=0, help="begin with the chain that this step is of")
    parser.add_argument("--from-kill", type=int, default=0, help="begin with the chain that this kill is of")
    parser.add_argument("--from-lie", type=int, default=0, help="begin with the chain that this lie is of")
    parser.add_argument("--from-fault", type=int, default=0, help="begin with the chain that this fault is of")
    parser.add_argument("--kind", action="append", default=[], choices=sorted(KINDS), help="only these faults")
    parser.add_argument("--out", type=Path, help="a .json file for the report, or a folder of reports")
    return parser


def _record(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> Record:
    """What is to be played."""
    if not asked.seed or set(asked.seed) & set("/ "):
        parser.error("--seed: a number, or the seed of a part")
    usual = WHOLE if asked.part else SHORT
    chosen = [getattr(asked, name) for name in Totals._fields]
    totals = Totals(*(default if one is None else one for default, one in zip(usual, chosen, strict=True)))
    replay = bool(asked.from_step or asked.from_kill or asked.from_lie or asked.from_fault or asked.kind)
    if asked.part and replay:
        parser.error("--part: what is played again is played by its own seed, without --part")
    part = asked.part or Part()
    out = asked.out and parts.destination(asked.out, part, asked.seed)
    return Record(asked.seed, part, totals, out, replay=replay)


def _play(record: Record, asked: argparse.Namespace) -> None:
    of = record.asked
    print(f"seed {record.seed}, part {record.part} of {record.totals}: {of}", flush=True)
    record.save()
    with own_postgres("chaos") as server:
        databases = Databases(server)
        with record.stage("steps"):
            _steps(databases, record, asked.from_step, of.steps)
        with record.stage("kills"):
            _kills(databases, record, asked.from_kill, of.kills, server.data_dir)
        with record.stage("lies"):
            _lies(databases, record, asked.from_lie, of.lies)
        with record.stage("faults"):
            _faults(databases, record, asked.from_fault, of.faults, asked.kind, server.data_dir)


def main() -> int:
    parser = _parser()
    asked = parser.parse_args()
    record = _record(parser, asked)

    def interrupted(number: int, _: object) -> None:
        record.interrupted = signal.Signals(number).name
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise KeyboardInterrupt from None
        # Raised inside the loop it could interrupt the driver between a statement and its note of it.
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        _play(record, asked)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"interrupted by {record.interrupted}", flush=True)
    except Exception as error:
        record.fail(error, "the campaign itself", "")
    finally:
        record.end()
    record.tell(now=True)
    print(json.dumps(record.shown(), indent=2))
    if record.interrupted:
        return 128 + signal.Signals[record.interrupted]
    return 0 if record.ok else 1


if __name__ == "__main__":
    sys.exit(main())
