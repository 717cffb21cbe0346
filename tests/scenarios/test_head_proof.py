"""What an endpoint leaves out, misnumbers, changes or makes up at the head is healed long before the block is final."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from indexer.attest import auditor as auditors
from indexer.attest import head_prover
from indexer.follow import maintenance
from tests.scenarios.harness import ADDRESSES, Stage
from tests.support.simchain.chain import Block
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import Json

COUNT = "SELECT count(*) FROM indexer.raw_log"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that could not be proven is due again at once, and final blocks do not wait for more."""
    monkeypatch.setattr(head_prover, "FIRST_RETRY_S", 0.0)
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)


def places(stage: Stage, tip: Block, above: int) -> list[tuple[bytes, int]]:
    """Block hash and index of a log of ours in blocks that have several, above a number."""
    found = []
    for block in stage.tree.path(tip.hash)[above + 1 :]:
        ours = [index for index, _, _, log in block if log.address in ADDRESSES]
        if len(ours) > 2:
            found.append((block.hash, ours[1]))
    return found


async def proven(stage: Stage) -> list[int]:
    rows = await stage.fetch("SELECT block_number FROM indexer.head_proof ORDER BY 1")
    return [number for (number,) in rows]


async def faults(stage: Stage) -> list[tuple[Any, ...]]:
    """Endpoint, role, block, what, and whether the heal is in the journal."""
    return await stage.fetch(
        "SELECT b.endpoint, role, block_number, what, j.id IS NOT NULL FROM indexer.blame b"
        " LEFT JOIN indexer.reorg_journal j ON j.id = b.reorg_id ORDER BY b.id"
    )


def left_out(stage: Stage, place: tuple[bytes, int]) -> None:
    stage.nodes[0].omit = {place}


def misnumbered(stage: Stage, place: tuple[bytes, int]) -> None:
    stage.nodes[0].wrong_index = {place: place[1] + 50}


def altered(stage: Stage, place: tuple[bytes, int]) -> None:
    _patch(stage, place, lambda logs, log: [g if g is not log else g | {"data": "0x" + "11" * 32} for g in logs])


def made_up(stage: Stage, place: tuple[bytes, int]) -> None:
    _patch(stage, place, lambda logs, log: [*logs, log | {"logIndex": hex(777)}])


def _patch(stage: Stage, place: tuple[bytes, int], change: Callable[[list[Json], Json], list[Json]]) -> None:
    block, index = "0x" + place[0].hex(), hex(place[1])

    def patch(logs: list[Json]) -> list[Json]:
        found = [g for g in logs if (g["blockHash"], g["logIndex"]) == (block, index)]
        return change(logs, found[0]) if found else logs

    stage.nodes[0].patch_logs = patch


LIES = {
    left_out: "left out a log",
    misnumbered: "gave a wrong log index",
    altered: "changed a log",
    made_up: "made up a log",
}


@pytest.mark.parametrize("lie", LIES, ids=[lie.__name__.replace("_", " ") for lie in LIES])
async def test_a_lie_at_the_head_is_healed_in_one_commit(lie: Callable[..., None], stage: Stage) -> None:
    """With one endpoint, which is honest about receipts; what was committed above the wrong block stays."""
    tip, base = stage.grow(stage.main, 6, density=4.0), stage.main
    place = places(stage, tip, base.number)[0]
    block = stage.tree[place[0]].number
    lie(stage, place)
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    assert await daemon.prove(prover) == "up to date"
    stage.show(tip)
    await daemon.settle()
    await stage.stands_at(tip)
    wrong = await stage.fetch(f"{COUNT} WHERE block_number = $1", block)
    await prover.run_once()
    assert daemon.runner.engine.observer.wrong_from == block and await faults(stage) == []
    assert await stage.fetch(f"{COUNT} WHERE block_number = $1", block) == wrong
    assert await daemon.prove(prover) == "up to date"
    assert await faults(stage) == [(stage.nodes[0].url, "served", block, LIES[lie], True)]
    assert await stage.journal() == [(block - 1, tip.number, tip.number)]
    causes = await stage.fetch("SELECT cause FROM indexer.reorg_journal")
    assert causes == [(f"attestation: {stage.nodes[0].url} was wrong",)]
    assert await stage.value("SELECT count(*) FROM indexer.incident WHERE kind = 'endpoint_wrong'") == 1
    await stage.equals(tip, [(block - 1, tip.number - block + 1)])
    assert await proven(stage) == list(range(61, tip.number + 1)) and prover.gauges.unproven == 0
    assert daemon.progress.head_proof.healed == 1 and daemon.progress.reorgs == 0


async def test_a_liar_is_set_aside_and_proven_by_the_other_endpoint(stage: Stage) -> None:
    """Its receipts lack the log as well, so that only the second endpoint can prove the block."""
    tip = stage.grow(stage.main, 6, density=4.0)
    place = places(stage, tip, stage.main.number)[0]
    stage.nodes[0].omit, stage.nodes[0].omit_receipts = {place}, True
    daemon = await stage.start(0, 1)
    prover = daemon.prover(*stage.nodes)
    stage.show(tip)
    assert await daemon.prove(prover) == "up to date"
    blamed = await faults(stage)
    block = stage.tree[place[0]].number
    assert blamed == [(stage.nodes[0].url, "served", block, "left out a log", True)]
    assert daemon.pool.aside(stage.nodes[0].url) > 0
    assert await stage.value("SELECT proven_by FROM indexer.blame") == stage.nodes[1].url
    await stage.equals(tip)
    assert await proven(stage) == list(range(61, tip.number + 1))


async def test_what_nobody_can_prove_stays_told_and_does_not_hold_up_the_rest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_prover, "INCIDENT_AFTER_S", 0.0)
    tip = stage.grow(stage.main, 6, density=4.0)
    place = places(stage, tip, stage.main.number)[0]
    stage.nodes[0].omit, stage.nodes[0].omit_receipts = {place}, True
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    stage.show(tip)
    await daemon.settle()
    await prover.run_once()
    block = stage.tree[place[0]].number
    assert await proven(stage) == [n for n in range(61, tip.number + 1) if n != block]
    assert prover.gauges.unproven == 1 and (await stage.journal(), await faults(stage)) == ([], [])
    incidents = await stage.fetch("SELECT kind, subject, first_block FROM indexer.incident WHERE resolved_at IS NULL")
    assert ("unprovable", f"{stage.nodes[0].url}: root", block) in incidents


async def test_a_deep_heal_asks_only_for_blocks_without_a_proof(stage: Stage) -> None:
    liar, place = stage.nodes[0], places(stage, stage.main, 61)[0]
    liar.omit, liar.omit_receipts = {place}, True
    daemon = await stage.start(0)
    prover = daemon.prover(liar)
    while await prover.run_once():
        pass
    block = stage.tree[place[0]].number
    assert await proven(stage) == [n for n in range(61, 101) if n != block]
    liar.omit_receipts, asked = False, liar.requests["eth_getBlockReceipts"]
    assert await daemon.prove(prover) == "up to date"
    assert liar.requests["eth_getBlockReceipts"] == asked + 2  # the prover's and the heal's
    assert await stage.journal() == [(block - 1, 100, 100)] and await proven(stage) == list(range(61, 101))
    await stage.equals(stage.main)


async def test_a_block_costs_no_request_without_our_contracts_and_one_with_them(stage: Stage) -> None:
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[1])
    assert await daemon.prove(prover) == "up to date"
    tip, asked = stage.main, stage.nodes[1].http_requests
    empty = stage.empty("quiet", tip.number, 5)
    for block in stage.tree.path(empty.hash)[tip.number + 1 :]:
        stage.show(block)
        await daemon.prove(prover)
    assert stage.nodes[1].http_requests == asked and (await proven(stage))[-1] == empty.number
    tip = empty
    for turn in range(5):
        tip = stage.chain(tip, [stage.tx(stage.log("core", "AccountCreated"))])
        stage.show(tip)
        await daemon.prove(prover)
        assert stage.nodes[1].http_requests == asked + turn + 1
    assert (await proven(stage))[-1] == tip.number and stage.nodes[1].requests["eth_getLogs"] == 0


async def test_a_restart_proves_only_what_lacks_a_proof(stage: Stage) -> None:
    daemon = await stage.start(0)
    await daemon.prove(daemon.prover(stage.nodes[0]))
    tip = stage.grow(stage.main, 3)
    stage.show(tip)
    await daemon.settle()
    await daemon.stop()
    again = await stage.start(0)
    prover = again.prover(stage.nodes[1])
    assert await again.prove(prover) == "up to date"
    assert prover.gauges.blocks == 3 and await proven(stage) == list(range(61, tip.number + 1))


async def test_a_grade_is_void_with_its_block(stage: Stage) -> None:
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    await daemon.prove(prover)
    before = dict(await stage.fetch("SELECT block_number, at FROM indexer.head_proof"))
    other = stage.fork("b", 95, 6)
    stage.show(other)
    await daemon.settle()
    assert await proven(stage) == list(range(61, 96))
    assert await daemon.prove(prover) == "up to date"
    assert await proven(stage) == list(range(61, other.number + 1))
    after = dict(await stage.fetch("SELECT block_number, at FROM indexer.head_proof"))
    assert {n: at for n, at in after.items() if n <= 95} == {n: at for n, at in before.items() if n <= 95}
    await stage.equals(other)


async def test_final_blocks_keep_their_proof_without_another_request(stage: Stage) -> None:
    daemon = await stage.start(0)
    await daemon.prove(daemon.prover(stage.nodes[0]))
    auditor = daemon.auditor([stage.nodes[0]])
    assert await daemon.audit(auditor) == "up to date"
    assert auditor.gauges.up_to["proven"] == 60
    asked = stage.nodes[0].requests["eth_getBlockReceipts"]
    for node in stage.nodes:
        node.finalized = node.safe = 90
    await daemon.settle()
    state = await daemon.runner.engine.observer.load_state(daemon.conn)
    assert await maintenance.prune(daemon.conn, 0, state.floor, daemon.runner.engine.token or 0)
    assert await daemon.audit(auditor) == "up to date"
    assert auditor.gauges.up_to["proven"] == 90 and stage.nodes[0].requests["eth_getBlockReceipts"] == asked
    assert await proven(stage) == list(range(91, 101))
    rows = await stage.fetch(
        "SELECT first_block, last_block, grade, endpoints FROM indexer.attestation WHERE first_block > 60"
    )
    assert rows == [(61, 90, "proven", [stage.nodes[0].url])]
    await stage.equals(stage.main)


async def test_logs_that_became_final_before_their_heal_are_the_auditors(stage: Stage) -> None:
    tip = stage.grow(stage.main, 6, density=4.0)
    place = places(stage, tip, stage.main.number)[0]
    stage.nodes[0].omit = {place}
    daemon = await stage.start(0)
    prover = daemon.prover(stage.nodes[0])
    stage.show(tip)
    await daemon.settle()
    await prover.run_once()
    assert daemon.runner.engine.observer.wrong_from == stage.tree[place[0]].number
    daemon.runner.engine.observer.wrong_from = None
    for node in stage.nodes:
        node.finalized = node.safe = tip.number
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    daemon.runner.engine.observer.report_wrong_logs(stage.tree[place[0]].number)
    await daemon.settle()
    assert (await faults(stage), await stage.journal()) == ([], [])
    assert await daemon.audit(daemon.auditor([stage.nodes[0]])) == "up to date"
    assert [what for *_, what, _ in await faults(stage)] == ["left out a log"]
    await stage.equals(tip, healed=True)


# -- strict mode


async def test_in_strict_mode_no_wrong_row_becomes_visible(stage: Stage) -> None:
    tip = stage.grow(stage.main, 6, density=4.0)
    wrong = places(stage, tip, 40)
    stage.nodes[0].omit = set(wrong)
    daemon = await stage.start(0, strict=True)
    stage.show(tip)
    await daemon.settle()
    await stage.untouched(tip)
    blocks = sorted(stage.tree[hash_].number for hash_, _ in wrong)
    assert [(block, what) for _, _, block, what, _ in await faults(stage)] == [(n, "left out a log") for n in blocks]
    assert await proven(stage) == list(range(61, tip.number + 1))
    (attested,) = await stage.fetch("SELECT min(first_block), max(last_block) FROM indexer.attestation")
    assert attested == (0, 60)
    # The endpoint that left them out is asked last from now on.
    assert daemon.pool.aside(stage.nodes[0].url) > 0
    assert daemon.progress.attest.blamed == {stage.nodes[0].url: len(wrong)}
    assert await daemon.prove(daemon.prover(stage.nodes[0])) == "up to date"


async def test_in_strict_mode_nothing_is_committed_without_a_proof(stage: Stage) -> None:
    daemon = await stage.start(0, 1, strict=True)
    tip = stage.chain(stage.main, [stage.tx(stage.log("core", "AccountCreated"))])

    def refuse(method: str, params: list[Any]) -> None:
        if method in ("eth_getBlockReceipts", "eth_getTransactionReceipt"):
            raise Refusal(-32601, f"the method {method} does not exist")

    stage.nodes[0].on_request = refuse
    stage.nodes[1].offline = True
    stage.show(tip)
    for _ in range(3):
        await daemon.poll()
    await stage.stands_at(stage.main)
    assert daemon.progress.waiting and daemon.errors >= 3
    stage.nodes[1].offline = False
    await daemon.settle()
    await stage.untouched(tip)


async def test_in_strict_mode_a_fork_is_proven_before_it_replaces_anything(stage: Stage) -> None:
    daemon = await stage.start(0, strict=True)
    other = stage.fork("b", 95, 6, density=4.0)
    stage.nodes[0].omit = set(places(stage, other, 95))
    assert stage.nodes[0].omit
    stage.show(other)
    await daemon.settle()
    await stage.equals(other, [(95, 5)])


async def test_in_strict_mode_stored_blocks_wait_for_their_proof(stage: Stage) -> None:
    """Another process ingested them; the auditor proves them, and heals them before any row is made of them."""
    ingested = await stage.start(0, settled=False, first=0, last=60, ingest_only=True)
    wrong = [place for place in places(stage, stage.main, 20) if stage.tree[place[0]].number <= 60]
    stage.nodes[0].omit = set(wrong)
    await ingested.settle()
    await ingested.stop()
    daemon = await stage.start(0, strict=True, settled=False)
    await daemon.poll(2)
    assert daemon.progress.waiting.startswith("a proof of the stored blocks 0 to 100")
    assert await stage.fetch("SELECT number FROM indexer.checkpoint") == [(None,)]
    await daemon.audit(daemon.auditor([stage.nodes[0]]))
    await daemon.settle()
    await stage.equals(stage.main, healed=True)
    assert len(wrong) == len(await faults(stage)) and set(await stage.deleted()) <= {"indexer.raw_log"}
