"""Everything at once, and nodes that leave logs out or number them wrongly: the auditor must find each, at the latest
when all is final; then the database equals the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from indexer.attest import auditor as auditors
from indexer.attest.auditor import Auditor
from indexer.db.connection import connect, connection
from indexer.rpc.pool import Pool
from tests.chaos.databases import Databases
from tests.chaos.machine import Differs, Machine
from tests.chaos.process import small_and_impatient
from tests.chaos.truth import Truth
from tests.support.simchain.chain import Block
from tests.support.simchain.node import SimNode
from tests.support.simchain.view import Json, Place
from tests.support.waiting import PATIENCE

HISTORY = 8  # lies of one chain and database
STEPS = 45  # of a history, or more, until enough of the lies were told
EVERY = 4  # steps between two lies
MOST_STEPS = 40 * STEPS  # by then somebody must have asked
JUDGING = {"glimpse", "quiesce"}  # while logs are missing nothing equals the truth
SURE = "wrong index, every node"


@dataclass(eq=False)
class Lie:
    """Which logs `node` misrepresents; and whether it was asked about the `new` ones, and answered."""

    kind: str
    node: LyingNode
    places: frozenset[Place]
    new: frozenset[bytes]
    told: bool = False

    def withdraw(self) -> None:
        """Nobody asked, and from now on the node tells the truth, but for its other lies."""
        self.node.lies.remove(self)
        only = self.places.difference(*(other.places for other in self.node.lies))
        self.node.omit -= only
        for place in only:
            self.node.wrong_index.pop(place, None)


class LyingNode(SimNode):
    """A node that notes which of its lies it told. One that got well has no more to tell."""

    def knobs(self) -> None:
        super().knobs()
        self.lies: list[Lie] = []
        self._looked: set[bytes] = set()

    def do_eth_getLogs(self, asked: Json) -> Any:
        self._looked = set()
        answer = super().do_eth_getLogs(asked)  # or it refuses, and told nothing
        for lie in self.lies:
            lie.told = lie.told or not lie.new.isdisjoint(self._looked)
        return answer

    def _logs(self, block: Block, several: bool) -> list[Json]:
        self._looked.add(block.hash)
        return super()._logs(block, several)


class Liars(Machine):
    """A machine whose nodes also lie about what no hash of a block tells. `told` hears of each lie by its kind, once an
    answer had it; of at most `lies`."""

    node_kind = LyingNode

    def __init__(self, databases: Databases, seed: int | str, lies: int, told: Callable[[str], None]) -> None:
        super().__init__(databases, seed)
        self.lies, self.told = lies, told
        self.open_lies: list[Lie] = []  # that may be told yet

    def lie(self) -> None:
        """One node misrepresents logs of new blocks, which the daemon has yet to ask for, and some older ones, from now
        on, until it is calm again."""
        node = self.rng.choice(self.net.nodes)
        assert isinstance(node, LyingNode)
        blocks = self.rng.randint(1, 3)
        self.net.extend(blocks, density=4.0)
        self.net.follow(3)
        path = self.net.tree.path(self.net.tip.hash)
        fresh, older = self._places(path[-blocks:]), self._places(path[-12:-blocks])
        if not fresh:
            return
        new = self.rng.sample(fresh, min(len(fresh), self.rng.randint(1, 3)))
        chosen = [*new, *self.rng.sample(older, min(len(older), self.rng.randint(0, 2)))]
        if self.rng.random() < 0.3:
            kind = "wrong index"
            node.wrong_index |= {place: place[1] + 1000 for place in chosen}
        else:
            node.omit |= set(chosen)
            node.omit_receipts = self.rng.random() < 0.3
            kind = "omitted, in receipts too" if node.omit_receipts else "omitted"
        lie = Lie(kind, node, frozenset(chosen), frozenset(block for block, _ in new))
        node.lies.append(lie)
        self.open_lies.append(lie)

    def _places(self, blocks: Sequence[Block]) -> list[Place]:
        return [(b.hash, index) for b in blocks for index, *_, log in b if log.address in self._addresses()]

    def count(self) -> None:
        """Lies that were told since the last time; those that never will be are forgotten."""
        for lie in self.open_lies:
            if lie.told:
                self.lies -= 1
                self.told(lie.kind)
        current = [lie for node in self.net.nodes if isinstance(node, LyingNode) for lie in node.lies]
        self.open_lies = [lie for lie in self.open_lies if lie in current and not lie.told]

    async def lie_surely(self) -> None:
        """Both nodes number logs of some new blocks wrongly until these are stored."""
        self.net.extend(6, density=4.0)
        self.net.follow(3)
        for block in self.net.tree.path(self.net.tip.hash)[-6:]:
            ours = [index for index, *_, log in block if log.address in self._addresses()]
            for node in self.net.nodes:
                node.wrong_index |= {(block.hash, index): index + 1000 for index in ours[-1:]}
        while await self.process.cycle():
            pass
        self.lies -= 1
        self.told(SURE)

    async def wrong(self) -> int:
        """How many stored logs are not as they should be, or are not stored."""
        truth = Truth(self.net.tree, self.net.tip, self.origin, self._addresses())
        async with connection(self.url) as conn:
            return sum("missing" in line for line in await truth._raw(conn))

    async def audited(self) -> None:
        """The auditor works beside the daemon until it has nothing to do."""
        runner = self.process.runner
        assert runner is not None
        pool = Pool(self.process.endpoints, self.process.deployment.chain_id, timeout=PATIENCE)
        finality, opened = runner.engine.observer.finality, partial(connect, self.url)
        auditor = Auditor(self.process.deployment, pool, runner.progress, opened, finality)
        try:
            for _ in range(40):
                turn = asyncio.create_task(auditor.run_once())
                while not turn.done():
                    await self.process.cycle()
                    await asyncio.sleep(0.002)
                if not turn.result() and auditor.gauges.state == "up to date":
                    break
            assert auditor.gauges.state == "up to date"
            assert auditor.gauges.up_to["proven"] == self.net.tip.number
        finally:
            await auditor.close()
            await pool.close()

    async def play(self) -> tuple[int, int]:
        """Steps and lies, then the auditor: how many stored logs were wrong before it, and how many it blamed on who
        served them. Raises Differs when the database is not the truth at the end."""
        for step in range(MOST_STEPS):
            self.count()
            if step >= STEPS and self.lies <= 1:  # the last one is a sure one
                break
            if step % EVERY == 0 and self.lies > 1:
                if len(self.open_lies) == self.lies - 1:  # no more may be told
                    self.open_lies.pop(0).withdraw()
                self.lie()
            name, numbers = self.draw()
            if name not in JUDGING:
                await self.do(name, numbers)
        self.count()
        await self.rest()
        await self.lie_surely()
        tip = await self.rest()  # one block more
        self.net.finalize(10_000)
        await self.process.cycle()
        wrong = await self.wrong()
        await self.audited()
        found = await Truth(self.net.tree, tip, self.origin, self._addresses()).everything(self.url)
        self.comparisons += 1
        found = [line for line in found if "commit log" not in line]  # which counts heals apart from rollbacks
        if found:
            raise Differs(f"audited, at block {tip.number}", found)
        async with connection(self.url) as conn:
            return wrong, await conn.fetchval("SELECT count(*) FROM indexer.blame WHERE role = 'served'")


async def omissions(
    databases: Databases, seed: int | str, lies: int = HISTORY, told: Callable[[str], None] = lambda kind: None
) -> tuple[int, int]:
    """One such history on a database of its own, of so many lies. Raises AssertionError when nobody was told them."""
    with small_and_impatient(), mock.patch.object(auditors, "BUSY_WAIT_S", -1.0):
        machine = Liars(databases, f"omissions {seed}", lies, told)
        await machine.open()
        try:
            done = await machine.play()
            assert machine.lies == 0, f"{machine.lies} lies of {lies} were told to nobody"
            return done
        finally:
            await machine.close()
