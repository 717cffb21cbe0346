"""The daemon inside this process: the real runner and pool, cut off wherever it stands, and a second ingester."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import structlog

from indexer.chain.types import Anchor
from indexer.config import Deployment
from indexer.errors import EndpointUnreachable, LeaseLost, RpcError
from indexer.follow import engine as engines
from indexer.follow import fork, upkeep
from indexer.follow.engine import Engine
from indexer.follow.progress import Progress
from indexer.follow.runner import DATABASE_TROUBLE, Runner
from indexer.ingest import fetch
from indexer.rpc import transport
from indexer.rpc.pool import Pool
from indexer.store import steps
from indexer.store.database import connect

BORNE = (RpcError, EndpointUnreachable, LeaseLost, asyncio.CancelledError, *DATABASE_TROUBLE)


class _Busy(Runner):
    """Waits for nothing: the tests decide when time passes."""

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(0)


class _Worker(Engine):
    """Never projects."""

    async def take_lease(self, conn: Any) -> None:
        return None


@contextlib.contextmanager
def small_and_impatient(chunk: int = 20, staged: int = 7, chained: int = 9) -> Iterator[None]:
    """Many batches where a real chain needs one, and retries without pauses: every seam is crossed often.

    Logs lines are dropped: a session of thousands of reorgs writes many.
    """
    configured = structlog.get_config()
    with (
        mock.patch.object(steps, "CHUNK_LOGS", chunk),
        mock.patch.object(fork, "STAGED_BLOCKS", staged),
        mock.patch.object(engines, "CHAINED_BLOCKS", chained),
        mock.patch.object(upkeep, "EVERY", 0.05),
        mock.patch.object(transport, "_backoff", lambda _: 0.0),
        mock.patch.object(fetch, "_LOOK_AGAIN", (0.0, 0.0)),
    ):
        structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**configured)


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


@types.coroutine
def interrupted(inner: Coroutine[Any, Any, Any], after: int, act: Callable[[], object]) -> Generator[Any, Any, Any]:
    """Runs `inner`, with `act` at its `after`-th suspension: what it waits for there never comes, or comes in vain."""
    error: BaseException | None = None
    while True:
        try:
            waited = inner.throw(error) if error is not None else inner.send(None)
        except StopIteration as end:
            return end.value
        after -= 1
        if after == 0:
            act()
        error = None
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
        pool = Pool(self.endpoints, self.deployment.chain_id, max_blocks=self.deployment.max_blocks, timeout=5)
        runner = _Busy(self.deployment, self.url, pool, Progress())
        try:
            await pool.open()
            await runner.open()
        except (RpcError, EndpointUnreachable) as error:
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
            return bool(await runner._guarded(None))
        except LeaseLost:
            self.errors["LeaseLost"] += 1
            await self.stop()
            return False
        finally:
            self.errors.update(runner.progress.errors)
            runner.progress.errors.clear()

    async def cancel(self, after: int) -> None:
        """A cycle that is told to end at its `after`-th wait; the process lives on."""
        runner = await self._connected()
        if runner is not None:
            await self._cut_short(runner, after, lambda: _current().cancel())

    async def crash(self, after: int) -> None:
        """A cycle whose connection is gone at its `after`-th wait, and the process with it."""
        runner = await self._connected()
        if runner is None:
            return
        conn = runner.conn
        assert conn is not None
        await self._cut_short(runner, after, conn.terminate)
        conn.terminate()
        await runner.pool.close()
        self.runner = None

    async def _connected(self) -> _Busy | None:
        if self.runner is None:
            await self.start()
        if self.runner is not None and self.runner.conn is None:
            self.runner.conn = await connect(self.url)
        return self.runner

    async def _cut_short(self, runner: _Busy, after: int, act: Callable[[], object]) -> None:
        assert runner.conn is not None
        cycle = runner.engine.cycle(runner.conn)

        async def work() -> None:
            await interrupted(cycle, after, act)

        task = asyncio.create_task(work())
        await asyncio.wait({task})
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LeaseLost) or (isinstance(error, DATABASE_TROUBLE) and not isinstance(error, RpcError)):
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
        pool = Pool(self.endpoints, self.deployment.chain_id, max_blocks=self.deployment.max_blocks, timeout=5)
        conn = await connect(self.url)
        try:
            for first, last in ranges:
                worker = _Worker(self.deployment, pool, Progress(), "worker", first=first, last=last)
                with contextlib.suppress(*BORNE[:2], *DATABASE_TROUBLE):
                    while await worker.cycle(conn):
                        pass
        finally:
            await conn.close()
            await pool.close()

    async def checkpoint(self) -> Anchor | None:
        """Where the public tables stand."""
        conn = await connect(self.url)
        try:
            row = await conn.fetchrow("SELECT number, hash, timestamp FROM indexer.checkpoint WHERE number IS NOT NULL")
        finally:
            await conn.close()
        return None if row is None else Anchor(*row)


def _current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def deployed(whole: Deployment, without: Sequence[str], origin: int, max_blocks: int) -> Deployment:
    """The deployment without some of its contracts, from another origin."""
    kept = tuple(c for c in whole.contracts if c.name not in without)
    return replace(whole, contracts=kept, start_block=origin, max_blocks=max_blocks)
