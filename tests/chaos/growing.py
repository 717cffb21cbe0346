"""A chain that grows as the real one does, four blocks a second, and forks now and then, on nodes that may fail."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from tests.chaos.faultynode import FaultyNode
from tests.chaos.network import Network
from tests.support.simchain.chain import Block

BLOCK = 0.25  # seconds
FINALITY = 24  # blocks
FORKS = 0.06  # share of beats that fork
DEEPEST = 6
NODES = 3


class Growing(Network):
    """`pinned`: a block that no fork takes back; `held`: finality stands still; `hurry`: more blocks a beat. `unseen`
    are called with new blocks before any node serves them."""

    nodes: Sequence[FaultyNode]

    def __init__(self, rng: random.Random, blocks: int, nodes: int = NODES) -> None:
        self.pinned, self.held, self.hurry = 0, 0, 0
        self.unseen: list[Callable[[Sequence[Block]], None]] = []
        super().__init__(rng, FaultyNode, blocks, nodes)
        self.finalize(self.tip.number - FINALITY - self.final)

    def beat(self) -> None:
        """What 250 ms bring."""
        before = self.tip
        deepest = min(DEEPEST, self.tip.number - max(self.final, self.pinned))
        if deepest > 0 and self.rng.random() < FORKS:
            self.fork(self.rng.randint(1, deepest), 1)
        else:
            self.extend(1 + self.hurry)
        self.show(before)

    def fork_now(self, depth: int) -> Block:
        """A fork at once; the tip that was left. It is not shown yet."""
        before = self.tip
        self.fork(max(1, min(depth, self.tip.number - max(self.final, self.pinned))), 1)
        return before

    def show(self, before: Block) -> None:
        fork = self.tree.fork_point(before.hash, self.tip.hash).number
        fresh = self.tree.path(self.tip.hash)[fork + 1 :]
        for act in tuple(self.unseen):
            act(fresh)
        self.follow((1 << len(self.nodes)) - 1)
        if not self.held:
            self.finalize(max(0, self.tip.number - FINALITY - self.final))

    async def grow(self, every: float = BLOCK) -> None:
        """A beat in so many seconds, until it is cancelled."""
        due = time.monotonic()
        while True:
            self.beat()
            due += every
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def canonical(self, number: int, block_hash: str) -> bool:
        path = self.tree.path(self.tip.hash)
        return 0 <= number < len(path) and path[number].hex == block_hash

    def _bound(self) -> None:
        """What a node says is final is far below what it serves, also where it lags."""
        for node in self.nodes:
            node.finalized = node.safe = max(0, min(self.final, node.top.number - FINALITY))
