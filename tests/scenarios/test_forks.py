"""S7 to S9, S11, S12: what a fork does to one transaction, to work in flight, to another fork, to a long sleep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.db.connection import connection
from indexer.errors import EpochChangedError, ReorgTooDeepError
from indexer.follow.state_machine import Mode
from indexer.ingest import fetch
from indexer.ingest.fetch import fetch_batch
from indexer.projector.step import Step
from indexer.reorg import replacement
from indexer.reorg.recovery import Recovery
from indexer.store import raw_logs
from indexer.store.index_state import load_index_state
from tests.scenarios.harness import ADDRESSES, Daemon, Stage, after
from tests.support.daemon import LOCKED_OUT, wait_row
from tests.support.simchain.chain import SimLog
from tests.support.simchain.view import Depth
from tests.support.waiting import guard

# -- S7

ACCOUNT, OLD_OWNER, NEW_OWNER = 900_001, "0x" + "0a" * 20, "0x" + "0b" * 20


def liquidation(stage: Stage, price: int) -> SimLog:
    payload = {"executionType": 2, "executedBase": 5, "price": price}
    return stage.log("passive_perp", "PassivePerpExecutionV3", marketId=1, accountId=ACCOUNT, payload=payload)


def owned_by(stage: Stage, owner: str) -> SimLog:
    return stage.log("core", "AccountOwnerUpdated", accountId=ACCOUNT, newOwner=owner)


@pytest.mark.parametrize("place", ["the same", "another block", "another log index"])
@pytest.mark.parametrize("owner", ["changes before the trade", "changes after the trade"])
async def test_s07_same_transaction_in_both_forks(place: str, owner: str, stage: Stage) -> None:
    """A liquidation at another price, maybe elsewhere, of an account whose owner changes on its other side."""
    base = stage.chain(stage.main, [stage.tx(owned_by(stage, OLD_OWNER))])
    one, change = stage.tx(liquidation(stage, 100)), stage.tx(owned_by(stage, NEW_OWNER))
    two = stage.tx(liquidation(stage, 200), hash=one.hash)
    some = stage.tx(*(stage.log("core", "Deposited") for _ in range(3)))
    before = "before" in owner
    first, second = (change, two) if before else (two, change)
    a = stage.chain(base, [one, change] if before else [change, one], salt=b"a")
    if place == "another block":
        b = stage.chain(base, [some], [first, second], salt=b"b")
    elif place == "another log index":
        b = stage.chain(base, [some, first, second], salt=b"b")
    else:
        a = stage.chain(base, [change, one] if before else [one, change], salt=b"a")
        b = stage.chain(base, [first, second], salt=b"b")
    stage.show(a)
    daemon = await stage.start()
    stage.show(b)
    await daemon.settle()
    rows = await stage.fetch(
        "SELECT execution_price, owner_address FROM liquidation_history_details WHERE transaction_hash = $1",
        "0x" + one.hash.hex(),
    )
    assert rows == [(200, NEW_OWNER if before else OLD_OWNER)]
    await stage.equals(b, [(101, 1)])
    stage.show(stage.grow(a, 2))
    await daemon.settle()
    await stage.equals(stage.tree[stage.nodes[0].head], [(101, 1), (101, b.number - 101)])


# -- S8


async def in_flight(stage: Stage, worker: Daemon) -> tuple[Any, Any]:
    """Where the worker believes to stand, and blocks 91..100 as it read them."""
    state = await worker.runner.engine.observer.load_state(worker.conn)
    segment = ContractRange(91, 100, tuple(sorted(ADDRESSES)))
    return state, await worker.pool.with_failover(lambda reader: fetch_batch(reader, segment, FinalBlock(60), None))


async def test_s08_reorg_while_a_backfill_of_the_same_range_is_in_flight(stage: Stage) -> None:
    stage.show(stage.at(stage.main, 90), 0)
    daemon, worker = await stage.start(0), await stage.start(1, settled=False)
    state, unit = await in_flight(stage, worker)
    b = stage.fork("b", 85, 20)
    stage.show(b)
    await daemon.settle()
    with pytest.raises(EpochChangedError):
        await worker.runner.engine.writer.commit_batch(Step(worker.conn, state, None), unit, 60)
    await worker.poll()  # plans anew: nothing of it is left to do
    await stage.equals(b, [(85, 5)])


async def test_s08_reorg_between_the_validation_of_a_range_and_its_commit(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.show(stage.at(stage.main, 90), 0)
    daemon, worker = await stage.start(0), await stage.start(1, settled=False)
    state, unit = await in_flight(stage, worker)
    stored, go_on, store = asyncio.Event(), asyncio.Event(), raw_logs.insert_batch

    async def slowly(conn: Any, *args: Any) -> None:
        await store(conn, *args)
        if conn is worker.runner.conn:
            stored.set()
            await go_on.wait()

    monkeypatch.setattr(raw_logs, "insert_batch", slowly)
    work = asyncio.create_task(worker.runner.engine.writer.commit_batch(Step(worker.conn, state, None), unit, 60))
    await stored.wait()
    b = stage.fork("b", 85, 20)
    stage.show(b)
    follow = asyncio.create_task(daemon.settle())
    await wait_row(stage.url, LOCKED_OUT)
    assert not follow.done()  # the swap waits for the step that is under way
    go_on.set()
    await asyncio.gather(work, follow)
    await stage.equals(b)
    ((fork_point, depth),) = await stage.fetch("SELECT fork_point, old_tip FROM indexer.reorg_journal")
    assert fork_point == 85 and depth in (90, 100)


# -- S9


async def test_s09_reorg_on_reorg_during_the_search(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    b, c = stage.fork("b", 93, 7), stage.fork("c", 91, 10)
    stage.show(b)
    node.on_request = after(2, lambda: stage.show(c), "eth_getBlockByNumber")
    await daemon.settle()
    await stage.equals(c)
    assert 1 <= len(await stage.journal()) <= 2


async def test_s09_reorg_on_reorg_while_it_is_staged(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacement, "MAX_STAGED_BLOCKS", 2)
    daemon, node = await stage.start(), stage.nodes[0]
    b, c = stage.fork("b", 93, 7), stage.fork("c", 91, 10)
    stage.show(b)
    node.on_request = after(2, lambda: stage.show(c), "eth_getLogs")
    await daemon.settle()
    await stage.equals(c, [(91, 9)])


@pytest.mark.parametrize("when", ["during the search", "while it is staged"])
async def test_s09_back_to_the_stored_fork(when: str, stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    stage.show(stage.fork("b", 93, 7))
    methods = ("eth_getBlockByNumber",) if "search" in when else ("eth_getLogs",)
    node.on_request = after(0, lambda: stage.show(stage.main), *methods)
    await daemon.settle()
    await stage.untouched(stage.main)


async def test_s09_twenty_alternations(stage: Stage) -> None:
    """Two nodes of one pool, each on its own fork and each changing it; every look ends, and the last fork wins."""
    daemon = await stage.start(0, 1)
    b = stage.fork("b", 93, 7)
    async with guard("the end of every look"):
        for turn in range(20):
            stage.show((stage.main, b)[turn % 2], 0)
            stage.show((b, stage.main)[turn % 2], 1)
            stage.nodes[0].on_request = after(turn % 5, lambda: stage.show(b, 0, 1), "eth_getBlockByNumber")
            await daemon.poll()
    assert len(await stage.journal()) <= 40
    stage.nodes[0].on_request = None
    tip = stage.grow(b, 1)
    stage.show(tip)
    await daemon.settle()
    await stage.equals(tip)


# -- S11


async def test_s11_below_finalized_on_every_endpoint_halts_until_a_person_confirms(stage: Stage) -> None:
    daemon = await stage.start(0, 1)
    b = stage.fork("b", 50, 55)
    stage.show(b)
    for _ in range(3):
        assert not await daemon.poll()
        assert daemon.mode is Mode.HALTED and daemon.progress.reasons_not_ready()
    await stage.untouched(stage.main)
    assert "halted" in await stage.value("SELECT state FROM indexer.lease")

    async with connection(stage.url) as conn:
        recovery = Recovery(daemon.runner.deployment, daemon.pool, conn)
        plan = await recovery.plan(None)
        assert (plan.fork.number, plan.keep.number, plan.upto >= 100) == (50, 50, True)
        await stage.untouched(stage.main)  # planning changes nothing
        executed = asyncio.create_task(recovery.recover(None, plan.plan_hash))
        while not executed.done():
            await daemon.poll()  # leaves the lease to the recovery
            await asyncio.sleep(0.01)
        await executed
    await daemon.settle()
    await stage.equals(b, [(50, 50)], healed=True)
    assert daemon.mode is Mode.FOLLOWING and not daemon.progress.reasons_not_ready()
    await daemon.stop()
    tip = stage.grow(b, 2)
    stage.show(tip)
    await stage.start()  # what the database is bound to went with the reorg, and is another block now
    await stage.equals(tip, [(50, 50)], healed=True)


async def test_s11_below_finalized_on_one_endpoint_only_sets_that_one_aside(stage: Stage) -> None:
    daemon = await stage.start(0, 1)
    stage.show(stage.fork("b", 50, 60), 0)
    tip = stage.grow(stage.main, 5)
    stage.show(tip, 1)
    await daemon.settle()
    await stage.untouched(tip)
    assert daemon.mode is Mode.FOLLOWING
    assert daemon.pool.ordered()[-1].name == stage.nodes[0].url


async def test_s11_a_backfill_ends_with_its_own_code(stage: Stage) -> None:
    await (await stage.start()).stop()  # bound to block 60
    tip = stage.grow(stage.main, 20)
    for node in stage.nodes:
        node.finalized = node.safe = 90
    stage.show(tip)
    await (await stage.start()).stop()
    stage.show(stage.fork("b", 70, 60, tip=tip))
    backfill = await stage.start(settled=False, first=0, last=125)
    with pytest.raises(ReorgTooDeepError) as caught:
        await backfill.poll()
    assert caught.value.exit_code == 70 and caught.value.remedy
    await stage.untouched(tip)


async def test_s11_below_the_first_stored_block_when_nothing_of_it_is_final(stage: Stage) -> None:
    for node in stage.nodes:
        node.finalized = node.safe = 20
    daemon = await stage.start(first=90)
    b = stage.fork("b", 85, 30)
    stage.show(b)
    await daemon.settle()
    await stage.equals(b, [(89, 11)], origin=90)


# -- S12


@pytest.mark.parametrize("restarted", ["as it was", "with other ABIs", "with a lower origin"])
async def test_s12_offline_reorg_and_long_sleep(restarted: str, stage: Stage) -> None:
    lower = "origin" in restarted
    daemon = await stage.start(first=10 if lower else 0)
    await daemon.stop()
    b = stage.fork("b", 95, 25)
    tip = stage.grow(stage.tree.grow(b.hash, 1_500), 5)
    for node in stage.nodes:
        node.finalized = node.safe = Depth(40)
    stage.show(tip)
    daemon = await stage.start(settled=False, first=0)
    if "ABIs" in restarted:
        daemon.runner.engine.writer.digest = "other"
    stage.nodes[0].requests.clear()
    await daemon.settle()
    await stage.equals(tip, [(95, 5)])
    assert stage.nodes[0].requests["eth_getLogs"] <= 8  # a single pass: 1,600 blocks of at most 2,000 at once


async def test_s12_a_node_whose_finalized_tag_is_its_head(stage: Stage) -> None:
    """What the database was bound to is deep enough not to go with the newest block."""
    for node in stage.nodes:
        node.finalized = node.safe = Depth(0)
    daemon = await stage.start()
    await daemon.stop()
    stage.show(stage.fork("b", 99, 3))
    daemon = await stage.start(settled=False)
    await daemon.poll(2)
    await stage.stands_at(stage.main)  # final is final: a person decides
    assert daemon.mode is Mode.HALTED


async def test_s12_the_floor_is_a_stored_block(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process ingested as final what the projector's endpoint does not call final yet."""
    monkeypatch.setattr(fetch, "CHAINED_BLOCKS", 7)
    first = await stage.start(settled=False)
    await first.runner.engine.lease_keeper.take(first.conn)
    stage.nodes[1].finalized = 80
    worker = await stage.start(1, settled=False)
    await worker.poll(4)
    await worker.stop()
    stage.nodes[0].finalized = stage.nodes[1].finalized = 70
    await first.settle()
    async with connection(stage.url) as conn:
        state = await load_index_state(conn, sorted(ADDRESSES))
    assert (state.floor,) in await stage.fetch("SELECT number FROM indexer.block")
    b = stage.fork("b", 85, 20)
    stage.show(b)
    await first.settle()
    await stage.equals(b, [(85, 15)])
