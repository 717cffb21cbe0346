"""Everything at once, and nodes that leave logs out or number them wrongly: the auditor must find each, at the latest
when all is final; then the database equals the truth."""

from __future__ import annotations

import asyncio
from functools import partial
from unittest import mock

from indexer.attest import auditor as auditors
from indexer.attest.auditor import Auditor
from indexer.db.connection import connect, connection
from indexer.rpc.pool import Pool
from tests.chaos.databases import Databases
from tests.chaos.machine import Differs, Machine
from tests.chaos.process import small_and_impatient
from tests.chaos.truth import Truth
from tests.support.waiting import PATIENCE

STEPS = 45
JUDGING = {"glimpse", "quiesce"}  # while logs are missing nothing equals the truth


class Liars(Machine):
    """A machine whose nodes also lie about what no hash of a block tells."""

    def lie(self) -> None:
        """One node misrepresents some of the newest logs from now on, until it is calm again."""
        node = self.rng.choice(self.net.nodes)
        path = self.net.tree.path(self.net.tip.hash)[-12:]
        places = [(b.hash, index) for b in path for index, *_, log in b if log.address in self._addresses()]
        chosen = self.rng.sample(places, min(len(places), self.rng.randint(1, 4)))
        if self.rng.random() < 0.3:
            node.wrong_index |= {place: place[1] + 1000 for place in chosen}
        else:
            node.omit |= set(chosen)
            node.omit_receipts = self.rng.random() < 0.3

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
        finality, opened = runner.engine.finality, partial(connect, self.url)
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
        for step in range(STEPS):
            if step % 4 == 0:
                self.lie()
            name, numbers = self.draw()
            if name not in JUDGING:
                await self.do(name, numbers)
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


async def omissions(databases: Databases, seed: int | str) -> tuple[int, int]:
    """One such history on a database of its own."""
    with small_and_impatient(), mock.patch.object(auditors, "BUSY_WAIT_S", -1.0):
        machine = Liars(databases, f"omissions {seed}")
        await machine.open()
        try:
            return await machine.play()
        finally:
            await machine.close()
