"""The main loop: observe the head and the index state, decide what to do, execute it.

`run` is this engine without an end, `backfill` is it with one. Everything it decides on is read from the database again
for each step, so a kill at any point, or another process that ingests at the same time, changes nothing but who does
the work.
"""

from __future__ import annotations

import time

import structlog

from indexer.chain.finality import HeadView
from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.connection import Connect, Connection
from indexer.errors import ReorgTooDeepError
from indexer.follow.action_executor import ActionExecutor
from indexer.follow.engine_options import EngineOptions
from indexer.follow.lease_keeper import LeaseKeeper
from indexer.follow.maintenance import Maintenance
from indexer.follow.observer import Observer
from indexer.follow.state_machine import (
    Action,
    Confirm,
    Follower,
    Halt,
    HeadSeen,
    Mode,
    Observation,
    Paused,
    Refresh,
    Wait,
)
from indexer.follow.step_report import StepReporter
from indexer.projector.rewriter import Rewriter
from indexer.projector.writer import Writer
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress

LOOK_INTERVAL_S = 5.0  # between looks at the head while there is known work

log = structlog.get_logger()


class Engine:
    """The loop over one database.

    Args:
        deployment: Chain and watched contracts.
        pool: The endpoints.
        progress: Where progress and waits are published.
        holder: Name of this process in the lease.
        connect: Opens connections for workers.
        options: What makes it a daemon or a backfill.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, progress: DaemonProgress, holder: str, connect: Connect,
        options: EngineOptions,
    ) -> None:  # fmt: skip
        self.progress, self.options = progress, options
        self.writer, reporter = Writer(deployment), StepReporter(progress, pool)
        self.rewriter = Rewriter(self.writer)
        self.lease_keeper = LeaseKeeper(holder, ingest_only=options.ingest_only)
        self.observer = Observer(pool, self.writer, self.lease_keeper, reporter, options)
        self.follower = Follower()
        self.actions = ActionExecutor(pool, self.rewriter, self.observer, self.lease_keeper, reporter, connect, options)
        self.maintenance = Maintenance(progress, deployment.keep)

    @property
    def token(self) -> int | None:
        """Token of the lease; None without it."""
        return self.lease_keeper.token

    @property
    def final_ref(self) -> BlockRef | None:
        """A stored final block: the newest known here, otherwise the one that the database is bound to."""
        bound = self.observer.state.binding if self.observer.state else None
        return self.maintenance.final or (BlockRef(bound.number, bound.hash, 0) if bound else None)

    async def run_cycle(self, conn: Connection) -> bool:
        """Look at the head and work for a few seconds. Returns False when there is nothing left to do now.

        Raises RpcError, connection errors of asyncpg, LeaseLostError.
        """
        paused = await self.lease_keeper.take(conn)
        if paused:
            worked, action = False, self.follower.observe(Paused(paused))
        else:
            worked, action = await self._work(conn)
        await self._name_wait(conn, action)
        if isinstance(action, Wait) and self.token is not None:
            worked = await self.actions.catch_up.build_indexes(conn, self.token, self._building) or worked
        return worked

    async def _work(self, conn: Connection) -> tuple[bool, Action]:
        """Observe, decide and execute until nothing is left, or it is time for another cycle.

        Return whether anything was done, and the action at the end.
        """
        worked, until = False, time.monotonic() + LOOK_INTERVAL_S
        view = await self.observer.read_heads()
        action = self.follower.observe(await self._observe(conn, view))
        while not isinstance(action, Wait | Halt):
            observed: Observation | None
            if isinstance(action, Refresh):
                worked = True
                if time.monotonic() > until:
                    break
                view = await self.observer.read_heads()
                observed = await self._observe(conn, view)
            else:
                observed = await self.actions.execute(conn, view, action)
                if observed is None:
                    worked, observed = True, await self._observe(conn, view)
                    # A block is confirmed for one look only: a cycle that ended here would confirm it again forever.
                    if not isinstance(action, Confirm) and time.monotonic() > until:
                        break
            action = self.follower.observe(observed)
        return worked, action

    async def _observe(self, conn: Connection, view: HeadView) -> HeadSeen:
        """Observe the index state under a head; the holder of the lease does what is due between two steps."""
        seen = await self.observer.observe(conn, view)
        if self.token is not None:
            assert self.observer.state is not None, "it was just observed"
            await self.maintenance.run_if_due(conn, self.observer.state, self.token)
        return seen

    def _building(self, name: str, left: int) -> None:
        if self.progress.set_wait(f"indexes deferred during the initial load: {left} left to build"):
            log.info("building_index", index=name, left=left)

    async def _name_wait(self, conn: Connection, action: Action) -> None:
        """Publish the follower's mode and wait where /ready, the metrics, the log and `status` find them."""
        p, mode = self.progress, self.follower.mode
        reason = action.reason if isinstance(action, Wait) else ""
        if isinstance(action, Halt):
            reason = f"halted: {action.reason}. {action.remedy}"
        p.mode = mode.value
        if p.set_wait(reason) and reason:
            log.error("halted", reason=reason) if mode is Mode.HALTED else log.warning("waiting", waiting_for=reason)
        await self.lease_keeper.publish(conn, reason or mode.value)
        if isinstance(action, Halt) and self.options.last is not None:
            raise ReorgTooDeepError(action.reason, action.remedy)
