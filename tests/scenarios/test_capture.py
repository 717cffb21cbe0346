"""Capture: what the change log says of each commit, folded from a snapshot on, are the tables, whatever happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from indexer.attest import auditor as auditors
from indexer.db.connection import connect, connection
from indexer.errors import RefusedError
from indexer.follow import action_executor, catch_up, maintenance
from indexer.projector import pipeline, replay
from indexer.projector.reproject import Reprojection
from indexer.projector.rollback import APPEND_TABLES
from indexer.reorg.recovery import Recovery
from indexer.schema import migrate
from indexer.store import commit_log, lease, raw_logs, stream_slots
from indexer.store.change_log import PARTITION_COMMITS
from tests.scenarios.harness import Daemon, Stage
from tests.scenarios.test_head_proof import places
from tests.support.change_fold import ChangeFold
from tests.support.daemon import LOCKED_OUT, wait_row
from tests.support.simchain.chain import Block
from tests.support.simchain.view import Depth


@pytest.fixture
async def fold(stage: Stage) -> AsyncIterator[ChangeFold]:
    """Begins with `begin`."""
    conn = await asyncpg.connect(stage.url)
    yield ChangeFold(conn)
    await conn.close()


async def begin(stage: Stage, fold: ChangeFold) -> None:
    """The slot first, then the snapshot: what is in between is in the snapshot."""
    await stream_slots.create(stage.own, "test", "instant")
    await fold.snapshot()


async def kinds(fold: ChangeFold) -> Counter[str]:
    """Fold what is new: every commit must be captured."""
    commits = await fold.follow()
    assert all(commit.captured for commit in commits), commits
    return Counter(commit.kind for commit in commits)


async def show(stage: Stage, daemon: Daemon, tip: Block) -> None:
    stage.show(tip)
    await daemon.settle()
    await stage.stands_at(tip)


# -- the fold is the tables


async def test_a_storm_of_reorgs(stage: Stage, fold: ChangeFold) -> None:
    """Shallow and deep ones, to longer, shorter and empty forks and back, with nothing and with much in between."""
    daemon, tip = await stage.start(), stage.main
    await begin(stage, fold)
    for turn, (depth, blocks, grown) in enumerate([(1, 1, 2), (1, 2, 0), (20, 24, 3), (5, 3, 0), (2, 9, 1), (9, 9, 0)]):
        old = tip
        tip = stage.fork(f"f{turn}", tip.number - depth, blocks, tip)
        await show(stage, daemon, tip)
        assert (await kinds(fold))["rollback"] == 1
        if turn == 3:
            await show(stage, daemon, old)
            assert (await kinds(fold))["rollback"] == 1
            tip = old
        for _ in range(grown):
            tip = stage.grow(tip, 1, 3.0)
            await show(stage, daemon, tip)
        assert await kinds(fold) == ({"forward": grown} if grown else {})
    await show(stage, daemon, stage.empty("void", 70, 60, tip))
    tip = stage.tree[stage.nodes[0].head]
    assert (await kinds(fold))["rollback"] == 1
    await show(stage, daemon, stage.busy("full", 65, tip.number - 64))
    assert (await kinds(fold))["rollback"] == 1
    await stage.equals(stage.tree[stage.nodes[0].head])


async def test_the_fold_misses_every_change_that_is_lost(stage: Stage, fold: ChangeFold) -> None:
    """The check of the check: when any one row of the change log of a reorg is emptied, the fold is not the tables."""
    daemon = await stage.start()
    await begin(stage, fold)
    before, tables = fold.seq, {name: dict(rows) for name, rows in fold.tables.items()}
    await show(stage, daemon, stage.fork("b", 80, 25, density=4.0))
    # Whether a value of a state row was lost cannot always be seen in the end: the next one may replace it.
    changes = await stage.fetch(
        "SELECT seq, ord, n, body, encoding FROM indexer.change_log"
        " WHERE op = -1 OR op = 1 AND table_name = ANY($1::text[]) ORDER BY op, seq, ord",
        list(APPEND_TABLES),
    )
    changes = changes[:: len(changes) // 6]  # Each costs a fold of everything.
    assert {encoding for *_, encoding in changes} == {"copy", "json"}
    change = "UPDATE indexer.change_log SET n = $3, body = $4 WHERE (seq, ord) = ($1, $2)"
    for seq, place, n, body, encoding in changes:
        fold.seq, fold.tables, fold.surprises = before, {name: dict(rows) for name, rows in tables.items()}, []
        await stage.own.execute(change, seq, place, 0, "" if encoding == "copy" else "[]")
        with pytest.raises(AssertionError, match="differences"):
            await fold.follow()
        await stage.own.execute(change, seq, place, n, body)
    fold.seq, fold.tables, fold.surprises = before, tables, []
    assert (await kinds(fold))["rollback"] == 1


async def test_a_reorg_of_blocks_that_are_stored_and_not_projected(stage: Stage, fold: ChangeFold) -> None:
    daemon = await stage.start()
    await begin(stage, fold)
    # Another process stores blocks that the projector has not reached.
    stage.show(stage.grow(stage.main, 5), 1)
    worker = await stage.start(1, settled=False, ingest_only=True)
    await worker.settle()
    await worker.stop()
    stage.daemons.remove(worker)
    other = stage.fork("other", 97, 12)
    await show(stage, daemon, other)
    assert (await kinds(fold))["rollback"] == 1
    await stage.equals(other)


@pytest.mark.parametrize("most", [replay.MAX_REPLAYED, 0], ids=["by replay", "by projecting all again"])
async def test_a_recovery_below_finalized(
    most: int, stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_REPLAYED", most)
    daemon = await stage.start(0, 1)
    await begin(stage, fold)
    b = stage.fork("b", 50, 55)
    stage.show(b)
    await daemon.poll(2)
    async with connection(stage.url) as conn:
        recovery = Recovery(daemon.runner.deployment, daemon.pool, conn)
        plan = await recovery.plan(None)
        executed = asyncio.create_task(recovery.recover(None, plan.plan_hash))
        while not executed.done():
            await daemon.poll()  # leaves the lease to the recovery
            await asyncio.sleep(0.01)
        await executed
    await daemon.settle()
    changes = await kinds(fold)
    assert changes["rollback"] == 1 and changes["reproject"] == (0 if most else 1)
    await stage.equals(b, [(50, 50)], healed=True)
    tip = stage.fork("c", 101, 6, b)
    await show(stage, daemon, tip)
    assert (await kinds(fold))["rollback"] == 1


async def test_a_heal_at_the_head(stage: Stage, fold: ChangeFold) -> None:
    tip, base = stage.grow(stage.main, 6, density=4.0), stage.main
    stage.nodes[0].omit = {places(stage, tip, base.number)[0]}
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    assert await daemon.prove(prover) == "up to date"
    await begin(stage, fold)
    await show(stage, daemon, tip)
    assert await daemon.prove(prover) == "up to date"
    assert (await kinds(fold))["rollback"] == 1
    await stage.equals(tip)


@pytest.mark.parametrize("most", [replay.MAX_REPLAYED, 0], ids=["by replay", "by projecting all again"])
async def test_a_heal_below_finalized(
    most: int, stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)
    lost = [place for place in places(stage, stage.main, 30) if stage.tree[place[0]].number <= 60]
    stage.nodes[0].omit = set(lost[:1] + lost[-1:])
    daemon = await stage.start(0)
    await begin(stage, fold)
    stage.nodes[0].omit = set()
    monkeypatch.setattr(replay, "MAX_REPLAYED", most)
    assert await daemon.audit(daemon.auditor([stage.nodes[0]])) == "up to date"
    changes = await kinds(fold)
    assert changes["heal"] and bool(changes["reproject"]) == (not most)
    await stage.equals(stage.main, healed=True)
    await show(stage, daemon, stage.fork("b", 75, 30))
    assert (await kinds(fold))["rollback"] == 1


@pytest.mark.parametrize(("origin", "kind"), [(82, "heal"), (0, "reproject")])
async def test_a_lowered_origin(origin: int, kind: str, stage: Stage, fold: ChangeFold) -> None:
    """Its events and what they affect are replayed, or everything is projected again."""
    daemon = await stage.start(first=90)
    await begin(stage, fold)
    await daemon.stop()
    stage.daemons.remove(daemon)
    daemon = await stage.start(first=origin)
    commits = await fold.follow()
    assert [commit.kind for commit in commits if commit.kind != "forward"] == [kind]
    ops = {op for commit in commits if commit.kind == kind for op, _ in commit.ops}
    assert ops >= ({-1, 1} if kind == "heal" else {0})
    await stage.equals(stage.main, origin=origin, healed=True)
    await show(stage, daemon, stage.fork("b", 88, 20))
    assert (await kinds(fold))["rollback"] == 1


@pytest.mark.parametrize("bulk", [False, True], ids=["by steps", "in bulk up to the floor"])
async def test_a_reset(bulk: bool, stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is void; steps up to the floor are left to the tables, steps above it are captured."""
    if bulk:
        for module, name, value in (
            (action_executor, "MIN_CATCH_UP_BLOCKS", 10), (catch_up, "STEP_LOGS", 9), (pipeline, "STEP_LOGS", 9),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, value)
    daemon = await stage.start()
    await begin(stage, fold)
    daemon.runner.engine.writer.digest = "other"
    await daemon.settle()
    commits = await fold.follow()
    assert (commits[0].kind, commits[0].ops) == ("reproject", [(0, "")])
    captured = [commit.captured for commit in commits[1:]]
    assert captured == sorted(captured) and captured[-1] and captured.count(False) == (len(captured) - 1 if bulk else 0)
    await stage.equals(stage.main)
    await show(stage, daemon, stage.fork("b", 90, 12))
    assert (await kinds(fold))["rollback"] == 1


# -- order, and when capture begins


def held(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, conn: Callable[[], Any]) -> tuple[Any, Any]:
    """Events: a connection did this, and may go on."""
    reached, go_on, act = asyncio.Event(), asyncio.Event(), getattr(place, name)

    async def slowly(on: Any, *args: Any, **more: Any) -> Any:
        done = await act(on, *args, **more)
        if on is conn():
            reached.set()
            await go_on.wait()
        return done

    monkeypatch.setattr(place, name, slowly)
    return reached, go_on


async def test_no_commit_becomes_visible_after_one_with_a_higher_seq(
    stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is held between its row of the commit log and its commit, while another process tries to write one."""
    daemon = await stage.start()
    await begin(stage, fold)
    reached, go_on = held(monkeypatch, commit_log, "append_captured", lambda: daemon.runner.conn)
    stage.show(stage.grow(stage.main, 1, 3.0))
    first = asyncio.create_task(daemon.settle())
    await reached.wait()
    newest = "SELECT max(seq) FROM indexer.commit_log"
    before = await stage.value(newest)

    async def second() -> int:
        async with connection(stage.url) as conn, conn.transaction():
            await lease.lock_and_renew(conn, daemon.runner.engine.token or 0)
            await commit_log.append(conn, commit_log.CommitEntry("forward", 0, 0, 0, None), bulk=True)
            seq: int = await conn.fetchval(newest)
            return seq

    other = asyncio.create_task(second())
    await wait_row(stage.url, LOCKED_OUT)
    assert not other.done() and await stage.value(newest) == before
    go_on.set()
    await first
    seqs = [seq for (seq,) in await stage.fetch("SELECT seq FROM indexer.commit_log WHERE seq > $1", before)]
    assert await other == max(seqs) and len(seqs) >= 2


async def test_a_slot_waits_for_the_step_in_progress_and_begins_after_it(
    stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await stage.start()
    reached, go_on = held(monkeypatch, raw_logs, "insert_batch", lambda: daemon.runner.conn)
    tip = stage.grow(stage.main, 1, 3.0)
    stage.show(tip)
    step = asyncio.create_task(daemon.settle())
    await reached.wait()
    creating = asyncio.create_task(begin(stage, fold))
    await wait_row(stage.url, LOCKED_OUT)
    assert not creating.done()
    go_on.set()
    await asyncio.gather(step, creating)
    # The step that could not see the slot is not captured, and is part of the snapshot.
    assert await stage.value("SELECT count(*) FROM indexer.change_log") == 0
    assert (await stream_slots.list_all(stage.own))[0].seq == fold.seq
    await show(stage, daemon, stage.fork("b", 95, 8, tip))
    assert (await kinds(fold))["rollback"] == 1


@pytest.mark.parametrize("step", ["commit_batch", "apply_reorg"])
async def test_a_step_planned_before_the_slot_is_planned_again(
    step: str, stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await stage.start()
    tip = stage.fork("b", 95, 9) if step == "apply_reorg" else stage.grow(stage.main, 2)
    engine = daemon.runner.engine
    writing = engine.rewriter if step == "apply_reorg" else engine.writer
    work, tried = getattr(writing, step), list[bool]()

    async def late(planned: Any, *args: Any) -> Any:
        if not tried:
            await begin(stage, fold)
        tried.append(planned.state.capturing)
        return await work(planned, *args)

    monkeypatch.setattr(writing, step, late)
    await show(stage, daemon, tip)
    assert tried[:2] == [False, True]
    changes = await kinds(fold)
    assert changes["rollback"] == (1 if step == "apply_reorg" else 0) and changes["forward"]
    await stage.equals(tip)


async def test_without_a_slot_nothing_is_captured(stage: Stage, fold: ChangeFold) -> None:
    daemon = await stage.start()
    await begin(stage, fold)
    await stream_slots.drop(stage.own, "test")
    tip = stage.fork("b", 95, 9)
    await show(stage, daemon, tip)
    assert await stage.value("SELECT count(*) FROM indexer.change_log") == 0
    assert await stage.value("SELECT count(*) FROM indexer.commit_log WHERE captured") == 0
    with pytest.raises(RefusedError):
        await stream_slots.drop(stage.own, "test")
    await stream_slots.create(stage.own, "one", "finalized", ["orders"])
    with pytest.raises(RefusedError):
        await stream_slots.create(stage.own, "one", "safe")
    await stage.execute("UPDATE indexer.stream_slot SET state = 'lost'")
    await show(stage, daemon, stage.grow(tip, 1, 3.0))
    assert await stage.value("SELECT count(*) FROM indexer.change_log") == 0


async def test_what_a_trigger_withholds_from_the_change_log_is_not_committed(stage: Stage, fold: ChangeFold) -> None:
    daemon = await stage.start()
    await begin(stage, fold)
    await stage.execute(
        "CREATE FUNCTION test.swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
        "CREATE TRIGGER swallows BEFORE INSERT ON indexer.change_log FOR EACH ROW EXECUTE FUNCTION test.swallow()"
    )
    stage.show(stage.fork("b", 95, 9))
    await daemon.poll(5)
    assert daemon.progress.mode == "halted" and "indexer.change_log" in daemon.progress.waiting
    await stage.stands_at(stage.main)
    await stage.execute("DROP TRIGGER swallows ON indexer.change_log")
    await daemon.settle()
    assert (await kinds(fold))["rollback"] == 1


async def test_down_to_the_schema_before_and_up_again(stage: Stage, fold: ChangeFold) -> None:
    """The commit log stays, without what the change log said; a consumer begins anew."""
    daemon = await stage.start()
    await begin(stage, fold)
    tip = stage.fork("b", 95, 8)
    await show(stage, daemon, tip)
    assert await migrate.check_async(stage.url) == []
    assert await stage.value("SELECT count(*) FROM indexer.change_log") and await kinds(fold)
    commits = "SELECT count(*), max(seq) FROM indexer.commit_log"
    ((count, newest),) = await stage.fetch(commits)
    await daemon.stop()
    stage.daemons.remove(daemon)
    await migrate.downgrade_async(stage.url, "0027")
    assert await stage.fetch(commits) == [(count, newest)]
    await migrate.upgrade_async(stage.url)
    assert await stage.value("SELECT count(*) FROM indexer.commit_log WHERE captured OR checkpoint IS NOT NULL") == 0
    daemon = await stage.start()
    await begin(stage, fold)
    await show(stage, daemon, stage.fork("c", 97, 8, tip))
    assert (await kinds(fold))["rollback"] == 1
    await stage.equals(stage.tree[stage.nodes[0].head])


async def test_no_commit_becomes_visible_after_one_with_a_higher_number(stage: Stage, fold: ChangeFold) -> None:
    """A step has its number and is held before it commits: nobody else can get one, by no way that a step has."""
    daemon, newest = await stage.start(), "SELECT max(seq) FROM indexer.commit_log"
    await begin(stage, fold)
    second = await stage.start(settled=False)
    await stage.execute(
        "CREATE FUNCTION test.hold() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END$$;"
        "CREATE TRIGGER holds AFTER INSERT ON indexer.commit_log FOR EACH ROW EXECUTE FUNCTION test.hold();"
        "SELECT pg_advisory_lock(7)"
    )
    visible = await stage.value(newest)
    issued = "SELECT last_value FROM pg_sequences WHERE schemaname = 'indexer' AND sequencename LIKE 'commit_log%'"
    stage.show(stage.grow(stage.main, 1, 3.0))
    step = asyncio.create_task(daemon.settle())
    await wait_row(stage.url, LOCKED_OUT)
    assert (await stage.value(newest), await stage.value(issued)) == (visible, visible + 1)
    await second.poll(3)
    token = await stage.value("SELECT token FROM indexer.lease")
    async with connection(stage.url, lock_timeout="100ms") as conn:
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with conn.transaction():
                await lease.lock_and_renew(conn, token)
    assert (await stage.value(newest), await stage.value(issued)) == (visible, visible + 1)
    await stage.execute("SELECT pg_advisory_unlock(7)")
    await step
    assert await stage.value(newest) == visible + 1
    assert await kinds(fold) == {"forward": 1}


# -- partitions

PARTITIONS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'indexer.change_log'::regclass ORDER BY 1"
)


async def partitions(stage: Stage) -> list[str]:
    return [name.removeprefix("indexer.change_log_") for (name,) in await stage.fetch(PARTITIONS)]


async def test_partitions_are_made_ahead_and_dropped_once_confirmed(
    stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "INTERVAL_S", 0.0)
    daemon, tip = await stage.start(), stage.main
    await begin(stage, fold)
    assert await partitions(stage) == ["p0", "p1"]
    last = PARTITION_COMMITS - 2
    await stage.execute(f"SELECT setval(pg_get_serial_sequence('indexer.commit_log', 'seq'), {last})")
    for _ in range(4):
        tip = stage.grow(tip, 1, 3.0)
        await show(stage, daemon, tip)
    await daemon.settle()
    assert await kinds(fold) == {"forward": 4} and fold.seq == last + 4
    assert await partitions(stage) == ["p0", "p1", "p2"]
    confirm = "UPDATE indexer.stream_slot SET seq = {}"
    await stage.execute(confirm.format(last))
    await daemon.settle()
    assert await partitions(stage) == ["p0", "p1", "p2"]
    await stage.execute(confirm.format(last + 1))
    dump = await connect(stage.url)
    async with dump.transaction():
        await dump.fetch("SELECT FROM indexer.change_log")
        await daemon.settle()
        await show(stage, daemon, stage.grow(tip, 1))
    assert await partitions(stage) == ["p0", "p1", "p2"], "somebody was reading it"
    await dump.close()
    await daemon.settle()
    assert await partitions(stage) == ["p1", "p2"]
    await kinds(fold)
    await stream_slots.drop(stage.own, "test")
    await daemon.poll(2)
    assert await partitions(stage) == []
    await begin(stage, fold)
    await show(stage, daemon, stage.fork("b", 97, 9))
    assert (await kinds(fold))["rollback"] == 1


async def test_a_reprojection_makes_the_partitions_that_its_steps_up_to_the_floor_run_out_of(
    stage: Stage, fold: ChangeFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "STEP_LOGS", 9)
    daemon = await stage.start()
    await begin(stage, fold)
    await daemon.stop()
    stage.daemons.remove(daemon)
    end = 2 * PARTITION_COMMITS
    await stage.execute(f"SELECT setval(pg_get_serial_sequence('indexer.commit_log', 'seq'), {end - 3})")
    async with connection(stage.url) as conn, connection(stage.url) as reading:
        await Reprojection(daemon.runner.deployment, conn, reading, lambda step: None).run(None, ())
    commits = await fold.follow()
    assert commits[0].seq < end < commits[-1].seq and commits[0].ops == [(0, "")]
    assert [commit.captured for commit in commits[-2:]] == [False, True] and commits[-1].ops
    await stage.equals(stage.main)


async def test_a_final_step_is_left_to_the_tables(stage: Stage, fold: ChangeFold) -> None:
    daemon = await stage.start()
    await begin(stage, fold)
    for node in stage.nodes:
        node.finalized = node.safe = Depth(0)
    tip = stage.grow(stage.main, 1, 3.0)
    await show(stage, daemon, tip)
    assert [(c.kind, c.captured, c.ops) for c in await fold.follow()] == [("forward", False, [])]
