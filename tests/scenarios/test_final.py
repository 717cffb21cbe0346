"""What is final is a block and its hash, not a number: a node on an orphaned branch has another block of it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from indexer.attest import auditor as auditors
from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef
from indexer.errors import NotFinalError
from indexer.follow import action_executor
from indexer.follow.state_machine import Mode
from indexer.ingest.fetch import fetch_batch
from indexer.reorg import heal
from indexer.reorg.claims import final_up_to
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from tests.scenarios.harness import ADDRESSES, CHAIN_ID, Daemon, Stage
from tests.scenarios.test_answers import last_logs
from tests.scenarios.test_attest import audited
from tests.support.simchain.node import Fault, Say
from tests.support.simchain.view import Depth, View

HEAD, FINAL, ORPHANED = 9, 6, 2  # the other node stands at block 3 of a branch orphaned from block 2 on


@pytest.fixture
async def young(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """Nine blocks, six final, on the first node. The second is stuck, and honest about its own finality."""
    async with Stage(url, request.node.nodeid, HEAD, FINAL) as made:
        made.main = made.chain(made.at(made.main, 1), *(made.filler(made.main, 2) for _ in range(HEAD - 1)))
        made.show(made.main, 0)
        stuck = made.nodes[1]
        stuck.head = made.busy("orphans", ORPHANED - 1, 2).hash
        stuck.finalized = stuck.safe = ORPHANED - 1
        yield made


def asks_for_logs(asked: Any, first: int, last: int) -> bool:
    """Whether a request asks for the logs of any block of first..last."""
    ranges = [c["params"][0] for c in (asked if isinstance(asked, list) else [asked]) if c["method"] == "eth_getLogs"]
    return any(int(r["fromBlock"], 16) <= last and int(r["toBlock"], 16) >= first for r in ranges)


def refuses(times: int) -> Callable[[Any], Fault | None]:
    """502 for so many requests for the logs of the blocks that the other node has orphans of."""
    left = itertools.count(times, -1)
    return lambda asked: Say(502, "Bad Gateway") if asks_for_logs(asked, 2, 3) and next(left) > 0 else None


def diverts(stage: Stage, times: int) -> Callable[[Any], View | None]:
    """A load balancer that sends so many of these requests to the stuck node."""
    left = itertools.count(times, -1)
    return lambda asked: stage.nodes[1] if asks_for_logs(asked, 2, 3) and next(left) > 0 else None


def picks(stage: Stage) -> Callable[[Any], View | None]:
    """A load balancer that picks one of them, whatever is asked."""
    return lambda asked: stage.rng.choice([None, None, stage.nodes[1]])


async def recovers(stage: Stage, daemon: Daemon) -> None:
    """The stuck node catches up and serves alone for a while; what it says denies nothing that is stored."""
    tip = stage.grow(stage.main, 4)
    stage.show(tip)
    for node in stage.nodes:
        node.finalized = node.safe = 8
        node.balance, node.fault_for = lambda asked: None, lambda asked: None
    stage.nodes[0].offline = len(daemon.pool.readers) > 1
    await daemon.settle()
    assert daemon.mode is Mode.FOLLOWING
    await stage.untouched(tip)
    stage.nodes[0].offline = False


def not_blamed(daemon: Daemon) -> None:
    """The good endpoint was not set aside for denying what is stored."""
    assert not daemon.pool.readers[0].endpoint.health.counts["disagreements"]


@pytest.mark.parametrize("blocks", [1, 2, 2000])
async def test_e08_orphans_of_a_stuck_endpoint_are_not_final_for_their_numbers(young: Stage, blocks: int) -> None:
    young.nodes[0].fault_for = refuses(4)
    daemon = await young.start(0, 1, max_blocks=blocks)
    assert young.nodes[1].requests["eth_getLogs"], "the stuck node was asked"
    await young.untouched(young.main)
    assert await young.value("SELECT rollback_floor FROM indexer.checkpoint") == FINAL
    not_blamed(daemon)
    await recovers(young, daemon)


@pytest.mark.parametrize("blocks", [1, 2, 2000])
async def test_e08_one_url_that_leads_to_a_stuck_node_too(young: Stage, blocks: int) -> None:
    young.nodes[0].balance = diverts(young, 4)
    daemon = await young.start(0, max_blocks=blocks)
    await young.untouched(young.main)
    assert not daemon.errors, "asked again at the same name, which then led to the other node"
    not_blamed(daemon)
    await recovers(young, daemon)


@pytest.mark.parametrize("bulk", [False, True], ids=["by steps", "in bulk"])
@pytest.mark.parametrize("balanced", [False, True], ids=["two endpoints", "one balanced URL"])
async def test_e08_a_backfill(young: Stage, balanced: bool, bulk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if bulk:
        monkeypatch.setattr(action_executor, "MIN_CATCH_UP_BLOCKS", 2)
    if balanced:
        young.nodes[0].balance = diverts(young, 4)
    else:
        young.nodes[0].fault_for = refuses(4)
    nodes = (0,) if balanced else (0, 1)
    daemon = await young.start(*nodes, settled=False, max_blocks=2, first=0, last=FINAL)
    state = await daemon.runner.backfill()
    assert state is not None and state.floor == FINAL and daemon.runner.finished(state)
    await young.untouched(young.at(young.main, FINAL))
    not_blamed(daemon)
    await daemon.stop()
    young.daemons.remove(daemon)
    await recovers(young, await young.start(*nodes, settled=False))


async def test_a_balancer_that_picks_either_costs_time_and_no_orphan(young: Stage) -> None:
    """Looks, searches and ranges each reach either node; the stuck one's head is its lag, no fork below finalized."""
    young.nodes[0].balance = picks(young)
    daemon = await young.start(0, settled=False, max_blocks=2)
    for _ in range(100):
        if not await daemon.poll() and not daemon.progress.waiting:
            break
        assert daemon.mode is not Mode.HALTED
    await young.untouched(young.main)
    assert await young.value("SELECT rollback_floor FROM indexer.checkpoint") == FINAL
    await recovers(young, daemon)


async def test_a_head_on_another_branch_below_what_is_final_is_a_lag(young: Stage) -> None:
    """The one name there is leads to the stuck node for a while: waited for, with a reason, instead of halted."""
    daemon = await young.start(0, first=0, last=3)
    assert await young.value("SELECT rollback_floor FROM indexer.checkpoint") == 3
    young.nodes[0].balance = lambda asked: young.nodes[1]
    await daemon.poll(3)
    assert daemon.mode is Mode.WAITING and "below what is final" in daemon.progress.waiting
    await daemon.stop()
    young.daemons.remove(daemon)
    young.nodes[0].balance = lambda asked: None
    await recovers(young, await young.start(0))


async def test_orphans_stored_before_they_were_denied_do_not_become_final(young: Stage) -> None:
    """They came from the stuck node while nothing above block 1 was final; then another one names block 6."""
    daemon = await young.start(1)
    await young.stands_at(young.tree[young.nodes[1].head])
    await daemon.stop()
    young.daemons.remove(daemon)
    stuck, orphans = young.nodes[1], young.tree[young.nodes[1].head]
    daemon = await young.start(0, 1, settled=False)
    (only,) = (r for r in daemon.pool.readers if r.name == stuck.url)
    with pytest.raises(NotFinalError):
        await fetch_batch(
            only, ContractRange(2, 3, tuple(sorted(ADDRESSES))), FinalBlock(6, young.at(young.main, 6).hash), None
        )
    assert await final_up_to(only, BlockRef(3, orphans.hash, 0), FinalBlock(6, young.at(young.main, 6).hash)) == -1
    await daemon.settle()
    await young.equals(young.main, [(1, 2)])
    assert await young.value("SELECT rollback_floor FROM indexer.checkpoint") == FINAL


@pytest.mark.parametrize(("head", "borne_out"), [(9, True), (7, False)])
async def test_without_a_tag_the_head_of_who_serves_a_range_tells_what_is_final(
    young: Stage, head: int, borne_out: bool
) -> None:
    """Depth 3: blocks up to 5 are final below a head of 8, whoever showed that; a node at 7 does not bear it out."""
    young.show(young.at(young.main, head), 0)
    pool = Pool([young.nodes[0].url], CHAIN_ID)
    await pool.open()
    reader: Reader = pool.readers[0]
    try:
        segment = ContractRange(4, 5, tuple(sorted(ADDRESSES)))
        if borne_out:
            assert (await fetch_batch(reader, segment, FinalBlock(5, depth=3), None)).final == 5
        else:
            with pytest.raises(NotFinalError):
                await fetch_batch(reader, segment, FinalBlock(5, depth=3), None)
    finally:
        await pool.close()


async def test_the_final_block_costs_no_request_and_no_call_where_it_is_read_anyway(young: Stage) -> None:
    node, pool = young.nodes[0], Pool([young.nodes[0].url], CHAIN_ID)
    await pool.open()
    final, addresses = (
        FinalBlock(6, young.at(young.main, 6).hash),
        ("0x" + "77" * 20,),
    )  # logs nothing: a block with logs may cost a header for its time
    try:
        for (first, last), headers in {(2, 6): 2, (2, 5): 3, (7, 9): 4}.items():
            asked, calls = node.http_requests, node.requests["eth_getBlockByNumber"]
            await fetch_batch(pool.readers[0], ContractRange(first, last, addresses), final, None)
            spent = (node.http_requests - asked, node.requests["eth_getBlockByNumber"] - calls)
            assert spent == (1, headers), (first, last)
    finally:
        await pool.close()


async def test_a_heal_does_not_believe_a_tag_that_the_daemon_disbelieves(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence is the daemon's own: a heal that looked anew would make the head final."""

    async def too_much(*_: object) -> None:
        """More than a heal replays: everything is projected again."""

    monkeypatch.setattr(heal, "_replay_scope", too_much)
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)
    liar, tip = stage.nodes[0], stage.main
    liar.omit = set(last_logs(stage))
    daemon = await stage.start(0)
    daemon.runner.engine.observer.finality.depth = 5
    liar.omit = set()
    for node in stage.nodes:
        node.finalized = node.safe = Depth(0)
    for _ in range(12):
        tip = stage.grow(tip, 1)
        stage.show(tip)
        await daemon.settle()
    assert "equals latest" in daemon.progress.finality_source
    await audited(daemon, stage, 0, 1)
    assert await stage.value("SELECT count(*) FROM indexer.commit_log WHERE kind = 'reproject'")
    assert await stage.value("SELECT rollback_floor FROM indexer.checkpoint") == tip.number - 5
    await stage.equals(tip, healed=True)
