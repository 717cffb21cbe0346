"""Proof at the head and strict mode in the cases that meet something else: forks, finality, new contracts, failures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from indexer.attest import auditor as auditors
from indexer.attest import background, head_prover, proof
from indexer.attest.auditor import Auditor
from indexer.attest.head_prover import HeadProver
from indexer.db.connection import Connection
from indexer.errors import TransientRpcError
from indexer.follow import maintenance
from indexer.ingest import block_proof
from indexer.projector.step import StepResult
from tests.scenarios.harness import ADDRESSES, DEVNET, Daemon, Stage
from tests.scenarios.test_head_proof import at_once, faults, places, proven  # noqa: F401
from tests.support.simchain.chain import Block
from tests.support.simchain.node import Fault
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import Json

CORE = next(c.address for c in DEVNET.contracts if c.name == "core")


def number(stage: Stage, place: tuple[bytes, int]) -> int:
    return stage.tree[place[0]].number


def all_final_up_to(stage: Stage, block: int) -> None:
    for node in stage.nodes:
        node.finalized = node.safe = block


def refuse_receipts(stage: Stage, block: int) -> None:
    """The first node does not have the receipts of this block."""

    def refuse(method: str, params: list[Any]) -> None:
        if method == "eth_getBlockReceipts" and params[0] == hex(block):
            raise Refusal(-32000, "not found")

    stage.nodes[0].on_request = refuse


async def wrong_at_head(stage: Stage, at: int) -> tuple[Daemon, HeadProver, Block, int]:
    """A daemon whose endpoint left a log out, `at` as in places(); its prover, the tip, and the block."""
    tip = stage.grow(stage.main, 6, density=4.0)
    place = places(stage, tip, stage.main.number)[at]
    stage.nodes[0].omit = {place}
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    stage.show(tip)
    await daemon.settle()
    return daemon, prover, tip, number(stage, place)


async def turn(daemon: Daemon, auditor: Auditor) -> None:
    """One turn of the auditor beside the follower, which gives up the lease where it is wanted."""
    task = asyncio.create_task(auditor.run_once())
    while not task.done():
        await daemon.poll()
        await asyncio.sleep(0.005)
    await task


@pytest.mark.parametrize("short", [1, 2])
async def test_the_chain_becomes_shorter_than_the_block_that_is_reported(stage: Stage, short: int) -> None:
    daemon, prover, tip, block = await wrong_at_head(stage, -1)
    await prover.run_once()
    assert daemon.runner.engine.observer.wrong_from == block
    other = stage.fork("b", block - 5, 5 - short, tip=tip)
    assert other.number == block - short
    stage.show(other)
    await daemon.settle()
    await stage.equals(other)


async def test_a_block_that_becomes_final_while_it_is_reported_does_not_hide_later_ones(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, prover, tip, _ = await wrong_at_head(stage, -1)
    engine = daemon.runner.engine
    ingest = engine.actions._ingest

    async def reported_meanwhile(*given: Any) -> StepResult:
        await prover.run_once()
        return await ingest(*given)

    with monkeypatch.context() as patched:
        patched.setattr(engine.actions, "_ingest", reported_meanwhile)
        all_final_up_to(stage, tip.number)
        tip = stage.grow(tip, 2)
        stage.show(tip)
        await daemon.settle()
    later = stage.grow(tip, 6, density=4.0)
    place = places(stage, later, tip.number)[0]
    stage.nodes[0].omit = {place}
    stage.show(later)
    await daemon.settle()
    for _ in range(10):
        await prover.run_once()
        await daemon.poll()
    assert [block for _, _, block, *_ in await faults(stage)] == [number(stage, place)]


async def test_headers_that_are_forgotten_during_a_proof(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_prover, "MAX_OFFERED", 10)
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    await daemon.prove(prover)
    tip = stage.grow(stage.main, 5, density=1.0)
    tip = stage.grow(stage.empty("quiet", tip.number, 3, tip=tip), 2, density=4.0)
    stage.show(tip)
    await daemon.settle()
    prove, more = block_proof.prove_blocks, stage.empty("more", tip.number, 12, tip=tip)

    async def while_more_is_committed(*given: Any) -> Any:
        if stage.nodes[0].head != more.hash:
            stage.show(more)
            await daemon.settle()
        return await prove(*given)

    monkeypatch.setattr(head_prover, "prove_blocks", while_more_is_committed)
    await prover.run_once()
    assert set(range(101, tip.number + 1)) <= set(await proven(stage)) and not prover._errors


async def test_an_incident_of_the_prover_ends_when_the_block_is_proven(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_prover, "INCIDENT_AFTER_S", 0.0)
    open_ = "SELECT count(*) FROM indexer.incident WHERE kind = 'unprovable' AND resolved_at IS NULL"
    stage.nodes[0].omit_receipts = True
    daemon, prover, tip, _ = await wrong_at_head(stage, -1)
    await prover.run_once()
    assert await stage.value(open_) == 1
    stage.nodes[0].omit_receipts = False
    await daemon.prove(prover)
    all_final_up_to(stage, tip.number)
    stage.show(stage.grow(tip, 1))
    await daemon.settle()
    auditor = daemon.auditor([stage.nodes[0]])
    await daemon.audit(auditor)
    assert auditor.gauges.up_to["proven"] == tip.number
    assert await stage.value(open_) == 0


async def test_a_limit_on_receipts_is_named_though_other_blocks_need_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_prover, "INCIDENT_AFTER_S", 0.0)
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[1])
    await daemon.prove(prover)

    def limited(asked: Any) -> Fault | None:
        calls = asked if isinstance(asked, list) else [asked]
        return "429" if any("Receipt" in call["method"] for call in calls) else None

    stage.nodes[1].fault_for = limited
    tip = stage.chain(stage.main, [stage.tx(stage.log("core", "AccountCreated"))])
    for n in range(3):
        tip = stage.empty(f"q{n}", tip.number, 1, tip=tip)
        stage.show(tip)
        await daemon.settle()
        await prover.run_once()
    (subject,) = await stage.fetch("SELECT subject FROM indexer.incident WHERE kind = 'unprovable'")
    assert subject[0].startswith(stage.nodes[1].url)


async def test_a_heal_deletes_nothing_that_it_cannot_replace(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, prover, tip, block = await wrong_at_head(stage, 0)
    await prover.run_once()
    assert daemon.runner.engine.observer.wrong_from == block < tip.number - 1
    refuse_receipts(stage, block + 1)
    await stage.execute("DELETE FROM indexer.head_proof WHERE block_number > 100")
    healer = daemon.runner.engine.actions.head_healer
    heal = healer.heal

    async def then_nobody_answers(*given: Any) -> StepResult | None:
        done = await heal(*given)
        stage.nodes[0].offline = True
        return done

    monkeypatch.setattr(healer, "heal", then_nobody_answers)
    await daemon.poll(3)
    assert await stage.value("SELECT number FROM indexer.checkpoint") == tip.number
    assert block + 1 not in await proven(stage) and block in await proven(stage)
    # Who served the block that is kept is not forgotten: the prover of the others did not.
    served = "SELECT endpoint FROM indexer.served WHERE $1 BETWEEN first_block AND last_block ORDER BY id DESC LIMIT 1"
    assert await stage.value(served, block + 1) == stage.nodes[0].url
    await stage.equals(tip, healed=True)


async def test_blame_is_by_contract_where_contracts_were_read_from_different_endpoints(stage: Stage) -> None:
    liar, honest = stage.nodes
    blocks = [
        (block.hash, [index for index, _, _, log in block if log.address in ADDRESSES and log.address != CORE])
        for block in stage.tree.path(stage.main.hash)[61:]
    ]
    left_out = next((hash_, indexes[1]) for hash_, indexes in blocks if len(indexes) > 2)
    liar.omit = {left_out}
    await (await stage.start(0, without=("core",))).stop()
    daemon = await stage.start(1)
    prover = daemon.prover(honest)
    assert await daemon.prove(prover) == "up to date"
    await stage.equals(stage.main, healed=True)
    assert {endpoint for endpoint, *_ in await faults(stage)} == {liar.url}


@pytest.mark.parametrize("max_blocks", [2000, 10])
async def test_a_contract_that_was_added_is_nobodys_fault(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, max_blocks: int
) -> None:
    daemon = await stage.start(0, without=("core",))
    await daemon.prove(daemon.prover(stage.nodes[0]))
    await daemon.stop()
    daemon = await stage.start(0, settled=False, max_blocks=max_blocks)
    prover, engine = daemon.prover(stage.nodes[0]), daemon.runner.engine
    ingest = engine.actions._ingest

    async def beside_the_prover(*given: Any) -> StepResult:
        await prover.run_once()
        return await ingest(*given)

    monkeypatch.setattr(engine.actions, "_ingest", beside_the_prover)
    await daemon.settle()
    assert await faults(stage) == [] and await stage.journal() == []
    await stage.equals(stage.main)


async def test_a_gap_below_the_proofs_of_the_head_is_attested(stage: Stage) -> None:
    """A quiet block became final before its proof; the blocks above it have theirs."""
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    tip = stage.empty("quiet", 100, 5)
    stage.show(tip)
    await daemon.settle()
    await daemon.prove(prover)
    await stage.execute("DELETE FROM indexer.head_proof WHERE block_number = 102")
    all_final_up_to(stage, 104)
    stage.show(stage.grow(tip, 1))
    await daemon.settle()
    state = await daemon.runner.engine.observer.load_state(daemon.conn)
    assert await maintenance.prune(daemon.conn, 0, state.floor, daemon.runner.engine.token or 0)
    auditor = daemon.auditor([stage.nodes[0]])
    await daemon.audit(auditor)
    assert auditor.gauges.up_to["proven"] == 104


async def test_a_task_that_fails_for_days_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    prover = (await stage.start(0)).prover(stage.nodes[0])
    looks, enough = 0, asyncio.Event()

    async def failing(conn: Connection) -> bool:
        nonlocal looks
        looks += 1
        if looks > 1_100:
            enough.set()
        raise TransientRpcError("429", "x")

    async def at_once_(seconds: float) -> None:
        assert seconds <= background.MAX_PAUSE_S
        await asyncio.sleep(0)

    monkeypatch.setattr(prover, "work", failing)
    monkeypatch.setattr(prover, "pause", at_once_)
    task, waiting = asyncio.create_task(prover.run()), asyncio.create_task(enough.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    assert enough.is_set() and not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_pause_after_fruitless_looks_has_a_bound(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    prover, slept = (await stage.start(0)).prover(stage.nodes[0]), list[float]()

    async def nap(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", nap)
    for prover._fruitless in (head_prover.MAX_FRUITLESS, 2_000):
        await prover.pause(1.0)
    assert slept == [1.0, 60.0]


# -- strict mode


async def test_strict_a_replacement_is_corrected_proven_and_blamed(stage: Stage) -> None:
    daemon = await stage.start(0, strict=True)
    other = stage.fork("b", 95, 5, density=4.0)
    lies = places(stage, other, 95)
    stage.nodes[0].omit = set(lies)
    stage.show(other)
    await daemon.settle()
    await stage.equals(other)
    assert [block for _, _, block, *_ in await faults(stage)] == sorted(number(stage, place) for place in lies)
    assert set(range(96, other.number + 1)) <= set(await proven(stage))
    assert daemon.pool.aside(stage.nodes[0].url) > 0 and daemon.progress.attest.blamed.total() == len(lies)


async def test_strict_what_one_endpoint_cannot_prove_is_read_from_another(stage: Stage) -> None:
    liar, _ = stage.nodes
    daemon = await stage.start(0, 1, strict=True)
    tip = stage.grow(stage.main, 3, density=4.0)
    place = places(stage, tip, 100)[0]
    block, index = "0x" + place[0].hex(), hex(place[1])

    def other_transaction(logs: list[Json]) -> list[Json]:
        return [
            g | {"transactionHash": "0x" + "77" * 32} if (g["blockHash"], g["logIndex"]) == (block, index) else g
            for g in logs
        ]

    liar.patch_logs = other_transaction
    stage.show(tip)
    for _ in range(8):
        await daemon.poll()
    await stage.stands_at(tip)


async def test_strict_a_heal_shows_nothing_that_is_not_proven(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "PIECE", 10)
    monkeypatch.setattr(auditors, "PIECE", 10)
    wrong = [place for place in places(stage, stage.main, 0) if number(stage, place) <= 60]
    stage.nodes[0].omit = set(wrong)
    ingesting = await stage.start(0, settled=False, first=0, last=60, ingest_only=True)
    await ingesting.settle()
    await ingesting.stop()
    daemon = await stage.start(0, strict=True, settled=False)
    await daemon.poll(2)
    auditor = daemon.auditor([stage.nodes[0]])
    attested = -1
    while attested < 60:
        await turn(daemon, auditor)
        shown = await stage.value("SELECT number FROM indexer.checkpoint")
        attested = await stage.value(
            "SELECT COALESCE(max(last_block), -1) FROM indexer.attestation WHERE grade = 'proven'"
        )
        assert shown is None or shown <= max(attested, 0) or attested >= 60


async def test_strict_a_proof_that_ends_on_a_block_without_a_row(stage: Stage) -> None:
    ingesting = await stage.start(0, settled=False, first=0, last=60, ingest_only=True)
    await ingesting.settle()
    await ingesting.stop()
    stored = {n for (n,) in await stage.fetch("SELECT number FROM indexer.block")}
    with_logs = await stage.fetch("SELECT DISTINCT block_number FROM indexer.raw_log WHERE block_number > 10")
    block = next(n for (n,) in sorted(with_logs) if n - 1 not in stored)
    refuse_receipts(stage, block)
    daemon = await stage.start(0, strict=True, settled=False)
    await daemon.poll(2)
    auditor = daemon.auditor([stage.nodes[0]])
    for _ in range(6):
        await turn(daemon, auditor)
        await daemon.poll()
    shown = await stage.value("SELECT number FROM indexer.checkpoint")
    assert shown == max(n for n in stored if n < block) and daemon.progress.waiting


async def test_strict_a_contract_that_was_added_is_proven_too(stage: Stage) -> None:
    await (await stage.start(0, without=("core",), strict=True)).stop()
    daemon = await stage.start(0, settled=False, strict=True)
    prover, auditor = daemon.prover(stage.nodes[0]), daemon.auditor([stage.nodes[0]])
    for _ in range(30):
        await turn(daemon, auditor)
        await prover.run_once()
    assert not daemon.progress.waiting
    await stage.equals(stage.main)
