"""What a kind of fault is: where it is put, how long it lasts, and which signals of the daemon tell of it.

A fault of an endpoint is met by the first request that it spoils; how long it took to be seen counts from there. Its
signals name that endpoint, so that two faults at once are told apart.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from indexer.embedded_pg.server import EmbeddedServer
from tests.chaos.faultynode import FaultyNode
from tests.chaos.growing import Growing
from tests.chaos.signals import POLLING, UNREAD, Signal, aside, grew, incident, journal, waits

TIMEOUT = 3  # seconds that the daemon of a campaign gives a request
# A standby is looked at every 15 seconds, a socket is left when it was silent for 20, a lock asked about after 20.
BRIEF, PROBED, MUTE, LOCK = (1.0, 5.0), (17.0, 19.0), (24.0, 28.0), (26.0, 29.0)
SILENT = (33.0, 36.0)  # a server that does not answer for so long is left for a new connection
REREAD = (4.0, 7.0)  # logs that a header announces are looked for again for two seconds, in silence
LATE = (TIMEOUT + 1.0, TIMEOUT + 5.0)  # an answer that comes in time is no fault

LOGS = b"eth_getLogs"

Where = Literal["endpoint", "all", "database"]


@dataclass
class Place:
    """Where a fault is: `node` for one of an endpoint, `url` of the database and whether its disk is `small`. `rng` is
    the fault's own. `false`: hashes that no block has. `met`: when somebody met it,
    or when one that is no endpoint's began."""

    net: Growing
    server: EmbeddedServer
    url: str
    rng: random.Random
    addresses: frozenset[str]
    small: bool = False
    node: FaultyNode | None = None
    false: set[str] = field(default_factory=set)
    met: float | None = None

    @property
    def met_at(self) -> float | None:
        """When somebody met the fault, monotonic seconds; None before. The node forgets it with its next fault."""
        if self.met is None and self.node is not None:
            self.met = self.node.met_at
        return self.met

    @property
    def endpoint(self) -> str:
        return self.node.url if self.node else ""

    @property
    def faulty(self) -> FaultyNode:
        assert self.node is not None
        return self.node


Acts = Callable[[Place], AbstractAsyncContextManager[None]]


class Kind(NamedTuple):
    """`seconds`: how long it lasts from when it was met, at the endpoint that is asked first, or anywhere else.
    `stands_by`: may also befall an endpoint that is not asked first. `outlives`: what it did is found out after it.
    `seldom`: how long one in three of them lasts instead."""

    name: str
    where: Where
    acts: Acts
    tells: Callable[[Place], Sequence[Signal]]
    seconds: tuple[float, float] = BRIEF
    stands_by: bool = True
    outlives: bool = False
    seldom: tuple[float, float] | None = None

    @property
    def fails_over(self) -> bool:
        """Whether what it befalls has a substitute that is well: progress need not wait for its end."""
        return (self.where == "endpoint" and self.name != "wrong block hashes") or self.name == "mute WebSocket"


KINDS: dict[str, Kind] = {}


def kind(
    name: str, where: Where, tells: Callable[[Place], Sequence[Signal]], seconds: tuple[float, float] = BRIEF,
    *, stands_by: bool = True, outlives: bool = False, seldom: tuple[float, float] | None = None,
) -> Callable[[Callable[[Place], AsyncIterator[None]]], Acts]:  # fmt: skip
    """Enters a function into KINDS."""

    def enter(call: Callable[[Place], AsyncIterator[None]]) -> Acts:
        acts = contextlib.asynccontextmanager(call)
        KINDS[name] = Kind(name, where, acts, tells, seconds, stands_by, outlives, seldom)
        return acts

    return enter


# -- what tells of them


def unanswered(place: Place) -> Sequence[Signal]:
    """Requests without a usable answer."""
    return (grew("endpoint_failures_total", endpoint=place.endpoint),)


def limited(place: Place) -> Sequence[Signal]:
    return (grew("endpoint_limited_total", endpoint=place.endpoint),)


def oversized(place: Place) -> Sequence[Signal]:
    return (grew("rpc_calls_total", endpoint=place.endpoint, outcome="RangeTooLarge"), *unanswered(place))


def contradicts(place: Place) -> Sequence[Signal]:
    """What it serves does not fit its own headers, or those of others."""
    return (
        grew("endpoint_failed_work_total", endpoint=place.endpoint, **{"class": "Inconsistent"}),
        aside(place.endpoint, "contradicting"),
    )


def lags(place: Place) -> Sequence[Signal]:
    return (aside(place.endpoint, "lagging"), grew("head_regressions_total"))


def other_chain(place: Place) -> Sequence[Signal]:
    return (aside(place.endpoint, "wrong chain"),)


def omits(place: Place) -> Sequence[Signal]:
    """Found by a proof; or at once, where a header announces logs and none came."""
    return (
        grew("attest_faults_total", endpoint=place.endpoint),
        grew("endpoint_omissions_total", endpoint=place.endpoint),
        incident("endpoint_wrong", place.endpoint),
    )


def lies(place: Place) -> Sequence[Signal]:
    """Blocks that never were: taken back when an endpoint tells the truth."""

    def is_false(entry: dict[str, Any]) -> bool:
        return entry["new_tip_hash"] in place.false or entry["old_tip_hash"] in place.false

    return (journal(is_false, "blocks of a false hash came and went"), *contradicts(place))


def silent_socket(place: Place) -> Sequence[Signal]:
    return (POLLING, grew("found_stuck_total", name="websocket"), waits("websocket"))


def nobody(place: Place) -> Sequence[Signal]:
    """A short one is overcome by trying again, before it is a wait. It is alone: no other failure is counted."""
    waited = (grew("waits_total", name="an endpoint that answers"), waits("an endpoint that answers"))
    return (grew("endpoint_failures_total"), *waited)


def trouble(place: Place) -> Sequence[Signal]:
    return (grew("waits_total", name="the database"), waits("the database"), UNREAD)


def paused_database(place: Place) -> Sequence[Signal]:
    return (*trouble(place), grew("found_stuck_total", name="statement"))


def full_database(place: Place) -> Sequence[Signal]:
    return (waits("the database: out of disk"),)


def locked_table(place: Place) -> Sequence[Signal]:
    return (grew("found_stuck_total", name="lock"), waits("lock"))
