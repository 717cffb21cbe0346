"""A desk on a chain that forks, an indexer that follows it, and what is done to both. Its seed and steps are all that a
history depends on."""

from __future__ import annotations

import asyncio
import random
import time

from indexer import config
from indexer.attest.compare import compare_stored, ranges
from indexer.db.connection import connection
from indexer.projector.reproject import Reprojection
from indexer.reorg.heal import heal_trusted
from indexer.reorg.recovery import Recovery
from indexer.rpc.pool import Pool
from tests.accounting.desk import Desk, Flow
from tests.accounting.histories import STEPS
from tests.chaos.process import Process
from tests.chaos.truth import CONFIG, Truth, checked
from tests.support.anvil.emission import Abis
from tests.support.anvil.flows import World
from tests.support.oracle import statistics
from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import SimLog, SimTx, Tree
from tests.support.simchain.node import SimNode

CHAIN_ID = 89346162
DEVNET = config.load(str(CONFIG))
ADDRESSES = frozenset(c.address for c in DEVNET.contracts)
OTHERS = ("deposit", "withdraw", "transfer", "auto_exchange", "pool_shares", "settings", "rusd_transfers")
ACTS = ("reorg", "finality", "compare", "omitted", "reproject", "reproject_some", "elsewhere")
HALVES = tuple(  # of a pair: one order, two events
    "0x" + event.topic0.hex() for contract in DEVNET.contracts for event in contract.events
    if event.name in ("PassivePerpMatchOrder", "PassivePerpOrderAndPositionUpdate")
)  # fmt: skip
REPROJECTED = ("PassivePerpMatchOrder", "PassivePerpExecutionV3", "PositionDataUpdated", "AccountOwnerUpdated")


class History:
    """`open` first, `close` last. Steps are those of the desk and ACTS; each takes two small numbers."""

    def __init__(self, url: str, seed: int, node: type[SimNode] = SimNode) -> None:
        self.url, self.rng, self.node_type = url, random.Random(seed), node
        self.tree = Tree()
        self.desk = Desk(Abis("devnet"), self.rng)
        # A second a block: executions lie on both sides of the border of the last 14 days, and on it.
        self.desk.now = int(time.time()) - 14 * 86_400 - 20
        self.elsewhere = World(self.desk.abis, seed)
        self.waiting: list[SimTx] = []
        self.compared, self.healed, self.reorgs = 0, 0, 0

    async def open(self) -> None:
        self.tip = self.tree.genesis
        self.desks = {self.tip.hash: self.desk.copy()}
        self.node = self.node_type(self.tree, self.tip.hash, CHAIN_ID)
        await self.node.start()
        self._add(self.desk.setup())
        for _ in range(5):
            self._add(self.elsewhere.open_account())
        self.final = 0
        self._seal()
        self._finalize(0)
        self.process = Process(self.url, [self.node.url], DEVNET)

    async def close(self) -> None:
        await self.process.stop()
        await self.node.stop()

    async def do(self, name: str, who: int, n: int) -> None:
        if name in STEPS:
            self._add(STEPS[name](self.desk, who, n))
            if n % 3 == 0:  # the others share their block with what comes next
                self._seal()
        else:
            await getattr(self, f"_{name}")(who, n)

    # -- the chain

    def _add(self, flow: Flow) -> None:
        self.waiting.append(SimTx(self.rng.randbytes(32), tuple(SimLog(e.address, e.topics, e.data) for e in flow)))

    def _seal(self) -> None:
        """A block of the waiting transactions. The node knows it; finality may be far behind."""
        self.tip = self.tree.extend(self.tip.hash, self.waiting, salt=self.rng.randbytes(4))
        self.waiting = []
        self.desks[self.tip.hash] = self.desk.copy()
        self.desk.now += 1
        self.node.head = self.tip.hash

    def _finalize(self, behind: int) -> None:
        self.final = max(self.final, self.tip.number - behind)
        self.node.finalized, self.node.safe = self.final, min(self.final + 1, self.tip.number)

    async def _elsewhere(self, who: int, n: int) -> None:
        self._add(getattr(self.elsewhere, OTHERS[n % len(OTHERS)])())

    async def _finality(self, who: int, n: int) -> None:
        self._finalize(n % 6)

    async def _reorg(self, who: int, n: int) -> None:
        """Other blocks in the place of up to four; the desk goes on from the fork point."""
        await self._follow()
        depth = min(1 + who % 4, self.tip.number - self.final)
        if depth == 0:
            return
        fork = self.tree.ancestor(self.tip.hash, self.tip.number - depth)
        self.tip, self.desk, self.waiting = fork, self.desks[fork.hash].copy(), []
        for k in range(max(1, depth + n % 3 - 1)):
            self._add(STEPS[sorted(STEPS)[(n + k) % len(STEPS)]](self.desk, who + k, n + k))
            self._seal()
        self.reorgs += 1

    # -- the indexer

    async def _follow(self) -> None:
        if self.waiting:
            self._seal()
        for _ in range(200):
            more = await self.process.cycle()
            at = await self.process.checkpoint()
            if not more and at is not None and (at.number, at.hash) == (self.tip.number, self.tip.hash):
                return
            await asyncio.sleep(0)
        raise AssertionError(f"does not follow to block {self.tip.number}: {self.process.state()}")

    async def _compare(self, who: int, n: int) -> None:
        """Every table with the oracle, at latest, safe and finalized; then what `check --recompute` says."""
        await self._follow()
        found = await Truth(self.tree, self.tip, 0, ADDRESSES).everything(self.url)
        found = [line for line in found if "commit log" not in line] if self.healed else found
        found += await self._views()
        found = found or await checked(self.url, DEVNET, strict=True)
        assert not found, f"block {self.tip.number}, {len(found)} differences:\n" + "\n".join(found[:20])
        self.compared += 1

    async def _views(self) -> list[str]:
        """Differences of the views over executions and balances, now."""
        async with connection(self.url) as conn, conn.transaction():  # whose now() stands still
            now = await conn.fetchval("SELECT extract(epoch FROM now())::bigint")
            names = statistics.KEYS
            rows = {name: [dict(r) for r in await conn.fetch(f"SELECT * FROM public.{name}")] for name in names}
        logs = [g for g in self.tree.logs(self.tip.hash) if g["address"] in ADDRESSES]
        return statistics.different(statistics.views(recompute(logs, CONFIG), now), rows)

    async def _omitted(self, who: int, n: int) -> None:
        """The endpoint leaves out logs of blocks that are final when they are read; they arrive later, by a heal."""
        await self._follow()
        await self.process.stop()
        before = self.tip.number
        for k in range(3):
            name = ("amm_order", "equal_fills", "several_fills", "book_order", "ownership")[(n + k) % 5]
            self._add(STEPS[name](self.desk, who + k, n + k))
            self._seal()
        logs = [g for g in self.tree.logs(self.tip.hash, before + 1) if g["address"] in ADDRESSES]
        halves = [g for g in logs if g["topics"][0] in HALVES] if n % 2 else logs
        for log in self.rng.sample(halves or logs, 1 + n % 4 if len(halves) > 3 else 1):
            self.node.omit.add((bytes.fromhex(log["blockHash"][2:]), int(log["logIndex"], 16)))
        self._finalize(0)
        await self._follow()
        self.node.omit.clear()
        await self.process.stop()
        await self._heal(before)
        self.healed += 1

    async def _heal(self, above: int) -> None:
        pool = Pool([self.node.url], CHAIN_ID)
        await pool.open()
        try:
            async with connection(self.url) as conn:
                recovery = Recovery(DEVNET, pool, conn)
                state = await recovery.state()
                parts = [p async for p in compare_stored(conn, pool, state, above + 1, self.final) if p.differences]
                assert parts, "nothing was found to be missing"
                for part in parts:
                    for segment in ranges(part.segment, part.differences):
                        await heal_trusted(recovery, segment, "test")
        finally:
            await pool.close()

    async def _reproject(self, who: int, n: int) -> None:
        """Everything, as after an upgrade."""
        await self._follow()
        await self.process.stop()
        await self.process.make_stale("an older release's")

    async def _reproject_some(self, who: int, n: int) -> None:
        """The events of one name and what they touch."""
        await self._follow()
        await self.process.stop()
        async with connection(self.url) as conn, connection(self.url) as side:
            await Reprojection(DEVNET, conn, side, lambda done: None).run(None, [REPROJECTED[n % len(REPROJECTED)]])
        self.healed += 1
