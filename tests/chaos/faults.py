"""The faults: what each does while its context is open, and which signals of the daemon tell of it.

A fault of an endpoint is met by the first request that it spoils; how long it took to be seen counts from there. Its
signals name that endpoint, so that two faults at once are told apart.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from indexer.pg.server import EmbeddedServer
from tests.chaos import pgfaults
from tests.chaos.faultynode import HTML, FaultyNode, Spoil, closed, held_back, huge, say, swollen, truncated
from tests.chaos.growing import Growing
from tests.chaos.signals import POLLING, UNREAD, Signal, aside, grew, incident, journal, waits
from tests.simchain.chain import Block
from tests.simchain.node import Say
from tests.simchain.view import Json

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


# -- endpoints that give no answer to be used


def spoilt(
    name: str, tells: Callable[[Place], Sequence[Signal]], make: Callable[[Place], Spoil],
    seconds: tuple[float, float] = BRIEF,
) -> None:  # fmt: skip
    """A kind whose answers `make` gives."""

    async def acts(place: Place) -> AsyncIterator[None]:
        place.faulty.spoil = make(place)
        try:
            yield
        finally:
            place.faulty.spoil = None

    kind(name, "endpoint", tells, seconds)(acts)


def _too_many(place: Place) -> Spoil:
    body = '{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Too Many Requests"}}'
    return say(Say(429, body, {"Retry-After": str(place.rng.randint(1, 3))} if place.rng.random() < 0.5 else {}))


def _html(place: Place) -> Spoil:
    return say(Say(place.rng.choice((200, 502)), HTML, {"Content-Type": "text/html"}))


spoilt("429", limited, _too_many)
spoilt("hang", unanswered, lambda place: held_back(TIMEOUT + place.rng.uniform(1, 3)), LATE)
spoilt("HTML", unanswered, _html)
spoilt("huge body", oversized, lambda place: place.rng.choice((huge, swollen)))
spoilt("truncated body", unanswered, lambda place: truncated)
spoilt("closed socket", unanswered, lambda place: closed)


@kind("refused", "endpoint", unanswered)
async def refused(place: Place) -> AsyncIterator[None]:
    """Nobody listens on the port."""
    place.faulty.down()
    place.faulty.meet()
    try:
        yield
    finally:
        place.faulty.up()


@kind("mute", "endpoint", unanswered, LATE)
async def mute(place: Place) -> AsyncIterator[None]:
    """Neither an answer nor a head for as long as it lasts; connections stay open."""
    node = place.faulty
    node.spoil, node.mute = held_back(3600), True
    try:
        yield
    finally:
        node.spoil, node.mute = None, False


@kind("mute WebSocket", "all", silent_socket, MUTE)
async def mute_websocket(place: Place) -> AsyncIterator[None]:
    """No socket announces heads any more; none closes."""
    for node in place.net.nodes:
        node.mute = True
    try:
        yield
    finally:
        for node in place.net.nodes:
            node.mute = False


@kind("blackout", "all", nobody)
async def blackout(place: Place) -> AsyncIterator[None]:
    """Every endpoint closes every connection without an answer."""
    for node in place.net.nodes:
        node.offline = True
    try:
        yield
    finally:
        for node in place.net.nodes:
            node.offline = False


# -- endpoints that answer wrongly


@contextlib.contextmanager
def _watched(node: FaultyNode, word: bytes = b"") -> Any:
    node.watched = word
    try:
        yield
    finally:
        node.watched = None


@kind("lag", "endpoint", lags)
async def lag(place: Place) -> AsyncIterator[None]:
    with _watched(place.faulty):
        place.net.lag(place.net.nodes.index(place.faulty), place.rng.randint(24, 60))
        try:
            yield
        finally:
            place.net.lag(place.net.nodes.index(place.faulty), 0)


@kind("other chain id", "endpoint", other_chain, PROBED)
async def other_chain_id(place: Place) -> AsyncIterator[None]:
    """Behind the same name, and half of the time behind the same connections, is another chain."""
    node, own = place.faulty, place.faulty.chain_id
    restarts = place.rng.random() < 0.5
    if restarts:
        node.down()
    node.chain_id = own + 1
    if restarts:
        node.up()
    with _watched(node):
        try:
            yield
        finally:
            node.chain_id = own


@kind("torn reads", "endpoint", contradicts, REREAD, stands_by=False)
async def torn_reads(place: Place) -> AsyncIterator[None]:
    """Logs of a fork that was left, under headers of the one that was taken."""
    node, net = place.faulty, place.net
    with _watched(node, LOGS):
        before = net.fork_now(place.rng.randint(3, 8))
        node.torn = before.hash
        net.show(before)
        try:
            yield
        finally:
            node.torn = None


@kind("wrong block hashes", "endpoint", lies, (2.0, 5.0), stands_by=False)
async def wrong_hashes(place: Place) -> AsyncIterator[None]:
    """Of blocks that are not final: in logs only, or in headers and logs alike, each header naming its false parent."""
    node, net = place.faulty, place.net
    base, headers = net.tip.number - 3, place.rng.random() < 0.6

    def lie(told: str) -> str:
        made = "0x" + bytes(b ^ 0x5A for b in bytes.fromhex(told[2:])).hex()
        place.false.add(made)
        return made

    def header(told: Json) -> Json:
        number = int(told["number"], 16)
        changed = {"hash": lie(told["hash"])} if number > base else {}
        return told | changed | ({"parentHash": lie(told["parentHash"])} if number > base + 1 else {})

    def logs(told: list[Json]) -> list[Json]:
        return [g | {"blockHash": lie(g["blockHash"])} if int(g["blockNumber"], 16) > base else g for g in told]

    net.held, net.pinned = net.held + 1, max(net.pinned, base)
    node.patch_logs, node.patch_header = logs, header if headers else None
    try:
        with _watched(node, LOGS):
            yield
    finally:
        node.patch_logs = node.patch_header = None
        net.held -= 1


@kind("late logs", "endpoint", contradicts, REREAD, stands_by=False)
async def late_logs(place: Place) -> AsyncIterator[None]:
    """The index that logs are found by is behind the headers."""
    node = place.faulty
    node.log_lag = place.rng.randint(14, 20)  # three seconds and more: less is waited out, in silence
    try:
        with _watched(node, LOGS):
            yield
    finally:
        node.log_lag = 0


@kind("omitted logs", "endpoint", omits, (1.0, 3.0), stands_by=False, outlives=True)
async def omitted_logs(place: Place) -> AsyncIterator[None]:
    """Of new blocks some logs are left out, never all of a block's: what is stored looks whole until it is proven."""
    node, net, rng = place.faulty, place.net, place.rng

    def choose(fresh: Sequence[Block]) -> None:
        for block in fresh:
            ours = [index for index, *_, log in block if log.address in place.addresses]
            if len(ours) > 1:
                left_out = rng.sample(ours, rng.randint(1, min(3, len(ours) - 1)))
                node.omit |= {(block.hash, index) for index in left_out}
                net.pinned = max(net.pinned, block.number)

    net.unseen.append(choose)
    try:
        yield
    finally:
        net.unseen.remove(choose)
        node.omit = set()


# -- the database


@kind("database killed", "database", trouble)
async def database_killed(place: Place) -> AsyncIterator[None]:
    async with pgfaults.killed(place.server, everyone=place.rng.random() < 0.5):
        yield


@kind("database restarted", "database", trouble)
async def database_restarted(place: Place) -> AsyncIterator[None]:
    async with pgfaults.away(place.server):
        yield


@kind("database paused", "database", paused_database, (4.0, 9.0), seldom=SILENT)
async def database_paused(place: Place) -> AsyncIterator[None]:
    with pgfaults.paused(place.server):
        yield


@kind("database locked", "database", locked_table, LOCK)
async def database_locked(place: Place) -> AsyncIterator[None]:
    async with pgfaults.locked(place.url, place.rng.choice(("indexer.raw_log", "public.orders"))):
        yield


@kind("database filled", "database", full_database, (2.0, 5.0))
async def database_filled(place: Place) -> AsyncIterator[None]:
    """Blocks come faster, until what is free inside the tables' pages is used."""
    faults = pgfaults.filled(place.url) if place.small else pgfaults.refusing(place.url, "indexer.raw_log")
    async with faults:
        place.met, place.net.hurry = time.monotonic(), 12
        try:
            yield
        finally:
            place.net.hurry = 0
