"""The daemon inside this process: the real runner and pool, cut off wherever it stands, and a second ingester."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import asyncpg
import structlog

from indexer.config import Deployment
from indexer.db.connection import connect, connection
from indexer.db.database_errors import DATABASE_ERRORS
from indexer.errors import EndpointUnreachableError, LeaseLostError, RpcError
from indexer.follow import action_executor, catch_up, maintenance
from indexer.follow.engine import Engine
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.ingest import fetch, ingestor
from indexer.projector import pipeline, rewriter, writer
from indexer.reorg import replacement
from indexer.rpc import retry
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.store.index_state import lower_origin
from tests.support.waiting import PATIENCE

NO_ENDPOINT = (RpcError, EndpointUnreachableError)
BORNE = (*NO_ENDPOINT, LeaseLostError, *DATABASE_ERRORS)


class Checkpoint(NamedTuple):
    """What the public tables are the projection of: the chain up to `hash`, from block `origin` on."""

    number: int
    hash: bytes
    origin: int
    digest: str


class _Busy(Runner):
    """Waits for nothing: the tests decide when time passes."""

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(0)


@contextlib.contextmanager
def small_and_impatient(chunk: int = 20, staged: int = 7, chained: int = 9) -> Iterator[None]:
    """Many batches where a real chain needs one, and retries without pauses: every seam is crossed often.

    Log lines are dropped, for thousands of reorgs write many, and what asyncio says of connections that were cut.
    """
    configured, loops = structlog.get_config(), logging.getLogger("asyncio")
    loops.addFilter(_not_cut)
    with (
        mock.patch.object(rewriter, "MAX_STEP_LOGS", chunk),
        mock.patch.object(writer.Writer.commit_stored, "__defaults__", (chunk,)),
        mock.patch.object(replacement, "MAX_STAGED_BLOCKS", staged),
        mock.patch.object(fetch, "CHAINED_BLOCKS", chained),
        mock.patch.object(action_executor, "MIN_CATCH_UP_BLOCKS", 2 * chained),
        mock.patch.object(pipeline, "STEP_LOGS", chunk),
        mock.patch.object(pipeline, "CACHE_ROWS", 2 * chunk),
        mock.patch.object(catch_up, "STEP_LOGS", chunk),
        mock.patch.object(catch_up, "MAX_BUFFERED_LOGS", 4 * chunk),
        mock.patch.object(ingestor, "GROUP_LOGS", chunk),
        mock.patch.object(ingestor, "GROUP_SECONDS", 0.01),
        mock.patch.object(maintenance, "INTERVAL_S", 0.05),
        mock.patch.object(retry, "_backoff", lambda _: 0.0),
        mock.patch.object(fetch, "_RETRY_PAUSES_S", (0.0, 0.0)),
    ):
        structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**configured)
            loops.removeFilter(_not_cut)


def _not_cut(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncpg.PostgresConnectionError)


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


@types.coroutine
def interrupted(
    inner: Coroutine[Any, Any, Any], after: int, act: Callable[[], Awaitable[None] | None]
) -> Generator[Any, Any, Any]:  # fmt: skip
    """Runs `inner`, with `act` at its `after`-th suspension; it stands still there until what `act` returns is done."""
    error: BaseException | None = None
    while True:
        try:
            waited = inner.throw(error) if error is not None else inner.send(None)
        except StopIteration as end:
            return end.value
        after -= 1
        error = None
        if after == 0 and (meanwhile := act()) is not None:
            yield from meanwhile.__await__()
        try:
            yield waited
        except BaseException as thrown:
            error = thrown


class Process:
    """One daemon at a time on the database `url`. `errors` counts by class what it went through."""

    def __init__(self, url: str, endpoints: Sequence[str], deployment: Deployment) -> None:
        self.url, self.endpoints, self.deployment = url, list(endpoints), deployment
        self.runner: _Busy | None = None
        self.errors: Counter[str] = Counter()

    async def start(self) -> bool:
        """False when no endpoint answers well enough to begin."""
        pool = Pool(self.endpoints, self.deployment.chain_id, max_blocks=self.deployment.max_blocks, timeout=PATIENCE)
        runner = _Busy(self.deployment, self.url, pool, DaemonProgress())
        try:
            await pool.open()
            await runner.open()
        except NO_ENDPOINT as error:
            self.errors[type(error).__name__] += 1
            await runner.close()
            await pool.close()
            return False
        self.runner = runner
        return True

    async def cycle(self) -> bool:
        """One cycle, the process started when there is none. Whether there is more to do now."""
        if self.runner is None and not await self.start():
            return False
        runner = self.runner
        assert runner is not None
        try:
            return bool(await runner._run_cycle(None))
        except LeaseLostError:
            self.errors["LeaseLost"] += 1
            await self.stop()
            return False
        finally:
            self.errors.update(runner.progress.errors)
            runner.progress.errors.clear()

    async def cancel(self, after: int) -> None:
        """A cycle that is cancelled at its `after`-th wait, as a process that is told to end does with a long one."""
        runner = await self._connected()
        if runner is not None:
            await self._cut_short(runner, after, _cancel)
            await self.stop()

    async def crash(self, after: int) -> None:
        """A cycle whose connection is gone at its `after`-th wait, and the process with it."""
        runner = await self._connected()
        if runner is not None:
            conn = runner.conn
            assert conn is not None
            await self._cut_short(runner, after, conn.terminate)
            conn.terminate()
            await runner.pool.close()
            self.runner = None

    async def stand_still(self, after: int, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """A cycle that is stopped at its `after`-th wait past its lease, and goes on when `meanwhile` is done.

        When that waits for a lock of ours, it is done later.
        """
        runner = await self._connected()
        if runner is None:
            return
        tasks: list[asyncio.Task[None]] = []

        async def others() -> None:
            await self._expire_lease()
            await meanwhile()

        async def let_others() -> None:
            tasks.append(asyncio.create_task(others()))
            await asyncio.wait(tasks, timeout=0.3)

        await self._cut_short(runner, after, let_others)
        await asyncio.gather(*tasks)

    async def _expire_lease(self) -> None:
        async with connection(self.url) as conn:
            await conn.execute(
                "UPDATE indexer.lease SET expires_at = clock_timestamp() - interval '1 second'"
                " WHERE single IN (SELECT single FROM indexer.lease FOR UPDATE SKIP LOCKED)"
            )

    async def _connected(self) -> _Busy | None:
        if self.runner is None:
            await self.start()
        if self.runner is not None and self.runner.conn is None:
            self.runner.conn = await connect(self.url)
        return self.runner

    async def _cut_short(self, runner: _Busy, after: int, act: Callable[[], Awaitable[None] | None]) -> None:
        assert runner.conn is not None
        cycle = runner.engine.run_cycle(runner.conn)

        async def work() -> None:
            await interrupted(cycle, after, act)

        task = asyncio.create_task(work())
        await asyncio.wait({task})
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LeaseLostError):
            await self.stop()
        elif isinstance(error, DATABASE_ERRORS):
            await runner._drop_connection()
        if error is not None and not isinstance(error, BORNE):
            raise error

    async def stop(self) -> None:
        """As on SIGTERM."""
        if self.runner is not None:
            await self.runner.close()
            await self.runner.pool.close()
            self.runner = None

    def swap_endpoints(self) -> None:
        """The other one is preferred from now on."""
        self.endpoints.reverse()
        if self.runner is not None:
            pool = self.runner.pool
            pool._current = (pool._current + 1) % len(pool.readers)

    async def ingest_beside(self, ranges: Sequence[tuple[int, int]], meanwhile: Awaitable[object] | None) -> None:
        """Another process ingests these ranges, one after the other; `meanwhile` at the same time."""
        work = asyncio.gather(self._ingest(ranges), *([meanwhile] if meanwhile is not None else []))
        await work

    async def _ingest(self, ranges: Sequence[tuple[int, int]]) -> None:
        pool = Pool(self.endpoints, self.deployment.chain_id, max_blocks=self.deployment.max_blocks, timeout=PATIENCE)
        conn = await connect(self.url)
        try:
            for first, last in ranges:
                worker = Engine(
                    self.deployment,
                    pool,
                    DaemonProgress(),
                    "worker",
                    partial(connect, self.url),
                    EngineOptions(first=first, last=last, ingest_only=True),
                )
                with contextlib.suppress(*NO_ENDPOINT, *DATABASE_ERRORS):
                    while await worker.run_cycle(conn):
                        pass
        finally:
            await conn.close()
            await pool.close()

    async def checkpoint(self) -> Checkpoint | None:
        """Where the public tables stand; None when they are empty."""
        async with connection(self.url) as conn:
            row = await conn.fetchrow(
                "SELECT number, hash, origin, digest FROM indexer.checkpoint WHERE number IS NOT NULL"
            )
        return None if row is None else Checkpoint(*row)

    async def make_stale(self, digest: str) -> None:
        """As if the public tables were written with other ABIs: they are projected again."""
        async with connection(self.url) as conn:
            await conn.execute("UPDATE indexer.checkpoint SET digest = $1 WHERE number IS NOT NULL", digest)

    async def lower_origin(self, origin: int) -> None:
        async with connection(self.url) as conn:
            await lower_origin(conn, origin)

    def state(self) -> str:
        """What the daemon says of itself."""
        if self.runner is None:
            return "not running"
        p = self.runner.progress
        return f"{p.mode}, waiting for {p.waiting!r}, projected {p.projected}, errors {dict(self.errors)}"


def _cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def deployed(whole: Deployment, without: Sequence[str], origin: int, max_blocks: int) -> Deployment:
    """The deployment without some of its contracts, from another origin."""
    kept = tuple(c for c in whole.contracts if c.name not in without)
    return replace(whole, contracts=kept, start_block=origin, max_blocks=max_blocks)
