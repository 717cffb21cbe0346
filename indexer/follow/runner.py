"""Life cycle of a process around the engine: connections, named waits, a clean end.

No error of an endpoint or of the database ends the daemon: it waits, logs it once, turns /ready red and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from weakref import WeakSet

import structlog

from indexer.chain.ranges import plan_missing
from indexer.config import Deployment
from indexer.db.connection import Connection, MonitoredConnection, close, connect
from indexer.db.database_errors import DATABASE_ERRORS, database_wait_name, is_transient
from indexer.db.refusals import refusal
from indexer.errors import (
    EndpointUnreachableError,
    ReorgTooDeepError,
    RpcError,
    StepStalledError,
    WriteInterceptedError,
)
from indexer.follow.bind_database import check_or_bind
from indexer.follow.engine import Engine
from indexer.follow.engine_options import EngineOptions
from indexer.follow.stall_detector import StallDetector
from indexer.follow.step_report import WaitReporter, one_line
from indexer.follow.watchdog import RunningStep, Watchdog
from indexer.rpc.error_classifier import endpoint_wait_name
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.store import incidents
from indexer.store.index_state import IndexState, stored_hash

log = structlog.get_logger()
BACKFILL_TIMEOUT_S = 600.0  # of errors without a commit, after which a backfill gives up; the daemon never does
OPEN_TIMEOUT_S = 60.0  # of uninterrupted errors, after which any process gives up while it starts
FOLLOWER = "follower"  # Who reports a refusal, in the subject of the incident.
FAILED_STEP: tuple[type[Exception], ...] = (WriteInterceptedError, *DATABASE_ERRORS)
GRACE_S = 2.0  # for a running step to finish when the process is asked to end


class Runner:
    """Runs an engine as one process on one database.

    Args:
        deployment: Chain and watched contracts.
        url: URL of the database (postgresql://).
        pool: The endpoints.
        progress: Where progress and waits are published.
        options: What makes the engine a daemon or a backfill.
    """

    def __init__(
        self, deployment: Deployment, url: str, pool: Pool, progress: DaemonProgress,
        options: EngineOptions | None = None,
    ) -> None:  # fmt: skip
        self.deployment, self.url, self.pool, self.progress = deployment, url, pool, progress
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.engine = Engine(deployment, pool, progress, self.holder, self.connect, options or EngineOptions())
        self.conn: Connection | None = None
        self.stop = asyncio.Event()
        self.stepping_since: float | None = None  # monotonic time (s)
        self._open: WeakSet[MonitoredConnection] = WeakSet()
        self._step: asyncio.Future[bool] | None = None
        self._stalled = ""
        self._waits = WaitReporter(progress)
        self._refused = True  # A step may have been refused for good, now or by a process before this one.

    async def connect(self) -> MonitoredConnection:
        """Open a connection that the watchdog monitors. Raises DatabaseUnreachableError."""
        conn = await connect(self.url)
        self._open.add(conn)
        return conn

    def watchdog(self, feed: HeadFeed | None) -> Watchdog:
        """Return a watchdog of this process. `feed`: WebSocket endpoints to watch as well, if any."""
        detector = StallDetector(self.deployment.rpc_timeout, self.deployment.poll_interval)
        step = RunningStep(lambda: self.stepping_since, self.restart_step)
        return Watchdog(
            detector, self.progress, self.pool, self.engine.actions.catch_up, feed, partial(connect, self.url),
            lambda: self._open, step,
        )  # fmt: skip

    def restart_step(self, why: str) -> None:
        """Cancel the running step: its transaction rolls back, and the next one begins with a new connection."""
        if self._step is not None and not self._step.done():
            self._stalled = why
            self._step.cancel()

    async def prepare(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` that needs the database, before `open`. Transient errors are waited out, others raised."""
        await self._retry_at_start(work)

    async def open(self) -> None:
        """Connect, check the binding against config and chain, and bind an empty database.

        Raises FatalError, and other errors if they last: a momentary failure must not end a daemon that is only just
        starting.
        """

        async def work() -> None:
            self.conn = self.conn or await self.connect()
            await check_or_bind(
                self.conn, self.deployment, self.pool, self.engine.observer.read_heads, self.engine.options.first
            )

        await self._retry_at_start(work)

    async def _retry_at_start(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.stop.is_set():
            try:
                return await work()
            except RpcError as error:
                await self._wait_for_endpoint(error, OPEN_TIMEOUT_S)
            except DATABASE_ERRORS as error:
                if not is_transient(error):
                    raise
                await self._drop_connection()
                await self._wait_out(database_wait_name(error), error, OPEN_TIMEOUT_S)

    async def follow(self, feed: HeadFeed) -> None:
        """Follow the head until `stop` is set. Raises LeaseLostError."""
        caught_up = False
        while not self.stop.is_set():
            worked = await self._run_cycle(timeout_s=None)
            if worked is False and not caught_up and not self.progress.waiting and self.engine.token is not None:
                caught_up = True
                log.info("caught_up", projected=self.progress.projected, head=self.progress.head)
            if worked is False and self.progress.waiting:
                await self._pause(1.0)  # while a fork is waited for, each look costs every endpoint a search
            elif worked is False:
                feed.observe_polled_head(self.progress.head)
                await feed.wait(self.stop)

    async def backfill(self) -> IndexState | None:
        """Work until first..last is ingested, and projected up to the contiguous end. Returns the index state then.

        None if it was stopped without a connection. Raises errors that last, ReorgTooDeepError, LeaseLostError.
        """
        await self._retry_at_start(self._check_end)
        while not self.stop.is_set():
            worked = await self._run_cycle(timeout_s=BACKFILL_TIMEOUT_S)
            if worked is False:
                assert self.conn is not None
                state = await self.engine.observer.load_state(self.conn)
                if self.finished(state):
                    return state
                self._give_up_when_waiting()
                if self.engine.token is None and self.progress.set_wait(
                    "the projector's lease, held by another process"
                ):
                    log.info("waiting", reason=self.progress.waiting)
                await self._pause(0.3)
        return None if self.conn is None else await self.engine.observer.load_state(self.conn)

    async def _check_end(self) -> None:
        """Check that the end of the range, if stored, is on the chain; else "it is there already" would be a lie."""
        last = self.engine.options.last
        if self.conn is None or last is None or (stored := await stored_hash(self.conn, last)) is None:
            return
        header, *witness = await self.pool.with_failover(
            lambda reader: reader.found([last, *self.engine.observer.finality.final.witness])
        )
        # A node that lacks the final block may be on an orphaned branch: its denial proves nothing.
        up_to = self.engine.observer.finality.final.final_up_to(next(iter(witness), None))
        if header is not None and header.hash != stored and last <= up_to:
            raise ReorgTooDeepError(
                f"block {last} is stored with a hash that the chain does not have, below finalized",
                "Nothing was changed. `reya-indexer reorg plan` shows what a recovery would do",
            )

    def _give_up_when_waiting(self) -> None:
        p, engine = self.progress, self.engine
        since = max(p.waiting_since, p.last_step_at)
        if engine.token is not None and p.waiting and p.clock() - since > BACKFILL_TIMEOUT_S:
            raise EndpointUnreachableError(
                f"waited {BACKFILL_TIMEOUT_S:.0f} seconds for {p.waiting}", "Add another endpoint"
            )

    def finished(self, state: IndexState) -> bool:
        """Return whether nothing of the range is left to ingest or, up to the contiguous end, to project."""
        engine = self.engine
        if (
            engine.options.last is None
            or engine.options.first is None
            or plan_missing(state.coverage, engine.options.first, engine.options.last)
        ):
            return False
        if engine.options.ingest_only:
            return True
        return engine.writer.projection_is_current(state) and state.next_block > min(
            state.contiguous_end, engine.options.last
        )

    async def _run_cycle(self, timeout_s: float | None) -> bool | None:
        """Run one cycle; None after an error or at the end. An error is named, logged once and waited out."""
        try:
            if self.conn is None:
                self.conn = await self.connect()
            waited_for = self.progress.waiting
            worked = await self._until_stopped(self.engine.run_cycle(self.conn))
        except RpcError as error:
            await self._wait_for_endpoint(error, timeout_s)
        except FAILED_STEP as error:
            if (refused := refusal(error)) is not None:
                await self._report_refusal(refused)
            # Without the connection, another process may take the lease, and the next attempt checks the schema.
            await self._drop_connection()
            if refused is None:
                await self._wait_out(database_wait_name(error), error, timeout_s)
            elif timeout_s is not None:
                raise refused from error
            else:  # It is tried again, because a person may have removed what is in the way.
                await self._pause(self._waits.halt(refused))
        except StepStalledError as error:
            await self._drop_connection()
            await self._wait_out("a step that goes on", error, timeout_s)
        else:
            self._waits.end(waited_for if worked is not None else "")
            if worked and self._refused and self.engine.token is not None:
                with contextlib.suppress(*DATABASE_ERRORS):  # The next cycle meets the error, too.
                    await incidents.resolve_refusals(self.conn, FOLLOWER)
                    self._refused = False
            return worked
        return None

    async def _report_refusal(self, refused: WriteInterceptedError) -> None:
        """Show a refusal in `status`, and open an incident."""
        self._refused = True
        with contextlib.suppress(Exception):  # The next attempt meets the trouble, too.
            if self.conn is not None:
                await self.engine.lease_keeper.publish(self.conn, f"halted: {one_line(refused)}")
        await incidents.report_refusal(partial(connect, self.url), refused, FOLLOWER)

    async def _until_stopped(self, cycle: Awaitable[bool]) -> bool | None:
        task = self._step = asyncio.ensure_future(cycle)
        self.stepping_since, self._stalled = self.progress.clock(), ""
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=GRACE_S)
            if not task.done():
                task.cancel()  # the transaction rolls back, and the next start repeats the step
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await self._renew_connection()
                return None
            if task.cancelled() and self._stalled:
                raise StepStalledError(self._stalled)
            return task.result()
        finally:
            stopped.cancel()
            self._step = self.stepping_since = None

    async def _wait_for_endpoint(self, error: RpcError, timeout_s: float | None) -> None:
        """Wait out an endpoint's error, with its own words in /ready, and in `status` if the database takes them."""
        name, words = endpoint_wait_name(error), one_line(error)
        if self.conn is not None:
            with contextlib.suppress(*DATABASE_ERRORS):  # the next cycle meets the error, too
                await self.engine.lease_keeper.publish(self.conn, f"{name}: {words}")
        await self._wait_out(name, error, timeout_s, words)

    async def _wait_out(self, name: str, error: Exception, timeout_s: float | None, detail: str = "") -> None:
        await self._pause(self._waits.observe(name, error, timeout_s, detail))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _renew_connection(self) -> None:
        """Replace the connection after a step was canceled: a rollback that was canceled, too, leaves it unusable."""
        with contextlib.suppress(*DATABASE_ERRORS):
            conn, self.conn = self.conn, await self.connect()
            await close(conn)

    async def _drop_connection(self) -> None:
        conn, self.conn = self.conn, None
        self.engine.lease_keeper.disconnected()
        await close(conn)

    async def close(self) -> None:
        """Release the lease and close the connection. Takes seconds at most, and never raises."""
        if self.conn is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.engine.lease_keeper.release(self.conn), 1)
        await close(self.conn)
        self.conn = None
