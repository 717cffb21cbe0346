"""A few faults of endpoints and PostgreSQL, as `make chaos` plays them by the dozen; and how the schedule is drawn."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from indexer.embedded_pg.server import EmbeddedServer
from tests.chaos import campaign
from tests.chaos import case as cases
from tests.chaos.campaign import Episode
from tests.chaos.case import Case, Unseen, by_kind
from tests.chaos.databases import Databases
from tests.chaos.faults import KINDS
from tests.chaos.kinds import Kind, Place
from tests.chaos.schedule import EPISODE, OF_BACKFILL, Fault, mode_of, some
from tests.chaos.signals import Look, Signal
from tests.chaos.soak import Sample, judged
from tests.support.postgres import own_postgres
from tests.support.waiting import eventually

QUICK = ("429", "HTML", "blackout", "database killed")


@pytest.fixture
def own() -> Iterator[EmbeddedServer]:
    """A PostgreSQL that may be killed."""
    with own_postgres("faults") as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon on a busy machine may ask for nothing within a second, and its nodes answer late: a fault lasts until it
    was seen, and only a fault is one."""
    hold = Case._hold

    async def until_seen(self: Case) -> None:
        await hold(self)
        await self._until(lambda: bool(self.seen), cases.HEAL)

    monkeypatch.setattr(Case, "_hold", until_seen)
    monkeypatch.setattr(campaign, "TIMEOUT", 60)


async def test_each_fault_is_seen_and_the_database_is_the_chain(
    own: EmbeddedServer, tmp_path: Path, patient: None
) -> None:
    faults = [one for one in some("suite", 0, 40, QUICK) if not one.standby and not one.of_backfill]
    chosen = [replace(one, pause=0.1, seconds=1.0, alone=True) for one in {one.kind: one for one in faults}.values()]
    told: list[Case] = []
    episode = Episode(Databases(own), "suite", "run", chosen, tmp_path, told.append, proven=False)
    await episode.run()
    assert {case.fault.kind for case in told} == set(QUICK)
    assert all(case.detect is not None and case.heal is not None for case in told)
    assert by_kind(told)["all"]["detected"] == len(QUICK)
    assert (episode.comparisons, episode.rows > 1000) == (1, True)


class Dumb:
    """A process that gets on and shows nothing."""

    @property
    def last(self) -> Look:
        return Look(time.monotonic(), {"block": [({"kind": "projected"}, 9.0)]})

    def goal(self, place: Place) -> int:
        return 9


@pytest.mark.parametrize("shows", [False, True])
async def test_a_fault_that_nothing_tells_of_is_a_failure(shows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(place: Place) -> AsyncIterator[None]:
        yield

    monkeypatch.setitem(KINDS, "nothing", Kind("nothing", "all", asynccontextmanager(nothing), lambda place: ()))
    fault = Fault(0, "nothing", 0.0, 0.1, False, False, False, "seed")
    place = Place(cast(Any, None), cast(Any, None), "", random.Random(0), frozenset())
    case = Case(fault, place)

    async def healed(reached: Callable[[], bool], seconds: float) -> None:
        await eventually(lambda: reached() or case.healed is not None, "progress")

    monkeypatch.setattr(case, "_until", healed)  # nothing would come of waiting longer
    with nullcontext() if shows else pytest.raises(Unseen, match="nothing told of it"):
        await case.play(Dumb(), [Signal("a signal", lambda before, now: shows)])
    assert (case.detect is not None, case.heal is not None) == (shows, True)


def test_the_schedule_follows_from_the_seed_and_has_every_kind() -> None:
    drawn = some(7, 0, 3 * len(KINDS))
    assert drawn == some(7, 0, 3 * len(KINDS)) != some(8, 0, 3 * len(KINDS))
    assert drawn[EPISODE : 2 * EPISODE] == some(7, EPISODE, EPISODE)
    counts = Counter(fault.kind for fault in drawn)
    assert set(counts) == set(KINDS) and max(counts.values()) <= 4
    for fault in drawn:
        first = fault.number % EPISODE == 0 and mode_of(7, fault.number // EPISODE) == "backfill first"
        assert fault.of_backfill == first and (not first or fault.kind in OF_BACKFILL)


@pytest.mark.parametrize(
    ("rss", "fds", "lag", "grew"),
    [(9.0, 2, 2.0, []), (12.0, 2, 0.0, ["memory"]), (0.0, 3, 0.0, ["file descriptors"]), (0.0, 0, 9.0, ["lag"])],
)
def test_what_grows_in_a_soak_is_a_failure(rss: float, fds: int, lag: float, grew: list[str]) -> None:
    """Of 200 MB five percent are 10; the warm-up counts for nothing."""
    samples = [Sample(float(at), 500.0, 20, 1, 0.0) for at in range(25)]
    samples += [Sample(float(at), 200.0, 20, 1, 0.0) for at in range(25, 60)]
    samples += [Sample(float(at), 200.0 + rss, 20 + fds, 1, lag) for at in range(60, 100)]
    _, failures = judged(samples, 25.0)
    assert [one.partition(" grew")[0].partition(" (")[0] for one in failures] == grew
