"""A stage for one scenario: a tree of blocks, nodes that see it, a database, and a daemon driven look by look."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import asyncpg

from indexer.attest.auditor import Auditor
from indexer.attest.head_prover import HeadProver
from indexer.config import Deployment, load
from indexer.db.connection import Connection, connect
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.follow.state_machine import Mode
from indexer.rpc.pool import Pool
from indexer.rpc.transport import HttpTransport, TransportFactory
from indexer.runtime.progress import DaemonProgress
from tests.chaos.truth import CONFIG, Truth
from tests.support.oracle.base import TABLES
from tests.support.simchain.chain import Block, SimLog, SimTx, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.world import exchange
from tests.support.waiting import PATIENCE

CHAIN_ID = 89346162  # of config/devnet.toml, whose contracts the exchange emits from
HEAD, FINAL = 100, 60
DEVNET = load(str(CONFIG))
ADDRESSES = frozenset(c.address for c in DEVNET.contracts)
WATCHED = (*TABLES, "indexer.raw_log")  # whose deletes are counted by triggers, whatever the program says

_COUNT_DELETES = """
CREATE SCHEMA test;
CREATE TABLE test.deleted (name text);
CREATE FUNCTION test.count() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO test.deleted VALUES (TG_ARGV[0]); RETURN NULL; END$$;
""" + "".join(
    f"CREATE TRIGGER test_deleted AFTER DELETE ON {name if '.' in name else f'public.{name}'}"
    f" FOR EACH ROW EXECUTE FUNCTION test.count('{name}');\n"
    for name in WATCHED
)


class _Busy(Runner):
    """Waits for nothing: the tests decide when time passes."""

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Daemon:
    """The real runner, engine and pool in this process; `poll` is one turn of its loop."""

    def __init__(
        self, url: str, nodes: Sequence[SimNode], deployment: Deployment,
        transport: TransportFactory = HttpTransport, /, **limits: Any,
    ) -> None:  # fmt: skip
        self._transport, self._max_blocks = transport, deployment.max_blocks
        self.pool = self._pool(nodes)
        self.progress = DaemonProgress()
        self.auditors: list[Auditor | HeadProver] = []
        self.runner: Runner = _Busy(deployment, url, self.pool, self.progress, EngineOptions(**limits))

    def _pool(self, nodes: Sequence[SimNode]) -> Pool:
        urls = [n.url for n in nodes]
        return Pool(urls, CHAIN_ID, max_blocks=self._max_blocks, timeout=PATIENCE, transport=self._transport)

    @property
    def mode(self) -> Mode:
        return self.runner.engine.follower.mode

    @property
    def conn(self) -> Connection:
        """Only while it is open and not in trouble."""
        assert self.runner.conn is not None
        return self.runner.conn

    @property
    def errors(self) -> int:
        """Looks that an endpoint's or the database's trouble ended."""
        return sum(self.progress.errors.values())

    async def open(self) -> None:
        await self.pool.open()
        await self.runner.open()

    async def poll(self, times: int = 1) -> bool:
        """Looks at the head and what follows from it; whether the last look left work. Raises LeaseLostError."""
        more: bool | None = False
        for _ in range(times):
            more = await self.runner._run_cycle(None)
        return bool(more)

    def auditor(self, nodes: Sequence[SimNode]) -> Auditor:
        """The daemon's, as `run` starts it, on these nodes; `audit` drives it."""
        deployment = self.runner.deployment
        pool = self._pool(nodes)
        finality, opened = self.runner.engine.observer.finality, partial(connect, self.runner.url)
        auditor = Auditor(deployment, pool, self.progress, opened, finality)
        self.auditors.append(auditor)
        return auditor

    def prover(self, *nodes: SimNode) -> HeadProver:
        """The daemon's, as `run` starts it, on these nodes; `prove` drives it."""
        deployment, engine = self.runner.deployment, self.runner.engine
        pool = self._pool(nodes)
        prover = HeadProver(
            deployment, pool, self.progress, partial(connect, self.runner.url), engine.observer.report_wrong_logs
        )
        engine.actions.on_head_commit = prover.offer
        self.auditors.append(prover)
        return prover

    async def prove(self, prover: HeadProver, most: int = 60) -> str:
        """Looks of the prover and of the daemon in turn, until neither has work; the prover's state then."""
        for _ in range(most):
            proved = await prover.run_once()
            if not (await self.poll() or proved or self.progress.waiting):
                return prover.gauges.state
        raise AssertionError(f"not done after {most} looks: {prover.gauges.state!r}, waits: {self.progress.waiting!r}")

    async def audit(self, auditor: Auditor, most: int = 60) -> str:
        """Turns of the auditor beside looks at the head, until it has nothing to do; its state then."""
        for _ in range(most):
            turn = asyncio.create_task(auditor.run_once())
            while not turn.done():
                await self.poll()
                await asyncio.sleep(0.005)
            if not await turn and not auditor.gauges.state.startswith(("stands by", "waits")):
                return auditor.gauges.state
        raise AssertionError(f"the auditor is not done after {most} turns: {auditor.gauges.state}")

    async def settle(self, most: int = 100) -> None:
        """Polls until nothing is left to do and nothing is waited for."""
        for _ in range(most):
            if not await self.poll() and not self.progress.waiting:
                return
        raise AssertionError(f"not done after {most} looks: waits for {self.progress.waiting!r}")

    async def stop(self) -> None:
        """As on SIGTERM."""
        await self.runner.close()
        await self.pool.close()
        for auditor in self.auditors:
            await auditor.close()
            await auditor.pool.close()


class Stage:
    """Blocks up to `head` with traffic, finalized at `final`, on two nodes; `main` is the tip of all that."""

    def __init__(self, url: str, seed: str, head: int = HEAD, final: int = FINAL) -> None:
        self.url, self.rng = url, random.Random(seed)
        self.tree = Tree()
        self.world = exchange(self.tree)
        self.main = self.world.grow(self.tree.genesis.hash, head, self.rng, 0.7)
        self.nodes = [SimNode(self.tree, self.main.hash, CHAIN_ID) for _ in range(2)]
        for node in self.nodes:
            node.finalized = node.safe = final
        self.daemons: list[Daemon] = []

    # -- the chain

    def at(self, tip: Block, number: int) -> Block:
        return self.tree.ancestor(tip.hash, number)

    def fork(self, name: str, above: int, blocks: int, tip: Block | None = None, density: float = 2.5) -> Block:
        """So many blocks in the place of those above number `above` of `tip`'s chain. Of their transactions some come
        again elsewhere, some with other logs, some not at all."""
        tip = tip or self.main
        return self.world.fork(tip.hash, tip.number - above, blocks, self.rng, density, salt=name.encode())

    def busy(self, name: str, above: int, blocks: int) -> Block:
        """The same in the main chain's place, with transactions in every block."""
        parent = self.at(self.main, above)
        return self.chain(parent, *(self.filler(parent, 3) for _ in range(blocks)), salt=name.encode())

    def empty(self, name: str, above: int, blocks: int, tip: Block | None = None) -> Block:
        return self.tree.grow(self.at(tip or self.main, above).hash, blocks, salt=name.encode())

    def grow(self, tip: Block, blocks: int, density: float = 2.0) -> Block:
        return self.world.grow(tip.hash, blocks, self.rng, density)

    def chain(self, parent: Block, *blocks: Sequence[SimTx], salt: bytes = b"", timestamp: int | None = None) -> Block:
        """Blocks with exactly these transactions; the last of them."""
        for txs in blocks:
            parent = self.tree.extend(parent.hash, txs, salt=salt, timestamp=timestamp)
        return parent

    def log(self, contract: str, event: str, variant: int = 0, **args: Any) -> SimLog:
        """A log of the exchange; what is not given is random."""
        made = self.world.abis.make(self.rng, contract, event, {"blockTimestamp": 1_740_000_500} | args, variant)
        return SimLog(made.address, made.topics, made.data)

    def tx(self, *logs: SimLog, hash: bytes | None = None) -> SimTx:
        return SimTx(hash or self.rng.randbytes(32), logs)

    def filler(self, parent: Block, transactions: int = 1) -> list[SimTx]:
        return self.world.traffic(self.rng, parent.hash, transactions)

    def show(self, tip: Block, *nodes: int) -> None:
        """These nodes, or all, have that head."""
        for n in nodes or range(len(self.nodes)):
            self.nodes[n].head = tip.hash

    # -- the daemon

    async def __aenter__(self) -> Self:
        self.own = await asyncpg.connect(self.url)
        await self.execute(_COUNT_DELETES)
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for daemon in self.daemons:
            await daemon.stop()
        await self.own.close()
        for node in self.nodes:
            await node.stop()

    async def start(
        self, *nodes: int, settled: bool = True, max_blocks: int = 2000, without: Sequence[str] = (),
        recent_blocks: int = 1000, strict: bool = False, **limits: int,
    ) -> Daemon:  # fmt: skip
        """A daemon on these nodes, by default the first; has followed their head unless told not to. `without` some
        contracts; its auditor proves `recent_blocks`; `strict`: nothing is committed unproven; `limits` are `first` and
        `last` as of a backfill."""
        kept = tuple(c for c in DEVNET.contracts if c.name not in without)
        attest = replace(DEVNET.attest, recent_blocks=recent_blocks, before_commit=strict)
        deployment = replace(DEVNET, contracts=kept, max_blocks=max_blocks, attest=attest)
        daemon = Daemon(self.url, [self.nodes[n] for n in nodes or (0,)], deployment, **limits)
        self.daemons.append(daemon)
        await daemon.open()
        if settled:
            await daemon.settle()
        return daemon

    # -- the database

    async def execute(self, script: str) -> None:
        await self.own.execute(script)

    async def fetch(self, query: str, *args: object) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.own.fetch(query, *args)]

    async def value(self, query: str, *args: object) -> Any:
        ((value,),) = await self.fetch(query, *args)
        return value

    async def deleted(self) -> dict[str, int]:
        """Rows that were deleted so far, by table, as the server saw it."""
        return dict(await self.fetch("SELECT name, count(*) FROM test.deleted GROUP BY name"))

    async def journal(self) -> list[tuple[int, int, int]]:
        """(fork point, old tip, new tip) of every reorg, oldest first."""
        return await self.fetch("SELECT fork_point, old_tip, new_tip FROM indexer.reorg_journal ORDER BY id")

    async def stands_at(self, tip: Block) -> None:
        """The checkpoint is this block; nothing is said about rows."""
        assert await self.fetch("SELECT number, hash FROM indexer.checkpoint") == [(tip.number, tip.hash)]

    async def untouched(self, tip: Block, origin: int = 0) -> None:
        """Everything as it was: no row deleted, none in the journal, all equal to the chain that ends here."""
        assert (await self.deleted(), await self.journal()) == ({}, [])
        await self.equals(tip, origin=origin)

    async def equals(
        self, tip: Block, reorgs: Sequence[tuple[int, int]] | None = None, *, origin: int = 0, healed: bool = False
    ) -> None:
        """The tables are the projection of the chain that ends here, the raw logs its logs byte by byte, the checkpoint
        its tip, and the journal tells what was deleted. `reorgs`: fork point and depth of each, oldest first.

        A heal rewrites rows of append tables that the journal need not name.
        """
        found = await Truth(self.tree, tip, origin, ADDRESSES).everything(self.url)
        if healed:  # what is said there of the commit log holds for rollbacks only
            found = [line for line in found if "commit log" not in line]
        assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])
        entries = await self.fetch("SELECT fork_point, depth, rows_removed FROM indexer.reorg_journal ORDER BY id")
        if reorgs is not None:
            assert [entry[:2] for entry in entries] == list(reorgs)
        told: dict[str, int] = {}
        for *_, removed in entries:
            counts = json.loads(removed)
            assert all(isinstance(n, int) and n >= 0 for n in counts.values()), counts
            for table in WATCHED:
                told[table] = told.get(table, 0) + counts.get(table, 0)
        if not healed:
            assert {t: n for t, n in told.items() if n} == await self.deleted()


def after(times: int, act: Callable[[], object], *methods: str) -> Callable[[str, list[Any]], None]:
    """For `on_request`: acts once, before the call after `times` calls of these methods."""
    left = times

    def hook(method: str, params: list[Any]) -> None:
        nonlocal left
        numbered = method != "eth_getBlockByNumber" or str(params[0]).startswith("0x")
        if method in methods and numbered:
            left -= 1
            if left == -1:
                act()

    return hook
