"""S4 to S6 to their end: what no hash of a block tells is found by headers and receipts, or by a second endpoint."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from indexer.attest import auditor as auditors
from indexer.attest.auditor import Auditor
from indexer.projector.rollback import ENDPOINT_INCIDENTS
from indexer.reorg.recovery import Recovery
from indexer.store import attestations
from tests.scenarios.harness import ADDRESSES, Daemon, Stage, after
from tests.scenarios.test_answers import last_logs, misleading
from tests.support.simchain.chain import Block
from tests.support.simchain.view import NO_RECEIPTS, Json
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """New blocks do not wait for more, and what could not be attested waits for a new auditor."""
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)


async def fetch_json(stage: Stage, query: str) -> list[Any]:
    return [row[0] for row in await stage.fetch(query)]


async def incidents(stage: Stage) -> list[tuple[str, str]]:
    """Open ones about endpoints."""
    return await stage.fetch(
        "SELECT kind, subject FROM indexer.incident WHERE resolved_at IS NULL AND kind = ANY($1::text[]) ORDER BY 1, 2",
        ENDPOINT_INCIDENTS,
    )


async def faults(stage: Stage) -> list[tuple[Any, ...]]:
    """Endpoint, role, block, what, and whether the heal is in the journal."""
    return await stage.fetch(
        "SELECT b.endpoint, role, block_number, what, j.id IS NOT NULL FROM indexer.blame b"
        " LEFT JOIN indexer.reorg_journal j ON j.id = b.reorg_id ORDER BY b.id"
    )


def up_to(auditor: Auditor) -> tuple[int, int]:
    """Cross-checked and proven, as /metrics shows them."""
    return auditor.gauges.up_to["cross-checked"], auditor.gauges.up_to["proven"]


async def audited(daemon: Daemon, stage: Stage, *nodes: int) -> Auditor:
    auditor = daemon.auditor([stage.nodes[n] for n in nodes])
    assert await daemon.audit(auditor) == "up to date"
    return auditor


# -- S4


@pytest.mark.parametrize("transactions", ["of its own", "that the true fork has elsewhere"])
async def test_s04_torn_read_in_disguise(transactions: str, stage: Stage) -> None:
    """Logs of another fork under the hash of this one's header: nothing contradicts it until receipts are read."""
    liar, b = stage.nodes[0], stage.busy("b", 50, 50)
    stage.show(b)
    parent, own = stage.at(b, 55), "own" in transactions
    a = stage.chain(parent, *(stage.filler(parent, 3) for _ in range(45))) if own else stage.fork("a", 55, 45, tip=b)
    liar.torn, liar.torn_disguise = a.hash, True
    daemon = await stage.start(0, 1)
    assert await stage.value("SELECT count(*) FROM indexer.raw_log WHERE block_number > 55")
    auditor = await audited(daemon, stage, 1)
    # The final blocks are healed at once, whatever is still stored above them.
    assert up_to(auditor) == (60, 60)
    blamed = await faults(stage)
    assert blamed and {(e, role, healed) for e, role, _, _, healed in blamed} == {(_name(stage, 0), "served", True)}
    assert {block for _, _, block, *_ in blamed} <= set(range(56, 61 if own else 101))
    # What is not final yet is found when it is.
    for node in stage.nodes:
        node.knobs()
        node.finalized = node.safe = 100
    await daemon.settle()
    auditor = await audited(daemon, stage, 1)
    assert up_to(auditor) == (100, 100)
    await stage.equals(b, healed=True)


def _name(stage: Stage, node: int) -> str:
    return stage.nodes[node].url


# -- S5

LIES = ["on every shape", "on every shape, receipts too", "on ranges only", "a wrong index for a while"]


@pytest.mark.parametrize("lie", LIES)
async def test_s05_silent_omission_is_found_healed_and_blamed(lie: str, stage: Stage) -> None:
    liar, places = stage.nodes[0], last_logs(stage)
    if "index" in lie:
        liar.wrong_index = {place: place[1] + 50 for place in places}
    else:
        liar.omit, liar.omit_mode = set(places), "ranges" if "ranges" in lie else "always"
        liar.omit_receipts = "receipts" in lie
    daemon = await stage.start(0, 1)
    whole = sum(g["address"] in ADDRESSES for g in stage.tree.logs(stage.main.hash))
    count = "SELECT count(*) FROM indexer.raw_log"
    assert await stage.value(count) == whole - len(places) * ("index" not in lie)
    first = min(stage.tree[hash_].number for hash_, _ in places)

    alone = "receipts" in lie
    if alone:
        # Its receipts lack the logs too: nothing is proven, nothing healed, nobody set aside; the rest is attested.
        auditor = await audited(daemon, stage, 0)
        assert up_to(auditor) == (first - 1, first - 1)
        assert (await incidents(stage), await faults(stage)) == ([("unprovable", f"{_name(stage, 0)}: root")], [])
        assert (await stage.deleted(), await stage.journal()) == ({}, [])
    auditor = await audited(daemon, stage, *((0, 1) if alone else (0,)))

    assert up_to(auditor) == (60, 60)
    assert await stage.value(count) == whole
    what = "gave a wrong log index" if "index" in lie else "left out a log"
    blocks = sorted(stage.tree[hash_].number for hash_, _ in places)
    assert await faults(stage) == [(_name(stage, 0), "served", block, what, True) for block in blocks]
    causes = await fetch_json(stage, "SELECT cause FROM indexer.reorg_journal")
    assert causes and all(_name(stage, 0) in cause and "attestation" in cause for cause in causes)
    assert ("endpoint_wrong", _name(stage, 0)) in await incidents(stage)
    assert auditor.gauges.blamed == {_name(stage, 0): len(places)} and auditor.gauges.healed == len(causes)
    await stage.equals(stage.main, healed=True)


async def test_s05_silent_omission_is_found_by_a_second_endpoint(stage: Stage) -> None:
    """History is not proven here but cross-checked; what the endpoints disagree about is decided by receipts."""
    liar, places = stage.nodes[0], last_logs(stage)
    liar.omit = set(places)
    daemon = await stage.start(0, 1, recent_blocks=0)
    auditor = await audited(daemon, stage, 0, 1)
    assert up_to(auditor)[0] == 60
    grades = await stage.fetch("SELECT DISTINCT grade FROM indexer.attestation ORDER BY 1")
    assert ("cross-checked",) in grades
    blocks = sorted(stage.tree[hash_].number for hash_, _ in places)
    assert [(e, block) for e, _, block, *_ in await faults(stage)] == [(_name(stage, 0), block) for block in blocks]
    await stage.equals(stage.main, healed=True)


async def test_s05_the_endpoint_that_is_asked_omits(stage: Stage) -> None:
    """What is stored is right and is proven to be; the second endpoint is blamed and nothing is healed."""
    places = last_logs(stage)
    daemon = await stage.start(0, recent_blocks=0)
    stage.nodes[1].omit = set(places)
    auditor = await audited(daemon, stage, 0, 1)
    assert up_to(auditor)[0] == 60
    blocks = sorted(stage.tree[hash_].number for hash_, _ in places)
    told = [(_name(stage, 1), "asked", block, "left out a log", False) for block in blocks]
    assert await faults(stage) == told
    assert (await stage.deleted(), await stage.journal()) == ({}, [])
    await stage.equals(stage.main)


async def test_s05_two_endpoints_disagree_and_neither_has_receipts(stage: Stage) -> None:
    places = last_logs(stage)
    for node in stage.nodes:
        node.missing_methods = NO_RECEIPTS
    daemon = await stage.start(0, recent_blocks=0)
    stage.nodes[1].omit = set(places)
    auditor = await audited(daemon, stage, 0, 1)
    first = min(stage.tree[hash_].number for hash_, _ in places)
    assert up_to(auditor)[0] == first - 1
    kinds = {kind for kind, _ in await incidents(stage)}
    assert kinds == {"endpoints_disagree", "unprovable"} and await faults(stage) == []
    assert (await stage.deleted(), await stage.journal()) == ({}, [])
    await stage.equals(stage.main)


async def test_s05_a_root_that_does_not_match_while_the_logs_do_heals_and_blames_nothing(stage: Stage) -> None:
    def other_gas(receipts: list[Json]) -> None:
        for receipt in receipts:
            receipt["cumulativeGasUsed"] = hex(int(receipt["cumulativeGasUsed"], 16) + 1)

    stage.nodes[0].patch_receipts = other_gas
    daemon = await stage.start()
    auditor = await audited(daemon, stage, 0)
    assert await incidents(stage) == [("unprovable", f"{_name(stage, 0)}: root")]
    assert (await faults(stage), await stage.deleted(), await stage.journal()) == ([], {}, [])
    silent = 61 - await stage.value("SELECT count(DISTINCT block_number) FROM indexer.raw_log WHERE block_number <= 60")
    assert 0 < auditor.gauges.blocks["proven"] <= silent  # blooms prove the others
    # The endpoint is well again: what could not be proven is, and the incident ends.
    stage.nodes[0].patch_receipts = None
    auditor = await audited(daemon, stage, 0)
    assert up_to(auditor) == (60, 60) and await incidents(stage) == []


async def test_s05_a_transaction_hash_is_no_reason_to_heal(stage: Stage) -> None:
    """No receipt proves it: an endpoint whose receipts have the right root may still make it up."""

    def other_hash(receipts: list[Json]) -> None:
        for receipt in receipts:
            receipt["transactionHash"] = "0x" + "77" * 32

    stage.nodes[0].patch_receipts = other_hash
    daemon = await stage.start()
    auditor = await audited(daemon, stage, 0)
    assert await incidents(stage) == [("unprovable", f"{_name(stage, 0)}: transaction hash")]
    assert await faults(stage) == [] and up_to(auditor)[0] < 60
    await stage.untouched(stage.main)


async def test_s05_headers_that_are_labels_prove_nothing_and_say_so(stage: Stage) -> None:
    """A recorded chain, or a benchmark's: `run --no-attest` is for these."""
    for node in stage.nodes:
        node.patch_header = lambda header: header | {"stateRoot": "0x" + "11" * 32}
    daemon = await stage.start()
    auditor = await audited(daemon, stage, 0)
    assert up_to(auditor) == (-1, -1)
    assert await incidents(stage) == [("unprovable", f"{_name(stage, 0)}: header")]
    # A second endpoint still cross-checks it.
    auditor = await audited(daemon, stage, 0, 1)
    assert up_to(auditor) == (60, -1)
    await stage.untouched(stage.main)


# -- S6


async def test_s06_a_bloom_that_is_wrong_is_proven_by_receipts(stage: Stage) -> None:
    daemon, node = await stage.start(0, 1), stage.nodes[0]
    foreign = stage.tx(*misleading(stage, min(ADDRESSES)))
    tip = stage.chain(stage.main, [foreign], stage.filler(stage.main, 2))
    stage.show(tip)
    await daemon.settle(3)
    for one in stage.nodes:
        one.finalized = one.safe = tip.number
    await daemon.settle(3)
    asked = node.requests["eth_getBlockReceipts"]
    auditor = await audited(daemon, stage, 0)
    assert up_to(auditor) == (tip.number, tip.number)
    assert node.requests["eth_getBlockReceipts"] > asked
    await stage.untouched(tip)


async def test_s06_not_yet_indexed_head_that_was_believed_is_found(stage: Stage) -> None:
    """A node without receipts is believed when logs that its bloom announces never come. Later another one has them."""
    daemon, node = await stage.start(0), stage.nodes[0]
    node.missing_methods, node.log_lag = NO_RECEIPTS, 1
    tip: Block = stage.busy("next", 100, 1)
    stage.show(tip)
    await daemon.settle()
    assert await stage.value("SELECT count(*) FROM indexer.raw_log WHERE block_number = 101") == 0
    node.log_lag = 0
    for one in stage.nodes:
        one.finalized = one.safe = 101
    await daemon.settle()
    auditor = await audited(daemon, stage, 0, 1)
    assert up_to(auditor) == (101, 101)
    assert {(e, block, what) for e, _, block, what, _ in await faults(stage)} == {
        (_name(stage, 0), 101, "left out a log")
    }
    await stage.equals(tip, healed=True)


# -- around it


async def test_the_auditor_stands_by_while_the_head_is_not_followed_closely(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    auditor, p = daemon.auditor([node]), daemon.progress
    for name, value in (("holder", False), ("waiting", "the database"), ("mode", "searching a fork point"),
                        ("head", p.head + 100), ("finalized", -1)):  # fmt: skip
        before = getattr(p, name)
        setattr(p, name, value)
        assert not await auditor.run_once() and auditor.gauges.state.startswith("stands by"), name
        setattr(p, name, before)
    assert auditor.pool.requests == 0
    auditor.gauges.state = ""
    # Also in the middle of a piece.
    node.on_request = after(0, lambda: setattr(p, "head", p.head + 100), "eth_getBlockReceipts")
    turn = asyncio.create_task(auditor.run_once())
    await eventually(lambda: auditor.gauges.state.startswith("stands by: the head"), "an auditor that stands by")
    asked = auditor.pool.requests
    await asyncio.sleep(0.3)
    assert auditor.pool.requests == asked and not turn.done()
    p.head -= 100
    assert await turn and up_to(auditor) == (60, 60)


async def test_what_a_recovery_takes_back_is_no_longer_attested_and_is_attested_again(stage: Stage) -> None:
    daemon = await stage.start()
    auditor = await audited(daemon, stage, 0)
    await daemon.runner.close()  # frees the lease, which the recovery takes
    await daemon.runner.open()
    recovery = Recovery(daemon.runner.deployment, daemon.pool, daemon.conn)
    made = await recovery.plan(40)
    await recovery.recover(40, made.plan_hash)
    addresses = [c.address for c in daemon.runner.deployment.contracts]
    told = await attestations.summaries(daemon.conn, addresses, 0)
    assert [told[grade].up_to for grade in attestations.ANY] == [40, 40]
    await daemon.settle()
    assert await daemon.audit(auditor) == "up to date" and up_to(auditor) == (60, 60)
    assert await stage.fetch("SELECT first_block, last_block FROM indexer.attestation WHERE grade = 'void'") == [
        (41, 60)
    ]


async def test_each_of_two_endpoints_confirms_what_the_other_served(stage: Stage) -> None:
    daemon = await stage.start(0, settled=False, first=0, last=29, recent_blocks=0)
    await daemon.runner.backfill()
    await daemon.stop()
    daemon = await stage.start(1, recent_blocks=0)
    auditor = await audited(daemon, stage, 0, 1)
    assert up_to(auditor)[0] == 60
    rows = await stage.fetch("SELECT first_block, last_block, endpoints FROM indexer.attestation ORDER BY 1")
    one, two = _name(stage, 0), _name(stage, 1)
    assert rows == [(0, 29, [one, two]), (30, 60, [two, one])]


async def test_an_endpoint_of_another_chain_confirms_nothing_and_is_not_blamed_for_logs(stage: Stage) -> None:
    daemon = await stage.start(0, recent_blocks=0)
    stage.nodes[1].patch_header = lambda header: header | {"hash": "0x" + "11" * 32}
    stage.nodes[1].omit = set(last_logs(stage))
    stage.nodes[0].missing_methods = NO_RECEIPTS
    auditor = await audited(daemon, stage, 0, 1)
    assert up_to(auditor) == (-1, -1) and await faults(stage) == []
    assert await incidents(stage) == [("unprovable", f"{_name(stage, 1)}: chain")]
    await stage.untouched(stage.main)
