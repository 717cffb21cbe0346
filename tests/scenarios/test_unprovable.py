"""E5: a header or receipt that cannot be read costs its own block the proof; everything else is attested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from indexer.attest import auditor as auditors
from indexer.attest.estimate import estimate
from indexer.chain.ranges import ContractRange
from indexer.rpc import retry
from tests.scenarios.harness import ADDRESSES, FINAL, Daemon, Stage
from tests.scenarios.test_attest import audited, incidents, up_to
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import Json

BAD = 40

HEADERS: dict[str, dict[str, Any]] = {
    "no mixHash": {"mixHash": None},
    "a nonce of another size": {"nonce": "0x00"},
    "no receiptsRoot": {"receiptsRoot": None},
    "a bloom that is empty": {"logsBloom": "0x"},
    "a gas limit in decimal": {"gasLimit": 30_000_000},
    "a difficulty that is no quantity": {"difficulty": "one"},
    "extra data that is no hex": {"extraData": "genesis"},
    "uncles that are a list": {"sha3Uncles": []},
}
RECEIPTS: dict[str, dict[str, Any]] = {
    "a type that is no quantity": {"type": "legacy"},
    "no bloom": {"logsBloom": None},
    "neither status nor root": {"status": None},
    "gas in decimal": {"cumulativeGasUsed": 21000},
    "no gas": {"cumulativeGasUsed": None},
    "logs that are null": {"logs": None},
    "no transaction hash": {"transactionHash": None},
    "a status of its own": {"status": "success"},
}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)


def header_of_one_block(change: dict[str, Any], number: int = BAD) -> Callable[[Json], Any]:
    return lambda header: header | change if header["number"] == hex(number) else header


def receipts_of_one_block(change: dict[str, Any]) -> Callable[[list[Json]], Any]:
    def patch(receipts: list[Json]) -> None:
        for receipt in receipts:
            if receipt["blockNumber"] == hex(BAD):
                receipt.update(change)

    return patch


async def with_logs_in_every_block(stage: Stage, recent_blocks: int = 1000) -> Daemon:
    """So that every block is stored, and an anchor of its own."""
    tip = stage.busy("busy", 0, 100)
    stage.show(tip)
    stage.main = tip
    return await stage.start(recent_blocks=recent_blocks)


async def unattested(stage: Stage, grade: str = "proven") -> list[int]:
    spans = await stage.fetch("SELECT first_block, last_block FROM indexer.attestation WHERE grade = $1", grade)
    covered = {n for first, last in spans for n in range(first, last + 1)}
    return [n for n in range(FINAL + 1) if n not in covered]


@pytest.mark.parametrize("what", HEADERS)
async def test_e05_a_header_that_cannot_be_read_costs_its_own_block_the_proof(what: str, stage: Stage) -> None:
    daemon, node = await with_logs_in_every_block(stage), stage.nodes[0]
    node.patch_header = header_of_one_block(HEADERS[what])
    auditor = await audited(daemon, stage, 0)
    assert await unattested(stage) == [BAD]
    assert await incidents(stage) == [("unprovable", f"{node.url}: unreadable header")]
    assert up_to(auditor)[1] == BAD - 1 and auditor.gauges.newest["proven"] == FINAL
    # Another endpoint has that header: one of one block, and the incident of the first one is its own.
    asked = stage.nodes[1].requests["eth_getBlockByNumber"]
    await audited(daemon, stage, 0, 1)
    assert await unattested(stage) == []
    assert stage.nodes[1].requests["eth_getBlockByNumber"] - asked <= 2 + 1  # and two checks of its chain
    await stage.untouched(stage.main)


@pytest.mark.parametrize("what", RECEIPTS)
async def test_e05_receipts_that_cannot_be_read_cost_their_own_block_the_proof(what: str, stage: Stage) -> None:
    daemon, node = await with_logs_in_every_block(stage), stage.nodes[0]
    node.patch_receipts = receipts_of_one_block(RECEIPTS[what])
    await audited(daemon, stage, 0)
    assert await unattested(stage) == [BAD]
    assert await incidents(stage) == [("unprovable", f"{node.url}: unreadable receipts")]
    # It is well again: the block is proven, and the incident ends.
    node.patch_receipts = None
    await audited(daemon, stage, 0)
    assert (await unattested(stage), await incidents(stage)) == ([], [])
    await stage.untouched(stage.main)


async def test_e05_below_an_unreadable_header_blocks_are_proven_from_the_next_stored_one_down(stage: Stage) -> None:
    """A hash of a header that nobody can compute leads nowhere; a stored block below is an anchor again."""
    daemon, node = await stage.start(), stage.nodes[0]
    stored = [n for (n,) in await stage.fetch("SELECT number FROM indexer.block WHERE number <= $1", FINAL)]
    bad = next(n for n in range(30, FINAL) if n in stored and n - 1 not in stored)
    anchor = max(n for n in stored if n < bad)
    node.patch_header = header_of_one_block({"mixHash": None}, bad)
    await audited(daemon, stage, 0)
    assert await unattested(stage) == list(range(anchor + 1, bad + 1))


async def test_e05_a_header_that_is_refused_or_missing_is_found_among_many(stage: Stage) -> None:
    daemon, node = await with_logs_in_every_block(stage), stage.nodes[0]
    node.patch_header = lambda header: None if header["number"] == hex(BAD) else header
    await audited(daemon, stage, 0)
    assert await unattested(stage) == [BAD]
    assert await incidents(stage) == [("unprovable", f"{node.url}: no header")]


async def test_e05_an_unreadable_header_does_not_keep_later_blocks_from_a_cross_check(stage: Stage) -> None:
    daemon = await with_logs_in_every_block(stage, recent_blocks=0)
    stage.nodes[1].patch_header = header_of_one_block({"timestamp": "soon"})
    await audited(daemon, stage, 0, 1)
    assert await unattested(stage, "cross-checked") == [BAD]
    assert await incidents(stage) == [("unprovable", f"{stage.nodes[1].url}: unreadable answer")]
    await stage.untouched(stage.main)


async def test_e05_a_piece_that_fails_again_and_again_does_not_keep_later_ones_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second endpoint refuses the logs of some blocks, whatever it is asked: the blocks above are cross-checked."""
    monkeypatch.setattr(auditors, "PIECE", 20)
    daemon, other = await with_logs_in_every_block(stage, recent_blocks=0), stage.nodes[1]

    def refuse(method: str, params: list[Any]) -> None:
        if method == "eth_getLogs" and int(params[0]["fromBlock"], 16) < 20:
            raise Refusal(-32000, "something went wrong")

    other.on_request = refuse
    auditor = daemon.auditor([stage.nodes[0], other])
    for _ in range(40):
        await auditor.run_once()
        await daemon.poll()
    assert await unattested(stage, "cross-checked") == list(range(20))
    assert await incidents(stage) == [("unprovable", f"{other.url}: no answer")]


async def test_e05_an_estimate_leaves_out_what_it_cannot_read(stage: Stage) -> None:
    daemon = await with_logs_in_every_block(stage)
    stage.nodes[0].patch_header = header_of_one_block({"mixHash": None}, 25)
    todo = [ContractRange(0, FINAL, tuple(sorted(ADDRESSES)))]
    found = await estimate(daemon.conn, daemon.pool, todo, "proven", None)
    assert found["samples"] == 2 and found["receipts"] > 50


async def test_e05_what_can_be_read_costs_no_request_more(stage: Stage) -> None:
    daemon, node = await with_logs_in_every_block(stage), stage.nodes[0]
    auditor = daemon.auditor([node])
    assert await daemon.audit(auditor) == "up to date"
    # The chain id, 61 headers at once, and the receipts of ten blocks at a time.
    assert auditor.pool.requests <= 1 + 1 + 7
    assert await unattested(stage) == []
