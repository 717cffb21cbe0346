"""The gallery: every provider of `tests/support/simchain/providers.py` alone carries the daemon through a play.

Backfill of the final part, the head block by block and in a leap, a reorg, attestation of what became final. At the
end the rows are those of the chain, what could not be proven is told, no wait was without a name, and the number of
requests has a bound, so that no question is asked for ever.

A play needs no sockets: the node answers in this process, statuses, headers and pages as they are. Over HTTP is played
as well what is about HTTP itself: statuses other than 200, pages of gateways, requests that are too large, and
connections that are closed instead of an answer. Only over HTTP is played what closes connections after an answer
(`ClosesConnections`): each new one has the chain id checked again, and a transport without connections cannot show it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple

import pytest

from indexer.attest import auditor as auditors
from indexer.follow import action_executor, runner
from indexer.rpc import rate_limit
from indexer.rpc.transport import HttpTransport
from indexer.store import lease
from tests.scenarios.harness import CHAIN_ID, DEVNET, Daemon, Stage
from tests.support.inprocess import in_process
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.habits import WINDOW_S, ClosesConnections, ProviderNode, Rate
from tests.support.simchain.providers import PROVIDERS, Provider
from tests.support.simchain.view import Depth
from tests.support.simchain.world import Exchange, exchange

DEPTH = 40  # blocks of the chain that are not final
HEAD = 240
STEPS = 6  # blocks that are followed one by one
LEAP = DEPTH + 2  # more than the depth: a tag that equals the head all that time is disbelieved
REORG, REPLACED = 4, 6  # blocks that are orphaned, and those in their place
Way = Literal["in process", "over HTTP"]
IDLE = 20  # looks in a row that change nothing before the daemon is said to stand


class Course(NamedTuple):
    """The chain of the play, which all providers share."""

    tree: Tree
    world: Exchange
    start: Block
    orphaned: Block
    replacement: Block
    end: Block


@cache
def course() -> Course:
    rng = random.Random("providers")
    tree = Tree()
    world = exchange(tree)
    start = world.grow(tree.genesis.hash, HEAD, rng, 0.5)
    orphaned = world.grow(start.hash, STEPS + LEAP, rng, 0.7)
    replacement = world.fork(orphaned.hash, REORG, REPLACED, rng, 2.0, salt=b"replacement")
    return Course(tree, world, start, orphaned, replacement, world.grow(replacement.hash, DEPTH + 4, rng, 0.3))


class Gallery(Stage):
    """A stage with one node, behind a provider's habits."""

    def __init__(self, url: str, provider: Provider, way: Way) -> None:
        made = course()
        self.url, self.tree, self.world, self.main = url, made.tree, made.world, made.start
        self.provider = provider
        self.node = ProviderNode(provider.habits, made.tree, made.start.hash, CHAIN_ID)
        self.nodes = [self.node]
        self.transport = HttpTransport if way == "over HTTP" else in_process(self.node)
        self.daemons = []

    async def play(self, **limits: int) -> Daemon:
        """A daemon that has not looked yet."""
        deployment = replace(DEVNET, finality_depth=DEPTH)
        daemon = Daemon(self.url, self.nodes, deployment, self.transport, **limits)
        self.daemons.append(daemon)
        await daemon.open()
        return daemon

    async def follow(self, daemon: Daemon, tip: Block) -> None:
        """Shows a head and looks until the rows are those of its chain."""
        self.node.head = tip.hash
        await self.until(daemon, tip)

    async def until(self, daemon: Daemon, tip: Block) -> None:
        """Looks until this block is the checkpoint and nothing is left to do."""
        idle, before = 0, self.position(daemon)
        while True:
            worked, p = await daemon.poll(), daemon.progress
            if not worked and not p.waiting and await self.checkpoint() == (tip.number, tip.hash):
                return
            now = self.position(daemon)
            idle = 0 if now != before else idle + 1
            before = now
            # A look that was told of this head and got nowhere has a name for what it waits for.
            assert idle == 0 or p.waiting or p.head != tip.number or worked, "a wait without a name"
            self.bounded(f"block {tip.number}: {p.waiting or 'no wait'}")
            assert idle < IDLE, f"stands at {now}, before block {tip.number}: {p.waiting or 'no wait'}"

    def position(self, daemon: Daemon) -> tuple[Any, ...]:
        """What changes as long as something goes on, be it only that less is asked for at once."""
        reader, p = daemon.pool.readers[0], daemon.progress
        return p.head, p.ingested, p.projected, reader.ranges.size, reader.endpoint.lengths.size

    def bounded(self, why: str) -> None:
        node = self.node
        assert not node.broken, f"the stub is broken: {node.broken[:2]}"
        asked = dict(node.requests.most_common(4))
        assert node.http_requests <= self.provider.requests, (
            f"{node.http_requests} HTTP requests, {node.refused} refusals, {asked}, for {why}"
        )

    async def checkpoint(self) -> tuple[int, bytes] | None:
        rows = await self.fetch("SELECT number, hash FROM indexer.checkpoint")
        return (rows[0][0], rows[0][1]) if rows else None

    async def attest(self, daemon: Daemon) -> str:
        """Turns of the auditor, and looks where it needs the lease for a heal, until nothing is left to attest; its
        state then."""
        auditor = daemon.auditor(self.nodes)
        idle, before = 0, (0, 0)
        while True:
            turn = asyncio.create_task(auditor.run_once())
            while not turn.done():
                if await lease.wanted_by(daemon.conn):
                    await daemon.poll()
                await asyncio.sleep(0.005)
            state = auditor.gauges.state
            # Where nothing is ever final, attestation stands by for good, and says so.
            waits = ("waits", "stands by") if self.provider.tags else ("waits",)
            if not await turn and not state.startswith(waits):
                return state
            await daemon.poll()
            now = (sum(auditor.gauges.blocks.values()), auditor.gauges.unprovable)
            idle = 0 if now != before else idle + 1
            before = now
            assert state, "attestation has no state"
            self.bounded(f"attestation: {state}")
            assert idle < IDLE, f"attestation stands: {state}"

    async def proven(self) -> set[int]:
        """Blocks that are proven for every contract."""
        spans = await self.fetch("SELECT first_block, last_block FROM indexer.attestation WHERE grade = 'proven'")
        return {number for first, last in spans for number in range(first, last + 1)}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are per tenth of a second, so pauses are shorter too; what is final is loaded in bulk; attestation does not
    wait for more blocks."""
    monkeypatch.setattr(rate_limit, "MIN_PAUSE_S", 0.02)
    monkeypatch.setattr(rate_limit, "MAX_PAUSE_S", WINDOW_S)
    monkeypatch.setattr(action_executor, "MIN_CATCH_UP_BLOCKS", 100)
    monkeypatch.setattr(runner, "OPEN_TIMEOUT_S", 10.0)
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)


@pytest.fixture
async def gallery(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Gallery]:
    async with Gallery(url, *request.param) as made:
        yield made


def ways(provider: Provider) -> Iterator[Way]:
    """How a provider is played."""
    if not any(isinstance(habit, ClosesConnections) for habit in provider.habits):
        yield "in process"
    if any(habit.http for habit in provider.habits):
        yield "over HTTP"


PLAYS = [(provider, way) for provider in PROVIDERS for way in ways(provider)]


@pytest.mark.parametrize("gallery", PLAYS, ids=[f"{p.name}, {way}" for p, way in PLAYS], indirect=True)
async def test_a_provider_alone_is_enough(gallery: Gallery) -> None:
    made, node = course(), gallery.node
    if node.finalized is None:
        node.finalized = node.safe = Depth(DEPTH)
    # The final part.
    final = gallery.tree.ancestor(made.start.hash, HEAD - DEPTH)
    loading = await gallery.play(first=0, last=final.number)
    await gallery.until(loading, final)
    await loading.stop()
    gallery.daemons.remove(loading)
    # The head: what is there, then block by block, then a leap, a reorg, and growth until it is final.
    daemon = await gallery.play()
    await gallery.until(daemon, made.start)
    for number in range(HEAD + 1, HEAD + STEPS + 1):
        await gallery.follow(daemon, gallery.tree.ancestor(made.orphaned.hash, number))
    await gallery.follow(daemon, made.orphaned)
    await gallery.follow(daemon, made.replacement)
    await gallery.follow(daemon, gallery.tree.ancestor(made.end.hash, made.end.number - DEPTH // 2))
    await gallery.follow(daemon, made.end)
    await told(gallery, daemon, await gallery.attest(daemon))
    await gallery.until(daemon, made.end)
    await gallery.equals(made.end, healed=bool(daemon.progress.attest.healed))
    journal = await gallery.fetch("SELECT fork_point, depth FROM indexer.reorg_journal WHERE depth > 0")
    assert (made.orphaned.number - REORG, REORG) in journal
    gallery.bounded("the whole play")
    # A stub that never showed what it is for tests nothing. Who asks slowly meets no rate of requests.
    by_clock = {habit for habit in node.habits if isinstance(habit, Rate) and habit.counts == "requests"}
    assert not [habit for habit in node.habits if not node.met[habit] and habit not in by_clock]


async def told(gallery: Gallery, daemon: Daemon, state: str) -> None:
    """What is final, what of it is proven, and that the rest is told."""
    provider, p = gallery.provider, daemon.progress
    if provider.tags:
        assert p.finalized == course().end.number - DEPTH and state == "up to date"
    else:
        assert p.finality_source not in ("", "tag") and state
    proven, final = await gallery.proven(), set(range(p.finalized + 1))
    why = await gallery.fetch(
        "SELECT subject, detail FROM indexer.incident WHERE kind = 'unprovable' AND resolved_at IS NULL"
    )
    lacking = final - proven
    # What is not proven is told, and nothing else.
    assert bool(why) == bool(lacking), (len(lacking), why)
    assert all(subject.startswith(gallery.node.url) for subject, _ in why)
    most = {"all": 0, "but some": len(final) // 2, "silent": len(final) - 1, "nothing": len(final)}[provider.proves]
    assert len(lacking) <= most, (sorted(lacking)[:5], len(lacking), why)


def test_the_gallery_is_large_and_every_habit_has_a_source() -> None:
    assert len(PROVIDERS) >= 25 and len({p.name for p in PROVIDERS}) == len(PROVIDERS)
    for provider in PROVIDERS:
        assert provider.habits, provider.name
        for habit in provider.habits:
            assert habit.source.startswith(("https://", "tests/data/")), (provider.name, habit)
