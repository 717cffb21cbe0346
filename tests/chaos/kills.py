"""kill -9 of the real daemon, again and again, while its chain forks: nothing may be lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg

from indexer.config import load
from tests.chaos.databases import Databases
from tests.chaos.machine import LATER, Differs
from tests.chaos.network import Network
from tests.chaos.process import Process
from tests.chaos.truth import CONFIG, Truth, checked, reorgs
from tests.support.daemon import Daemon, wait_synced
from tests.support.simchain.node import ThreadedNode
from tests.support.waiting import eventually

CAMPAIGN = 20  # kills of one database and chain, with a comparison at the end
PATIENCE = 20.0  # seconds until an armed point must have been passed
# Points between BEGIN and COMMIT, by what brings the daemon there.
FORWARD = ("ingest.begun", "ingest.stored", "project.written", "ingest.before_commit")
SWAP = ("replace.undone", "replace.moved", "replace.taken_back", "project.written", "replace.before_commit")
ANEW = ("reset.before_commit", "project.read", "project.before_commit", "project.written")  # after a contract was added
RESTATED = ("heal.forgotten", "heal.replayed", "restate.before_commit")  # after the origin was lowered
NO_ENDPOINT = 11  # exit code


class Campaign:
    """One database, one chain, up to `CAMPAIGN` kills. `seed` decides everything but what the daemon does meanwhile.

    `told` hears of each kill: the armed point, "" for none, and whether the daemon died of it.
    """

    def __init__(self, databases: Databases, seed: str, folder: Path, told: Callable[[str, bool], None]) -> None:
        self.databases, self.folder, self.told = databases, folder, told
        self.rng = random.Random(seed)
        self.killed, self.comparisons, self.reorgs, self.deepest = 0, 0, 0, 0
        self.net: Network

    def run(self, kills: int) -> None:
        """Raises Differs when rows are not what the chain says, AssertionError when the daemon does not follow."""
        self.net = Network(self.rng, ThreadedNode, 40)
        self.origin = 12
        self.config = self._config("before", LATER)
        with contextlib.ExitStack() as stack:
            for node in self.net.nodes:
                assert isinstance(node, ThreadedNode)
                stack.enter_context(node)
            self.url = asyncio.run(self.databases.make())
            self.process = Process(self.url, [n.url for n in self.net.nodes], load(str(self.config)))
            self.known = {self.process.deployment.digest: self._addresses()}
            stack.callback(lambda: asyncio.run(self._drop()))
            # Armed and random kills take turns; what brings the daemon to a point comes in the order of need.
            plan = self._plan((kills + 1) // 2)
            for turn in range(kills):
                asyncio.run(self._one(*(next(plan) if turn % 2 == 0 else ("", 1))))
            asyncio.run(self._compare())

    async def _drop(self) -> None:
        self.reorgs, self.deepest = await reorgs(self.url)
        await self.databases.drop(self.url)

    def _plan(self, armed: int) -> Iterator[tuple[str, int]]:
        """A point and at which pass; the deployment grows and the origin is lowered half-way, now and then."""
        anew = self.rng.sample(ANEW[1:], 1)[0]
        special = {armed // 2: ANEW[0], armed // 2 + 1: anew, armed - 2: self.rng.choice(RESTATED)}
        for turn in range(armed):
            if turn in special:
                yield special[turn], 1
            else:
                yield self.rng.choice(FORWARD if self.rng.random() < 0.45 else SWAP), self.rng.randint(1, 3)

    async def _one(self, point: str, nth: int) -> None:
        if point == ANEW[0]:
            self._add_contracts()
        elif point in RESTATED and self.origin and self.killed:  # before the first start there is no origin to lower
            self.origin -= 4
            await self.process.lower_origin(self.origin)
        env = {"REYA_INDEXER_FAILPOINTS": f"{point}=kill@{nth}"} if point else {}
        daemon = self._start(env)
        try:
            if point:
                self._until_dead(daemon, time.monotonic() + PATIENCE, point in SWAP)
            elif self.rng.random() < 0.25:
                self._until_dead(daemon, time.monotonic() + self.rng.random() * 1.5, False)
            else:
                self._until_dead(daemon, time.monotonic() + PATIENCE, False, "following")
                self._until_dead(daemon, time.monotonic() + self.rng.random(), False)
            died = daemon.process.poll()
            if died == NO_ENDPOINT:  # every node refused its first question: an operator would start it again
                return await self._one(point, nth)
            assert died in (None, -signal.SIGKILL), f"the daemon ended with {died}: {daemon.log.read_text()[-2000:]}"
        finally:
            daemon.kill()
            Daemon.started.remove(daemon)
        self.killed += 1
        self.told(point, died is not None)
        await self._glimpse(point)

    def _start(self, env: dict[str, str]) -> Daemon:
        arguments = ["--chain", str(self.config), "--http-port", "0", "--poll-interval", "0.02"]
        for node in self.net.nodes:
            arguments += ["--rpc-url", node.url]
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        return Daemon(arguments, {"DATABASE_URL": self.url} | env, log)

    def _until_dead(self, daemon: Daemon, until: float, swaps: bool, event: str = "") -> None:
        """The chain goes on until the daemon is dead, time is over, or it said `event`."""
        while daemon.process.poll() is None and time.monotonic() < until:
            if event and event in daemon.log.read_text():
                return
            self._play(swaps)
            time.sleep(0.08)

    def _play(self, swaps: bool) -> None:
        net, rng = self.net, self.rng
        kind = rng.random()
        if swaps or kind < 0.2:
            net.fork(rng.randint(1, 10), rng.choice((-3, 0, 1, 2)))
        elif kind < 0.25:
            net.back(rng.randrange(12))
        else:
            net.extend(1)
        net.follow(rng.choice((1, 2, 3, 3, 3)))
        node = rng.randrange(2)
        if rng.random() < 0.05:
            net.stray(node, rng.randrange(12))
        elif rng.random() < 0.05:
            net.lag(node, rng.randrange(4))
        elif rng.random() < 0.05:
            net.nodes[node].offline = True
        elif rng.random() < 0.3:
            net.calm(node)
        if rng.random() < 0.2:
            net.finalize(rng.randint(1, 3))

    async def _glimpse(self, point: str) -> None:
        """After a kill the tables are the projection of the chain that the checkpoint names."""
        await self._alone()
        at = await self.process.checkpoint()
        if at is None:
            found = await Truth(self.net.tree, self.net.tree.genesis, 1, ()).tables(self.url)
        else:
            tip = self.net.tree[at.hash]
            found = await Truth(self.net.tree, tip, at.origin, self.known[at.digest]).tables(self.url)
        self.comparisons += 1
        if found:
            raise Differs(f"after kill {self.killed} of the campaign, {point or 'at random'}", found)

    async def _alone(self) -> None:
        """Until the server has noticed that the daemon is gone: its last COMMIT may still be on the way."""

        async def gone() -> bool:
            return not await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND application_name = 'reya-indexer'"
            )

        conn = await asyncpg.connect(self.url)
        try:
            await eventually(gone, "the end of the daemon's connections")
        finally:
            await conn.close()

    async def _compare(self) -> None:
        self.net.settle(self.origin)
        tip, daemon = self.net.tip, self._start({})
        try:
            await wait_synced(self.url, tip.number, tip.hex)
            await eventually(self._restated, f"origin {self.origin}")
            code, _ = daemon.terminate()
            assert code == 0, f"exit {code} on SIGTERM: {daemon.log.read_text()[-2000:]}"
        finally:
            daemon.kill()
            Daemon.started.remove(daemon)
        found = await Truth(self.net.tree, tip, self.origin, self._addresses()).everything(self.url)
        found = found or await checked(self.url, self.process.deployment)
        self.comparisons += 1
        if found:
            raise Differs(f"after {self.killed} kills, at block {tip.number}", found)

    async def _restated(self) -> bool:
        at = await self.process.checkpoint()
        return at is not None and at.origin == self.origin

    def _add_contracts(self) -> None:
        self.config = self._config("after", ())
        self.process.deployment = load(str(self.config))
        self.known[self.process.deployment.digest] = self._addresses()

    def _config(self, name: str, without: tuple[str, ...]) -> Path:
        """The deployment's file without some contracts, from another origin."""
        text = CONFIG.read_text().replace("start_block = 0", f"start_block = {self.origin}")
        parts = [p for p in text.split("\n\n") if not any(f'[[contract]]\nname = "{one}"' in p for one in without)]
        path = self.folder / f"devnet-{name}.toml"
        path.write_text("\n\n".join(parts))
        return path

    def _addresses(self) -> frozenset[str]:
        return frozenset(c.address for c in self.process.deployment.contracts)
