"""Which faults there are, when and for how long: all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from tests.chaos.faults import KINDS
from tests.chaos.kinds import PROBED

EPISODE = 8  # faults of one chain and database
Mode = Literal["run", "backfill first", "backfill beside"]
MODES: tuple[Mode, ...] = ("run", "backfill first", "backfill beside")
# What a backfill that follows no head may meet, and tells of without an HTTP port.
OF_BACKFILL = (
    "429", "hang", "HTML", "truncated body", "closed socket", "refused", "blackout", "database killed",
    "database restarted",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """The `number`th of its seed. It begins `pause` seconds after the one before it did, or later, when as many are
    under way as may be, and lasts `seconds` from when it is met. `standby`: at an endpoint that is not asked first.
    `alone`: no other begins before its end. `of_backfill`: while a backfill runs, before there is a daemon."""

    number: int
    kind: str
    pause: float
    seconds: float
    standby: bool
    alone: bool
    of_backfill: bool
    seed: str

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "seed"}


def mode_of(seed: int | str, episode: int) -> Mode:
    return random.Random(f"{seed}/faults/mode/{episode}").choices(MODES, (3, 2, 2))[0]


def faults(seed: int | str, kinds: Collection[str] = (), episode: int = EPISODE) -> Iterator[Fault]:
    """Without an end. Each kind comes once before any comes again. `kinds`: only these."""
    rng = random.Random(f"{seed}/faults")
    names = sorted(kinds or KINDS)
    deck: list[str] = []
    number = 0
    while True:
        first = number % episode == 0 and mode_of(seed, number // episode) == "backfill first"
        allowed = [name for name in names if name in OF_BACKFILL] if first else names
        if not any(name in allowed for name in deck):
            deck += rng.sample(names, len(names))
        name = next(one for one in deck if one in allowed)
        deck.remove(name)
        yield _drawn(rng, number, name, first, f"{seed}/fault/{number}")
        number += 1


def _drawn(rng: random.Random, number: int, name: str, of_backfill: bool, seed: str) -> Fault:
    kind = KINDS[name]
    standby = kind.where == "endpoint" and kind.stands_by and rng.random() < 0.4 and not of_backfill
    usual = kind.seconds if kind.seldom is None or rng.random() < 2 / 3 else kind.seldom
    low, high = PROBED if standby else usual
    alone = kind.where != "endpoint" and (rng.random() < 0.6 or name == "blackout")
    return Fault(
        number, name, round(rng.uniform(0.2, 3), 2), round(rng.uniform(low, high), 2), standby, alone, of_backfill, seed
    )


def some(seed: int | str, first: int, count: int, kinds: Collection[str] = ()) -> list[Fault]:
    return list(islice(faults(seed, kinds), first, first + count))
