"""S10 and S14 inside one process: a writer that ends between any two statements, and two writers. With real kills and
stopped processes they are in tests/system/test_kill.py and test_fencing.py."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from indexer.db.connection import connection
from indexer.errors import LeaseLostError
from indexer.follow import maintenance
from indexer.projector import rewriter, writer
from indexer.reorg import replacement
from indexer.store import lease, raw_logs, staging
from tests.scenarios.harness import DEVNET, Stage

# -- S10


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


FORWARD = ["ingest.begun", "ingest.stored", "project.written", "ingest.before_commit", "ingest.committed"]
SWAP = [
    "replace.undone",
    "replace.moved",
    "replace.taken_back",
    "project.written",
    "replace.before_commit",
    "replace.committed",
]
AGAIN = ["reset.before_commit", "project.read", "project.written", "project.before_commit"]
CRASHES = [("forward", p) for p in FORWARD] + [("swap", p) for p in SWAP] + [("again", p) for p in AGAIN]


@pytest.mark.parametrize(("work", "point"), CRASHES, ids=[f"{w}, {p}" for w, p in CRASHES])
async def test_s10_crash_matrix(work: str, point: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await stage.start()
    tip = stage.main if work == "again" else stage.grow(stage.main, 6)
    if work == "swap":
        tip = stage.fork("b", 92, 12)
    stage.show(tip)
    daemon.runner.engine.writer.digest = "other" if work == "again" else daemon.runner.deployment.digest
    passed: list[str] = []

    def hit(name: str) -> None:
        passed.append(name)
        if name == point:
            daemon.conn.terminate()
            raise Killed

    with monkeypatch.context() as armed:
        armed.setattr(writer, "hit", hit)
        armed.setattr(rewriter, "hit", hit)
        with pytest.raises((Killed, asyncpg.InterfaceError)):
            await daemon.runner.engine.run_cycle(daemon.conn)
    assert passed[-1] == point
    again = await stage.start()
    await stage.equals(tip, [(92, 8)] if work == "swap" else [])
    assert again.runner.engine.token != daemon.runner.engine.token


# -- S14


async def test_a_replacement_that_another_holder_cleared_is_no_damage(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, read = await stage.start(), raw_logs.read

    async def cleared(*given: Any, staged: bool = False, **named: Any) -> raw_logs.StoredLogs:
        if staged:
            await stage.execute("DELETE FROM indexer.staged_block")
        return await read(*given, staged=staged, **named)

    monkeypatch.setattr(raw_logs, "read", cleared)
    stage.show(stage.fork("b", 92, 12))
    with pytest.raises(LeaseLostError):
        await daemon.runner.engine.run_cycle(daemon.conn)
    monkeypatch.undo()
    await stage.untouched(stage.main)


async def test_a_runner_that_was_closed_and_opened_again_takes_the_lease_anew(stage: Stage) -> None:
    daemon = await stage.start()
    runner, held = daemon.runner, daemon.runner.engine.token
    await runner.close()
    assert held is not None and runner.engine.token is None
    await runner.open()
    stage.show(stage.grow(stage.main, 3))
    await daemon.settle()
    assert runner.engine.token == held + 1


async def expire(stage: Stage) -> None:
    """Thirty seconds pass."""
    await stage.execute("UPDATE indexer.lease SET expires_at = clock_timestamp() - interval '1 second'")


async def test_s14_two_writers_that_stage_a_replacement(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is stopped while it stages; it goes on in the middle of the second one's swap to another fork."""
    monkeypatch.setattr(replacement, "MAX_STAGED_BLOCKS", 4)
    one, two = await stage.start(0), await stage.start(1)
    b, c = stage.fork("b", 84, 30), stage.fork("c", 84, 12)
    stage.show(b, 0)
    stage.show(c, 1)
    stopped, go_on, add = asyncio.Event(), asyncio.Event(), staging.add
    staged = 0

    async def slowly(conn: Any, *args: Any, **more: Any) -> None:
        nonlocal staged
        if conn is one.runner.conn:
            staged += 1
            if staged == 4:  # blocks 97 to 100, which the other fork does not have yet
                stopped.set()
                await go_on.wait()
        await add(conn, *args, **more)

    monkeypatch.setattr(staging, "add", slowly)
    first = asyncio.create_task(one.poll())
    await stopped.wait()
    await expire(stage)
    swap = two.runner.engine.rewriter.apply_reorg

    async def replace(*args: Any) -> Any:
        go_on.set()
        with pytest.raises(LeaseLostError) as caught:
            await first
        assert caught.value.exit_code == 75
        assert await stage.value("SELECT max(number) FROM indexer.staged_block") == 96
        return await swap(*args)

    monkeypatch.setattr(two.runner.engine.rewriter, "apply_reorg", replace)
    await two.settle()
    assert first.done()
    await stage.equals(c, [(84, 16)])


@pytest.mark.parametrize("step", ["commit_batch", "apply_reorg"])
async def test_s14_a_holder_stopped_before_its_transaction_is_refused_in_it(
    step: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await stage.start(0), await stage.start(1)
    tip = stage.fork("b", 95, 9) if step == "apply_reorg" else stage.grow(stage.main, 4)
    stage.show(tip, 0)
    stopped, go_on = asyncio.Event(), asyncio.Event()
    engine = one.runner.engine
    committing = engine.writer if step == "commit_batch" else engine.rewriter
    work = getattr(committing, step)

    async def late(*args: Any) -> Any:
        stopped.set()
        await go_on.wait()
        return await work(*args)

    monkeypatch.setattr(committing, step, late)
    first = asyncio.create_task(one.poll())
    await stopped.wait()
    await expire(stage)
    newer = stage.grow(stage.fork("c", 93, 15), 2)
    stage.show(newer, 1)
    await two.settle()
    await stage.equals(newer, [(93, 7)])
    go_on.set()
    with pytest.raises(LeaseLostError):
        await first
    await stage.equals(newer, [(93, 7)])


async def test_s14_a_step_longer_than_the_lease_does_not_lose_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL", 1)
    async with connection(url) as one, connection(url) as two:
        token = await lease.acquire(one, "one")
        assert token is not None
        async with one.transaction():
            await lease.lock_and_renew(one, token)
            looks = [await lease.acquire(two, "two")]
            await one.execute("SELECT pg_sleep(1.2)")
            assert await one.fetchval("SELECT expires_at < clock_timestamp() FROM indexer.lease")
            looks.append(await lease.acquire(two, "two"))
            monkeypatch.setattr(lease, "TTL", 3600)
            await lease.lock_and_renew(one, token)
        looks.append(await lease.acquire(two, "two"))
        assert looks == [None, None, None]
        await lease.lock_and_renew(one, token)


async def test_s14_a_backfill_and_the_daemon_on_one_range(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page of the range is stored by exactly one of them, whoever comes first."""
    monkeypatch.setattr(lease, "TTL", 3600)  # However slow the machine is, nobody else becomes the projector.
    daemon = await stage.start(settled=False, max_blocks=7)
    await daemon.runner.engine.lease_keeper.take(daemon.conn)
    others = [await stage.start(1, settled=False, max_blocks=n, first=0, last=60) for n in (5, 9)]
    await asyncio.gather(daemon.settle(), *(other.poll(3) for other in others))
    await daemon.settle()
    await stage.untouched(stage.main)


async def test_s14_headers_are_not_forgotten_under_an_uncommitted_log(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finality advances while another process stores logs of another contract into blocks that had none of ours."""
    monkeypatch.setattr(maintenance, "INTERVAL_S", 0.0)
    others = [c.name for c in DEVNET.contracts if c.name != "rusd"]
    daemon = await stage.start(without=others)
    worker = await stage.start(1, settled=False)
    stored, go_on, store = asyncio.Event(), asyncio.Event(), raw_logs.insert_batch

    async def slowly(conn: Any, *args: Any) -> None:
        await store(conn, *args)
        if conn is worker.runner.conn:
            stored.set()
            await go_on.wait()

    monkeypatch.setattr(raw_logs, "insert_batch", slowly)
    for node in stage.nodes:
        node.finalized = node.safe = 95
    adding = asyncio.create_task(worker.poll())
    await stored.wait()
    tip = stage.grow(stage.main, 2)
    stage.show(tip)
    await daemon.poll(3)
    assert await stage.value("SELECT rollback_floor FROM indexer.checkpoint") == 95
    go_on.set()
    await adding
    await daemon.poll(3)
    await daemon.stop()
    await worker.settle()
    await stage.untouched(tip)
