"""One fault from its beginning until it was seen and progress is back: what was seen of it, and how long that took."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from indexer.runtime.tasks import cancel_and_wait
from tests.chaos.faults import KINDS
from tests.chaos.kinds import Place
from tests.chaos.schedule import Fault
from tests.chaos.signals import Look, Signal
from tests.support.waiting import PATIENCE

MEET = PATIENCE  # seconds until somebody must have met it
HEAL = PATIENCE  # seconds from its end until it must have been seen, and progress be back
FILLING = PATIENCE  # seconds until the last free page of a full disk is used


class Unseen(AssertionError):
    """A fault that nothing told of, or after which nothing went on."""


class Watched(Protocol):
    """A process that shows what it is doing: the newest `last` look at it, and the block that it should have projected
    when it gets on."""

    @property
    def last(self) -> Look: ...

    def goal(self, place: Place) -> int: ...


class Case:
    """A fault at a place. Times are monotonic seconds; `seen`: by signal, when it was shown first; `seconds`: how long
    it lasts from when it is met."""

    def __init__(self, fault: Fault, place: Place) -> None:
        self.fault, self.place, self.kind = fault, place, KINDS[fault.kind]
        self.seconds, self.began = fault.seconds, 0.0
        self.ended: float | None = None
        self.healed: float | None = None
        self.seen: dict[str, float] = {}
        self.beside: list[str] = []  # kinds that were under way when it began
        self._goal: tuple[float, int] | None = None  # since when, and what block, progress is waited for

    @property
    def detect(self) -> float | None:
        """Seconds until the first signal, from when the fault was met."""
        met = self.place.met_at
        return None if met is None or not self.seen else max(0.0, min(self.seen.values()) - met)

    @property
    def heal(self) -> float | None:
        """Seconds until progress was back: from when the fault was met, where another endpoint takes over; else from
        its end."""
        return None if self.healed is None or self._goal is None else max(0.0, self.healed - self._goal[0])

    @property
    def over(self) -> bool:
        return self.healed is not None and bool(self.seen)

    async def play(
        self, watched: Watched, tells: Sequence[Signal], freed: Callable[[], None] = lambda: None
    ) -> None:  # fmt: skip
        """The fault, then its aftermath. `freed`: its place is well again. Raises Unseen."""
        before, self.began = watched.last, time.monotonic()
        if self.place.node is not None:
            self.place.node.met_at = None
        watching = asyncio.create_task(self._watch(watched, before, tells))
        try:
            async with self.kind.acts(self.place):
                if self.place.node is None and self.place.met is None:
                    self.place.met = self.began
                await self._hold()
            self.ended = time.monotonic()
            if self.kind.outlives:
                freed()
            await self._until(lambda: self.over, HEAL)
        finally:
            broken = watching.done()
            await cancel_and_wait(watching)
        if broken:
            watching.result()
        if self.place.met_at is None:
            raise Unseen(f"nobody met {self.fault.kind} at {self.place.endpoint} within {MEET:.0f} seconds")
        if not self.seen:
            raise Unseen(f"{self.fault.kind} {self.place.endpoint}: nothing told of it: {[s.name for s in tells]}")
        if self.healed is None:
            raise Unseen(f"{self.fault.kind} {self.place.endpoint}: block {self._goal} is not projected")

    async def _hold(self) -> None:
        """For as long as the fault lasts."""
        await self._until(lambda: self.place.met_at is not None, MEET)
        if (met := self.place.met_at) is not None:
            await asyncio.sleep(max(0.0, met + self.seconds - time.monotonic()))
        if self.fault.kind == "database filled":
            await self._until(lambda: bool(self.seen), FILLING)

    async def _until(self, reached: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not reached() and time.monotonic() < until:  # noqa: ASYNC110 - looks of other tasks
            await asyncio.sleep(0.02)

    async def _watch(self, watched: Watched, before: Look, tells: Sequence[Signal]) -> None:
        while True:
            look = watched.last
            for signal in tells:
                if signal.name not in self.seen and signal.shows(before, look):
                    self.seen[signal.name] = look.at
            if self._goal is None:
                self._goal = self._from(watched)
            elif self.healed is None and look.at > self._goal[0] and self._well(look, self._goal[1]):
                self.healed = look.at
            await asyncio.sleep(0.05)

    def _from(self, watched: Watched) -> tuple[float, int] | None:
        """From when progress is waited for, and to which block; None as long as that is not known."""
        since = self.place.met_at if self.kind.fails_over else self.ended
        return None if since is None else (since, watched.goal(self.place))

    def _well(self, look: Look, goal: int) -> bool:
        if self.kind.outlives:
            proven = look.total("attested_newest_block", grade="proven")
            return self.ended is not None and bool(self.seen) and proven >= self.place.net.pinned
        if self.kind.name == "wrong block hashes":
            number = look.status.get("projected") or -1
            return number >= goal and self.place.net.canonical(number, look.status["projected_hash"])
        return look.projected >= goal

    def as_json(self, began: float) -> dict[str, Any]:
        """`began`: of the run, for times in seconds from there."""

        def since(at: float | None) -> float | None:
            return None if at is None else round(at - began, 2)

        met = self.place.met_at
        shown = {name: round(max(0.0, at - (met or at)), 2) for name, at in sorted(self.seen.items(), key=_time)}
        return self.fault.as_json() | {
            "at": since(self.began),
            "met": since(met),
            "ended": since(self.ended),
            "endpoint": self.place.endpoint,
            "beside": self.beside,
            "seen_by": shown,
            "detect_seconds": None if self.detect is None else round(self.detect, 2),
            "heal_seconds": None if self.heal is None else round(self.heal, 2),
        }


def _time(pair: tuple[str, float]) -> float:
    return pair[1]


def by_kind(cases: Iterable[Case]) -> dict[str, dict[str, Any]]:
    """Injected, seen, and seconds to see and to heal, by kind and in all."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.fault.kind].append(case)
        groups["all"].append(case)
    return {name: _figures(groups[name]) for name in sorted(groups, key=lambda name: (name == "all", name))}


def _figures(cases: Sequence[Case]) -> dict[str, Any]:
    found: dict[str, Any] = {"injected": len(cases), "detected": sum(case.detect is not None for case in cases)}
    for what in ("detect", "heal"):
        seconds = [took for case in cases if (took := getattr(case, what)) is not None]
        found[f"{what}_seconds_p50"] = round(statistics.median(seconds), 2) if seconds else None
        found[f"{what}_seconds_max"] = round(max(seconds), 2) if seconds else None
    found["healed"] = sum(case.heal is not None for case in cases)
    return found
