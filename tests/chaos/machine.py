"""What may happen, as named operations with small integers: drawn by hypothesis in the suite, by a seeded generator in
`make chaos`. After each quiescence the database must be the projection of the canonical chain."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from indexer.config import Deployment, load
from tests.chaos.databases import Databases
from tests.chaos.network import Network
from tests.chaos.process import Process, deployed
from tests.chaos.truth import CONFIG, Truth, checked, reorgs
from tests.support.simchain.chain import Block
from tests.support.simchain.node import SimNode

MOST_CYCLES = 200  # until a healthy chain must have been followed to its end
LATER = ("srusd", "account_nft", "periphery")  # contracts that may be added while the machine runs
MAX_BLOCKS = (3, 40, 2000)

Limits = dict[str, tuple[int, int]]
Call = Callable[..., Awaitable[None]]


class Operation(NamedTuple):
    """`weight`: how often against the others. `limits`: the range of each integer, both ends included."""

    call: Call
    weight: int
    limits: Limits


OPERATIONS: dict[str, Operation] = {}


class Differs(AssertionError):
    """The database is not what the chain says; `found` one line each."""

    def __init__(self, why: str, found: list[str]) -> None:
        super().__init__(f"{why}, {len(found)} differences:\n" + "\n".join(found[:20]))
        self.found = found


def operation(weight: int, **limits: tuple[int, int]) -> Callable[[Call], Call]:
    """Enters a method of Machine into OPERATIONS."""

    def enter(call: Call) -> Call:
        OPERATIONS[call.__name__] = Operation(call, weight, limits)
        return call

    return enter


class Machine:
    """`open` first, `close` last; then `reorgs` were done, the deepest of `deepest` blocks. `seed` decides what blocks
    hold and how the deployment is cut."""

    node_kind: type[SimNode] = SimNode

    def __init__(self, databases: Databases, seed: int | str) -> None:
        self.databases = databases
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.comparisons, self.reorgs, self.deepest = 0, 0, 0

    async def open(self) -> None:
        """A bound database, two nodes that listen, and a daemon."""
        self.net = Network(self.rng, self.node_kind)
        for node in self.net.nodes:
            await node.start()
        self.url = await self.databases.make()
        self.whole = load(str(CONFIG))
        self.hidden = list(LATER[: self.rng.randrange(len(LATER) + 1)])
        self.first_origin, self.max_blocks = self.rng.choice((0, 7, 20)), self.rng.choice(MAX_BLOCKS)
        self.origin = self.first_origin
        self.process = Process(self.url, [n.url for n in self.net.nodes], self._deployment())
        self.known = {self.process.deployment.digest: self._addresses()}
        assert await self.process.start()

    async def close(self) -> None:
        self.reorgs, self.deepest = await reorgs(self.url)
        await self.process.stop()
        for node in self.net.nodes:
            await node.stop()
        await self.databases.drop(self.url)

    async def do(self, name: str, numbers: dict[str, int]) -> None:
        """One step. Raises Differs, or whatever the program should not raise."""
        self.done[name] += 1
        await OPERATIONS[name].call(self, **numbers)

    def draw(self) -> tuple[str, dict[str, int]]:
        """A step, by weight."""
        names = list(OPERATIONS)
        (name,) = self.rng.choices(names, [OPERATIONS[n].weight for n in names])
        return name, {k: self.rng.randint(*limits) for k, limits in OPERATIONS[name].limits.items()}

    # -- the chain

    @operation(14, blocks=(1, 6), nodes=(0, 3))
    async def extend(self, blocks: int, nodes: int) -> None:
        self.net.extend(blocks)
        self.net.follow(nodes)

    @operation(8, depth=(1, 14), longer=(0, 4), nodes=(1, 3))
    async def fork(self, depth: int, longer: int, nodes: int) -> None:
        self.net.fork(depth, longer)
        self.net.follow(nodes)

    @operation(3, depth=(2, 14), shorter=(1, 8), nodes=(1, 3))
    async def shorter_fork(self, depth: int, shorter: int, nodes: int) -> None:
        self.net.fork(depth, -shorter)
        self.net.follow(nodes)

    @operation(4, which=(0, 11), nodes=(1, 3))
    async def back(self, which: int, nodes: int) -> None:
        self.net.back(which)
        self.net.follow(nodes)

    @operation(3, blocks=(1, 10))
    async def finality_advances(self, blocks: int) -> None:
        self.net.finalize(blocks)

    # -- the nodes

    @operation(3, node=(0, 1), blocks=(1, 10))
    async def rewind(self, node: int, blocks: int) -> None:
        self.net.rewind(node, blocks)

    @operation(3, node=(0, 1), which=(0, 11))
    async def stray(self, node: int, which: int) -> None:
        self.net.stray(node, which)

    @operation(3, node=(0, 1), blocks=(0, 8))
    async def lag(self, node: int, blocks: int) -> None:
        self.net.lag(node, blocks)

    @operation(2, node=(0, 1), blocks=(0, 3))
    async def log_lag(self, node: int, blocks: int) -> None:
        self.net.log_lag(node, blocks)

    @operation(2, node=(0, 1), which=(0, 11))
    async def tear(self, node: int, which: int) -> None:
        self.net.tear(node, which)

    @operation(3, node=(0, 1), away=(0, 1))
    async def offline(self, node: int, away: int) -> None:
        self.net.nodes[node].offline = bool(away)

    @operation(3, node=(0, 1), kind=(0, 9), times=(1, 6))
    async def noise(self, node: int, kind: int, times: int) -> None:
        self.net.noise(node, kind, times)

    @operation(1, node=(0, 1), blocks=(1, 10), logs=(200, 400))
    async def refuse(self, node: int, blocks: int, logs: int) -> None:
        self.net.refuse(node, blocks, logs)

    @operation(6, node=(0, 1))
    async def calm(self, node: int) -> None:
        self.net.calm(node)

    @operation(3)
    async def swap_endpoints(self) -> None:
        self.process.swap_endpoints()

    # -- the daemon

    @operation(22, times=(1, 3))
    async def cycle(self, times: int) -> None:
        for _ in range(times):
            await self.process.cycle()

    @operation(5, after=(1, 60))
    async def cancel(self, after: int) -> None:
        await self.process.cancel(after)

    @operation(6, after=(1, 60))
    async def crash(self, after: int) -> None:
        await self.process.crash(after)

    @operation(2)
    async def restart(self) -> None:
        await self.process.stop()

    @operation(2, times=(1, 3), crash=(0, 1), after=(1, 60))
    async def second_daemon(self, times: int, crash: int, after: int) -> None:
        """It stands by, and goes on where the first one died."""
        other = Process(self.url, self.process.endpoints, self.process.deployment)
        try:
            for _ in range(times):
                await asyncio.gather(self.process.cycle(), other.cycle())
            if crash:
                await asyncio.gather(self.process.crash(after), other.cycle())
                await other.cycle()
        finally:
            await other.stop()

    @operation(3, after=(1, 60), depth=(0, 8), longer=(0, 3))
    async def stopped_past_its_lease(self, after: int, depth: int, longer: int) -> None:
        """A second daemon takes over and the chain moves; then the first one goes on where it stood."""
        other = Process(self.url, self.process.endpoints, self.process.deployment)

        async def meanwhile() -> None:
            self.net.fork(depth, longer)
            self.net.follow(3)
            await other.cycle()
            await other.cycle()

        try:
            await self.process.stand_still(after, meanwhile)
            await asyncio.gather(self.process.cycle(), other.cycle())
        finally:
            await other.stop()

    @operation(3, ranges=(1, 3), size=(1, 12), together=(0, 1))
    async def second_ingester(self, ranges: int, size: int, together: int) -> None:
        """Ranges around and below finalized, in a random order, with or without the daemon at work."""
        await self.process.ingest_beside(self._ranges(ranges, size), self.process.cycle() if together else None)

    @operation(2, depth=(0, 12), blocks=(2, 25), ranges=(0, 3), size=(1, 8))
    async def days_off(self, depth: int, blocks: int, ranges: int, size: int) -> None:
        """The daemon is off while the chain forks, goes on and becomes final, and another ingests some of it."""
        await self.process.stop()
        self.net.fork(depth, blocks)
        self.net.follow(3)
        self.net.finalize(blocks)
        await self.process.ingest_beside(self._ranges(ranges, size), None)

    def _ranges(self, count: int, size: int) -> list[tuple[int, int]]:
        starts = [self.rng.randint(self.net.final - 25, self.net.final + 2) for _ in range(count)]
        return [(first, first + size - 1) for first in starts if first >= self.origin]

    @operation(1, blocks=(1, 5))
    async def lower_origin(self, blocks: int) -> None:
        """As a backfill from below does."""
        self.origin = max(0, self.origin - blocks)
        await self.process.lower_origin(self.origin)

    @operation(2)
    async def other_abis(self) -> None:
        at = await self.process.checkpoint()
        if at is not None:
            await self.process.stop()
            digest = f"older {self.done['other_abis']}"
            self.known[digest] = self.known[at.digest]
            await self.process.make_stale(digest)

    @operation(1)
    async def add_contract(self) -> None:
        if self.hidden:
            self.hidden.pop()
            await self.process.stop()
            self.process.deployment = self._deployment()
            self.known[self.process.deployment.digest] = self._addresses()

    # -- judgement

    @operation(2)
    async def glimpse(self) -> None:
        """At any moment the public tables are the projection of a chain that was: of the checkpoint's."""
        at = await self.process.checkpoint()
        if at is None:
            found = await Truth(self.net.tree, self.net.tree.genesis, 1, ()).tables(self.url)
        else:
            tip = self.net.tree[at.hash]
            found = await Truth(self.net.tree, tip, at.origin, self.known[at.digest]).tables(self.url)
        self.comparisons += 1
        if found:
            raise Differs(f"while at work, at block {at.number if at else -1}", found)

    @operation(2)
    async def quiesce(self) -> None:
        """Everything heals, the daemon works until it is done, and the database is compared."""
        tip = await self.rest()
        truth = Truth(self.net.tree, tip, self.origin, self._addresses())
        found = await truth.everything(self.url) or await checked(self.url, self.process.deployment)
        self.comparisons += 1
        if found:
            raise Differs(f"at rest, at block {tip.number}; the daemon: {self.process.state()}", found)

    async def rest(self) -> Block:
        """The nodes are well, and the daemon works until it is done; the tip."""
        self.net.settle(self.first_origin)
        tip = self.net.tip
        for _ in range(MOST_CYCLES):
            more = await self.process.cycle()
            at = None if more else await self.process.checkpoint()
            if at is not None and (at.number, at.hash) == (tip.number, tip.hash) and at.origin == self.origin:
                break
            if not more:
                await asyncio.sleep(0.005)
        return tip

    def _deployment(self) -> Deployment:
        return deployed(self.whole, self.hidden, self.origin, self.max_blocks)

    def _addresses(self) -> frozenset[str]:
        return frozenset(c.address for c in self.process.deployment.contracts)
