"""Everything at once, and nodes that leave logs out or number them wrongly: the auditor must find each, at the latest
when all is final; then the database equals the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from indexer.attest import auditor as auditors
from indexer.attest.auditor import Auditor
from indexer.pg.server import EmbeddedServer
from indexer.rpc.pool import Pool
from indexer.store.database import connect, connection
from tests.chaos.databases import Databases
from tests.chaos.machine import Machine
from tests.chaos.process import small_and_impatient
from tests.chaos.truth import Truth

STEPS = 45
JUDGING = {"glimpse", "quiesce"}  # while logs are missing nothing equals the truth


@pytest.fixture
def databases(server: EmbeddedServer) -> Iterator[Databases]:
    made = Databases(server)
    yield made
    asyncio.run(made.close())


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
        pool = Pool(self.process.endpoints, self.process.deployment.chain_id, timeout=5)
        auditor = Auditor(self.process.deployment, pool, runner.progress, partial(connect, self.url))
        try:
            for _ in range(40):
                turn = asyncio.create_task(auditor.turn())
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


@pytest.mark.parametrize("seed", range(2))
async def test_omitted_logs_are_found_whatever_else_happens(
    seed: int, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditors, "PATIENCE", -1.0)
    with small_and_impatient():
        machine = Liars(databases, f"omissions {seed}")
        await machine.open()
        try:
            for step in range(STEPS):
                if step % 4 == 0:
                    machine.lie()
                name, numbers = machine.draw()
                if name not in JUDGING:
                    await machine.do(name, numbers)
            await machine.rest()
            await machine.lie_surely()
            tip = await machine.rest()  # one block more
            machine.net.finalize(10_000)
            await machine.process.cycle()
            wrong = await machine.wrong()
            assert wrong > 0
            await machine.audited()
            found = await Truth(machine.net.tree, tip, machine.origin, machine._addresses()).everything(machine.url)
            assert not [line for line in found if "commit log" not in line]
            async with connection(machine.url) as conn:
                assert await conn.fetchval("SELECT count(*) FROM indexer.blame WHERE role = 'served'") >= wrong
        finally:
            await machine.close()
