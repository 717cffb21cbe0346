"""The real daemon, and now and then a backfill, while endpoints and PostgreSQL fail as the schedule says.

Every fault must be seen in what the daemon shows, and progress must come back; at the end of an episode the database is
compared with the chain, row by row. What a fault does follows from the seed; which request meets it is up to sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from indexer.config import load
from indexer.runtime.tasks import cancel_and_wait
from tests.chaos import loading
from tests.chaos.case import Case
from tests.chaos.databases import Databases
from tests.chaos.faults import KINDS
from tests.chaos.faultynode import FaultyNode
from tests.chaos.growing import Growing
from tests.chaos.kinds import PROBED, TIMEOUT, Place
from tests.chaos.loading import Backfill
from tests.chaos.machine import Differs
from tests.chaos.pgfaults import small_disk
from tests.chaos.schedule import Fault, Mode
from tests.chaos.signals import Observer
from tests.chaos.truth import CONFIG, Truth, checked, reorgs
from tests.support.anvil.node import free_port
from tests.support.daemon import Daemon, wait_synced
from tests.support.waiting import PATIENCE

BLOCKS = 240  # of the chain when an episode begins
MOST_AT_ONCE = 2  # endpoints that fail; one of three is well
LATE_START = 150  # first block of the daemon, where a backfill loads what is before it
DISK = 200  # megabytes
PIECE = 110  # blocks that the auditor proves without waiting for more
CAUGHT_UP, ATTESTED = PATIENCE, 2 * PATIENCE  # seconds
SERVED = 25  # blocks a range while a backfill works first: it is to last


class Episode:
    """One chain and database with some faults. `seed` of the chain; `told` hears of each fault that is over; `proven`:
    what is final must be, at the end, which the auditor does when it has got over the faults."""

    def __init__(
        self, databases: Databases, seed: str, mode: Mode, faults: Sequence[Fault], folder: Path,
        told: Callable[[Case], None], proven: bool = True,
    ) -> None:  # fmt: skip
        self.databases, self.server, self.mode, self.faults = databases, databases.server, mode, faults
        self.folder, self.told, self.proven, self.rng = folder, told, proven, random.Random(seed)
        self.cases: list[Case] = []
        self.comparisons, self.rows, self.reorgs, self.deepest = 0, 0, 0, 0
        self._busy: dict[Case, FaultyNode | None] = {}

    async def run(self) -> None:
        """Raises Unseen, Differs, or AssertionError when a process ended or nothing went on."""
        async with AsyncExitStack() as stack:
            self.net = Growing(self.rng, BLOCKS)
            for node in self.net.nodes:
                stack.enter_context(node)
            self.origin = LATE_START if self.mode == "backfill beside" else 0
            self.config = self._config()
            self.addresses = frozenset(c.address for c in load(str(self.config)).contracts)
            self.url = await stack.enter_async_context(self._database())
            growing = asyncio.create_task(self.net.grow())
            stack.push_async_callback(cancel_and_wait, growing)
            faults = list(self.faults)
            if self.mode == "backfill first":
                await self._load_first([faults.pop(0) for one in self.faults[:1] if one.of_backfill])
            daemon = await stack.enter_async_context(self._daemon())
            beside = self._backfill(stack, "--to-block", str(LATE_START - 1)) if self.origin else None
            if beside is not None:
                await beside.begun()
            await self._play_all(faults, daemon)
            if beside is not None:
                await beside.finished()
                self.origin = 0
            await cancel_and_wait(growing)
            await self._finish(daemon)

    # -- processes

    def _arguments(self) -> list[str]:
        return ["--chain", str(self.config), *(part for node in self.net.nodes for part in ("--rpc-url", node.url))]

    def _config(self) -> Path:
        """The deployment's file with limits that a run of minutes can meet."""
        text = CONFIG.read_text().replace("start_block = 0", f"start_block = {self.origin}")
        text = re.sub(r"timeout = \d+", f"timeout = {TIMEOUT}", text)
        text = re.sub(r"attest = \d+", "attest = 100", text).replace("[rpc]\n", "[attest]\nrps = 50\n\n[rpc]\n")
        path = self.folder / "devnet-faults.toml"
        path.write_text(text)
        return path

    @contextlib.asynccontextmanager
    async def _database(self) -> AsyncIterator[str]:
        """On a disk of its own, where it is to be filled and one can be had."""
        filled = any(fault.kind == "database filled" for fault in self.faults)
        with small_disk(self.server, DISK) if filled else contextlib.nullcontext() as disk:
            self.small = disk is not None
            url = await self.databases.make(disk)
            try:
                yield url
                self.reorgs, self.deepest = await reorgs(url)
            finally:
                await self.databases.drop(url)

    @contextlib.asynccontextmanager
    async def _daemon(self) -> AsyncIterator[Daemon]:
        """Caught up with the chain, and looked at."""
        port, log = free_port(), self.folder / "log"
        log.unlink(missing_ok=True)
        sockets = [part for node in self.net.nodes[:2] for part in ("--ws-url", node.ws_url)]
        signals = ["--http-port", str(port), "--poll-interval", "0.1"]
        daemon = Daemon([*self._arguments(), *sockets, *signals], {"DATABASE_URL": self.url}, log)
        self.observer = Observer(f"http://127.0.0.1:{port}")
        looking = asyncio.create_task(self.observer.run())
        try:
            at = self.net.tip.number
            await self._until(daemon, lambda: self.observer.last.projected >= at, CAUGHT_UP, "caught up")
            yield daemon
        finally:
            await cancel_and_wait(looking)
            daemon.kill()
            Daemon.started.remove(daemon)

    async def _until(self, daemon: Daemon, reached: Callable[[], bool], seconds: float, what: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(TimeoutError))
            async with asyncio.timeout(seconds):
                while not reached() and daemon.process.poll() is None:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
        assert daemon.process.poll() is None, f"the daemon ended: {daemon.log.read_text()[-2000:]}"
        assert reached(), f"not {what} after {seconds:.0f} s: {self.observer.last.live}"

    def _backfill(self, stack: AsyncExitStack, *arguments: str) -> Backfill:
        log = self.folder / "backfill.log"
        made = Backfill([*self._arguments(), "--from-block", "0", *arguments], self.url, log)
        stack.callback(made.kill)
        return made

    async def _load_first(self, faults: Sequence[Fault]) -> None:
        """A backfill up to what is final, with a fault while it works; it must come to its end."""
        async with AsyncExitStack() as stack:
            for node in self.net.nodes:
                node.max_blocks = SERVED
            backfill = self._backfill(stack, "--rps", "4")
            await backfill.begun()
            for fault in faults:
                case = self._case(fault, self.net.nodes[0] if KINDS[fault.kind].where == "endpoint" else None)
                await case.play(backfill, loading.tells(case.place, fault.kind))
                self.told(case)
            await backfill.finished()
            for node in self.net.nodes:
                node.max_blocks = None

    # -- faults

    def _case(self, fault: Fault, node: FaultyNode | None) -> Case:
        rng = random.Random(fault.seed)
        case = Case(fault, Place(self.net, self.server, self.url, rng, self.addresses, self.small, node))
        case.beside = [other.fault.kind for other in self._busy]
        self.cases.append(case)
        return case

    async def _play_all(self, faults: Sequence[Fault], daemon: Daemon) -> None:
        """Each in its turn, beside those that are not over; with the first that fails all end."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(fault.pause)
                while not self._room(fault):  # noqa: ASYNC110 - until others are over
                    await asyncio.sleep(0.05)
                case = self._case(fault, self._choose(fault))
                if case.place.node is not None and case.place.endpoint != self.observer.last.current:
                    case.seconds = max(case.seconds, PROBED[0])  # nobody else asks it than who looks at all of them
                self._busy[case] = case.place.node
                group.create_task(self._one(case, daemon))

    async def _one(self, case: Case, daemon: Daemon) -> None:
        def freed() -> None:
            self._busy.pop(case, None)

        try:
            await case.play(self.observer, KINDS[case.fault.kind].tells(case.place), freed)
        finally:
            freed()
        assert daemon.process.poll() is None, f"the daemon ended: {daemon.log.read_text()[-2000:]}"
        self.told(case)

    def _room(self, fault: Fault) -> bool:
        """Whether it may begin now: one thing at a time befalls the database, and one endpoint is well. What only a
        follower that reads can meet comes alone, and where it reads."""
        kind, where, busy = KINDS[fault.kind], KINDS[fault.kind].where, self._busy
        if any(case.fault.alone for case in busy) or (fault.alone and busy):
            return False
        if not kind.stands_by and any(
            case.kind.where != "endpoint"
            or not case.kind.stands_by
            or case.place.endpoint == self.observer.last.current
            for case in busy
        ):
            return False
        if where != "endpoint" and not all(case.kind.stands_by for case in busy):
            return False
        if where == "endpoint":
            return sum(node is not None for node in busy.values()) < MOST_AT_ONCE
        return all(case.kind.where == "endpoint" for case in busy)

    def _choose(self, fault: Fault) -> FaultyNode | None:
        """Of the endpoints without a fault the one that is asked first, or another."""
        if KINDS[fault.kind].where != "endpoint":
            return None
        free = [node for node in self.net.nodes if node not in self._busy.values()]
        current = [node for node in free if node.url == self.observer.last.current]
        others = [node for node in free if node not in current]
        wanted = others if fault.standby or not current else current
        return wanted[random.Random(f"{fault.seed}/where").randrange(len(wanted))]

    # -- the end

    async def _finish(self, daemon: Daemon) -> None:
        """All is well and final, all that is final is proven; then the daemon ends and every row is compared."""
        net = self.net
        net.settle(0)
        before = net.tip
        net.extend(PIECE, 0.3)
        net.show(before)
        await wait_synced(self.url, net.tip.number, net.tip.hex)
        look = self.observer
        await self._until(
            daemon,
            lambda: not self.proven or look.last.total("attested_newest_block", grade="proven") >= net.final,
            ATTESTED,
            "proven",
        )
        await self._until(daemon, lambda: look.last.status.get("origin") == self.origin, CAUGHT_UP, "restated")
        code, _ = daemon.terminate()
        assert code == 0, f"exit {code} on SIGTERM: {daemon.log.read_text()[-2000:]}"
        truth = Truth(net.tree, net.tip, self.origin, self.addresses)
        found = await truth.everything(self.url)
        found = [line for line in found if "commit log" not in line]  # which counts heals apart from rollbacks
        found = found or await checked(self.url, load(str(self.config)))
        self.comparisons, self.rows = self.comparisons + 1, self.rows + truth.rows
        if found:
            raise Differs(f"after {len(self.cases)} faults, at block {net.tip.number}", found)
