"""The faults: what each does while its context is open."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from tests.chaos import pgfaults
from tests.chaos.faultynode import HTML, FaultyNode, Spoil, closed, held_back, huge, say, swollen, truncated
from tests.chaos.kinds import (
    BRIEF,
    KINDS,
    LATE,
    LOCK,
    LOGS,
    MUTE,
    PROBED,
    REREAD,
    SILENT,
    TIMEOUT,
    Place,
    contradicts,
    full_database,
    kind,
    lags,
    lies,
    limited,
    locked_table,
    nobody,
    omits,
    other_chain,
    oversized,
    paused_database,
    silent_socket,
    trouble,
    unanswered,
)
from tests.chaos.signals import Signal
from tests.support.simchain.chain import Block
from tests.support.simchain.node import Say
from tests.support.simchain.view import Json

__all__ = ["KINDS"]  # full once this is imported

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
