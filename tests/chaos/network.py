"""A chain that forks at will and nodes, two unless told otherwise, that see it badly, within what a follower must bear.

The bounds of the model: blocks up to `final` never change and every node has them; a node may lag, stray to another
fork, contradict itself or vanish, but never serves a false log that no header contradicts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.node import Fault, SimNode
from tests.support.simchain.world import exchange

CHAIN_ID = 89346162  # of config/devnet.toml, whose contracts the exchange emits from
OLD_TIPS = 12
NOISE: tuple[Fault, ...] = ("429", "500", "html", "{}", "null", "no id", "shuffled", "short", "drop", "cut")


class Network:
    """`tip` is the canonical head. All numbers given to the methods are wishes: they are cut to what is possible."""

    def __init__(
        self, rng: random.Random, kind: type[SimNode] = SimNode, blocks: int = 30, nodes: int = 2
    ) -> None:  # fmt: skip
        self.rng = rng
        self.tree = Tree()
        self.world = exchange(self.tree)
        self.final, self.reorgs, self.deepest, self._salt = 0, 0, 0, 0
        self.tip = self.world.grow(self.tree.genesis.hash, blocks, rng)
        self.old: list[Block] = []  # tips that were canonical once, or somebody's head
        self.nodes: Sequence[SimNode] = [kind(self.tree, self.tip.hash, CHAIN_ID) for _ in range(nodes)]
        self.finalize(blocks // 3)

    # -- the chain

    def extend(self, blocks: int, density: float = 1.5) -> None:
        self.tip = self.world.grow(self.tip.hash, blocks, self.rng, density, salt=self._fresh())

    def fork(self, depth: int, longer: int) -> None:
        """`depth` blocks replaced by `longer` more of them, or by fewer when negative, but at least by one."""
        depth = min(depth, self.tip.number - self.final)
        self._leave(depth)
        blocks = max(1, depth + longer)
        self.tip = self.world.fork(self.tip.hash, depth, blocks, self.rng, 1.5, salt=self._fresh())

    def back(self, which: int) -> None:
        """An old fork is canonical again."""
        tips = self._holding_final()
        if tips:
            tip = tips[which % len(tips)]
            self._leave(self.tip.number - self.tree.fork_point(self.tip.hash, tip.hash).number)
            self.tip = tip

    def finalize(self, blocks: int) -> None:
        """Finality advances; a node on another fork gives it up, as it must."""
        self.final = min(self.final + blocks, self.tip.number)
        last = self.tree.ancestor(self.tip.hash, self.final).hash
        for node in self.nodes:
            if not self._holds(node.head, last):
                node.head = self.tip.hash
            if node.torn is not None and not self._holds(node.torn, last):
                node.torn = None
        self._bound()

    def _leave(self, depth: int) -> None:
        if depth:
            self.reorgs, self.deepest = self.reorgs + 1, max(self.deepest, depth)
            self.old = [*self.old, self.tip][-OLD_TIPS:]

    def _fresh(self) -> bytes:
        self._salt += 1
        return self._salt.to_bytes(4, "big")

    def _holds(self, tip: bytes, block_hash: bytes) -> bool:
        number = self.tree[block_hash].number
        return self.tree[tip].number >= number and self.tree.ancestor(tip, number).hash == block_hash

    def _holding_final(self) -> list[Block]:
        last = self.tree.ancestor(self.tip.hash, self.final).hash
        return [b for b in self.old if self._holds(b.hash, last)]

    # -- the nodes

    def follow(self, which: int) -> None:
        """Nodes whose bit is set in `which` go to the canonical head."""
        for bit, node in enumerate(self.nodes):
            if which >> bit & 1:
                node.head = self.tip.hash
        self._bound()

    def rewind(self, node: int, blocks: int) -> None:
        """A node restored to an earlier block of the canonical chain."""
        self.nodes[node].head = self.tree.ancestor(self.tip.hash, max(self.final, self.tip.number - blocks)).hash
        self._bound()

    def stray(self, node: int, which: int) -> None:
        """A node alone on an old fork."""
        tips = self._holding_final()
        if tips:
            self.nodes[node].head = tips[which % len(tips)].hash
            self._bound()

    def lag(self, node: int, blocks: int) -> None:
        self.nodes[node].lag = blocks
        self._bound()

    def log_lag(self, node: int, blocks: int) -> None:
        self.nodes[node].log_lag = blocks
        self._bound()

    def tear(self, node: int, which: int) -> None:
        """Logs from an old fork under headers of the node's own; the logs name their blocks' true hashes."""
        tips = self._holding_final()
        if tips:
            self.nodes[node].torn = tips[which % len(tips)].hash

    def noise(self, node: int, kind: int, times: int) -> None:
        self.nodes[node].fail_next += [NOISE[kind % len(NOISE)]] * times

    def refuse(self, node: int, blocks: int, logs: int) -> None:
        """The node serves small ranges only."""
        self.nodes[node].max_blocks, self.nodes[node].max_logs = max(1, blocks), max(200, logs)

    def calm(self, node: int) -> None:
        """The node is well again, on the canonical chain."""
        one = self.nodes[node]
        one.knobs()
        one.lag, one.head = 0, self.tip.hash
        self._bound()

    def settle(self, least: int) -> None:
        """Both are. One block more, for a chain that only got shorter denies nothing that is stored; block `least`."""
        self.extend(max(1, least - self.tip.number))
        for node in range(len(self.nodes)):
            self.calm(node)

    def _bound(self) -> None:
        """Logs may come late, but only of blocks that are not final: below, nothing yet tells that they are missing."""
        for node in self.nodes:
            node.finalized = node.safe = self.final
            node.log_lag = max(0, min(node.log_lag, node.top.number - self.final))
