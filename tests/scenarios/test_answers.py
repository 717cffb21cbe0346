"""S4 to S6, S13 and S22: answers that contradict each other, leave something out, come early, or are not to be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_hash.auto import keccak

from indexer.attest.compare import compare_stored, ranges
from indexer.follow.state_machine import Mode
from indexer.ingest import fetch
from indexer.reorg import replacement
from indexer.reorg.heal import heal_trusted
from indexer.reorg.recovery import Recovery
from tests.scenarios.harness import ADDRESSES, Daemon, Stage, after
from tests.support.simchain.chain import Block, SimLog
from tests.support.simchain.encoding import bloom_bits
from tests.support.simchain.refusals import Refusal

# -- S4


def logs_of_another_fork(stage: Stage, b: Block) -> None:
    stage.nodes[0].torn = stage.fork("a", 96, 4).hash


def no_logs_though_the_bloom_announces_some(stage: Stage, b: Block) -> None:
    stage.nodes[0].torn = stage.empty("a", 96, 4).hash


def receipts_of_another_fork(stage: Stage, b: Block) -> None:
    """And logs of a third, which had none: only the receipts' block hash tells."""
    node, foreign = stage.nodes[0], SimLog("0x" + "77" * 20, (bytes(32),), b"")
    other = stage.chain(stage.at(stage.main, 96), *[[stage.tx(foreign)] for _ in range(4)])
    node.torn = stage.empty("a", 96, 4).hash

    def switch(method: str, params: list[Any]) -> None:
        node.head = other.hash if method == "eth_getBlockReceipts" else b.hash

    node.on_request = switch


TORN = [logs_of_another_fork, no_logs_though_the_bloom_announces_some, receipts_of_another_fork]


@pytest.mark.parametrize("tear", TORN, ids=[t.__name__.replace("_", " ") for t in TORN])
async def test_s04_torn_read(tear: Callable[[Stage, Block], None], stage: Stage) -> None:
    base, b = stage.at(stage.main, 96), stage.busy("b", 96, 4)
    stage.show(base)
    daemon = await stage.start(0, 1)
    stage.nodes[1].offline = True
    stage.nodes[0].head = b.hash
    tear(stage, b)
    for turn in range(3):
        await daemon.poll()
        assert daemon.errors == turn + 1
    assert stage.nodes[0].requests["eth_getLogs"] >= 3  # it was asked again before the other one was
    await stage.stands_at(base)
    stage.nodes[1].offline = False
    stage.nodes[1].head = b.hash
    await daemon.settle()
    await stage.untouched(b)
    assert daemon.pool.ordered()[0].name == stage.nodes[1].url


async def test_s04_a_reorg_between_two_pages_of_one_range(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CHAINED_BLOCKS", 4)
    base, b, node = stage.at(stage.main, 84), stage.fork("b", 93, 9), stage.nodes[0]
    stage.show(base)
    daemon = await stage.start()
    stage.show(stage.main)
    node.on_request = after(3, lambda: stage.show(b), "eth_getLogs")  # 85..88, 89..92, 93..96, then of b
    await daemon.settle()
    await stage.equals(b, [(93, 3)])


async def test_s04_a_reorg_between_two_pages_of_a_replacement(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacement, "MAX_STAGED_BLOCKS", 3)
    daemon, node = await stage.start(), stage.nodes[0]
    b = stage.fork("b", 90, 10)
    c = stage.fork("c", 92, 10, tip=b)
    stage.show(b)
    node.on_request = after(2, lambda: stage.show(c), "eth_getLogs")  # 91..93 of b, 94..96 of b, then of c
    await daemon.poll()
    await stage.untouched(stage.main)
    assert daemon.mode is Mode.WAITING
    await daemon.settle()
    await stage.equals(c, [(90, 10)])


# -- S5


async def verified(daemon: Daemon, last: int, heal: bool = False) -> int:
    """How many differences `reorg verify` finds up to block `last`, and heals."""
    conn = daemon.conn
    recovery = Recovery(daemon.runner.deployment, daemon.pool, conn)
    parts = [part async for part in compare_stored(conn, daemon.pool, await recovery.state(), 0, last)]
    for part in parts if heal else []:
        for segment in ranges(part.segment, part.differences):
            await heal_trusted(recovery, segment, "reorg verify")
    return sum(len(part.differences) for part in parts)


def last_logs(stage: Stage) -> list[tuple[bytes, int]]:
    """Block hash and index of the last log of some final blocks that have several."""
    found = []
    for block in stage.tree.path(stage.main.hash)[20:60]:
        index, address = [(index, log.address) for index, _, _, log in block][-1] if any(block) else (0, "")
        if index and address in ADDRESSES:
            found.append((block.hash, index))
    return found[:6]


@pytest.mark.parametrize("lie", ["on every shape", "on ranges only", "a wrong index for a while"])
async def test_s05_silent_omission(lie: str, stage: Stage) -> None:
    """`reorg verify` finds it when it asks an endpoint that tells the truth; the auditor needs none: test_attest.py."""
    liar, places, moved = stage.nodes[0], last_logs(stage), "index" in lie
    if moved:
        liar.wrong_index = {place: place[1] + 50 for place in places}
    else:
        liar.omit, liar.omit_mode = set(places), "ranges" if "ranges" in lie else "always"
    daemon = await stage.start()
    whole = sum(g["address"] in ADDRESSES for g in stage.tree.logs(stage.main.hash))
    assert await stage.value("SELECT count(*) FROM indexer.raw_log") == whole - len(places) * (not moved)
    assert await verified(daemon, 60) == 0  # who is asked twice lies twice
    await daemon.stop()
    honest = await stage.start(1)
    assert await verified(honest, 60) == len(places) * (1 + moved)
    await honest.runner.close()  # frees the lease, which the healing takes
    await honest.runner.open()
    await verified(honest, 60, heal=True)
    assert await verified(honest, 60) == 0
    await stage.equals(stage.main, healed=True)


# -- S6


async def test_s06_not_yet_indexed_head(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    tip = stage.busy("next", 100, 1)
    node.log_lag = 1
    stage.show(tip)
    node.on_request = after(3, lambda: setattr(node, "log_lag", 0), "eth_getLogs")
    await daemon.poll()
    assert (node.requests["eth_getLogs"], daemon.errors) == (2 + 4, 0)
    await stage.untouched(tip)


async def test_s06_logs_that_never_come_are_not_waited_for_for_ever_and_not_believed(stage: Stage) -> None:
    daemon, node = await stage.start(0, 1), stage.nodes[0]
    tip = stage.busy("next", 100, 1)
    stage.nodes[1].offline, node.log_lag = True, 1
    stage.show(tip)
    await daemon.poll()
    assert (node.requests["eth_getLogs"], daemon.errors) == (2 + 6, 1)
    await stage.stands_at(stage.main)
    stage.nodes[1].offline = False
    await daemon.settle()
    await stage.untouched(tip)


def misleading(stage: Stage, watched: str) -> list[SimLog]:
    """Logs of foreign contracts whose bloom announces a watched one."""
    wanted, found = bloom_bits(bytes.fromhex(watched[2:])), []
    for n in range(10_000):
        address = keccak(n.to_bytes(4, "big"))[:20]
        if bloom_bits(address) & wanted:
            wanted &= ~bloom_bits(address)
            found.append(SimLog("0x" + address.hex(), (), b""))
            if not wanted:
                return found
    raise AssertionError("no such addresses")


def no_receipts(method: str, params: list[Any]) -> None:
    if method == "eth_getBlockReceipts":
        raise Refusal(4444, "receipts are pruned")


@pytest.mark.parametrize("proof", ["receipts", "no such method", "receipts of another endpoint"])
async def test_s06_a_bloom_that_is_wrong(proof: str, stage: Stage) -> None:
    daemon, node = await stage.start(0, 1), stage.nodes[0]
    foreign = stage.tx(*misleading(stage, min(ADDRESSES)))
    tip = stage.chain(stage.main, [foreign], stage.filler(stage.main, 2))
    if proof == "no such method":
        node.missing_methods = {"eth_getBlockReceipts"}
    elif proof == "receipts of another endpoint":
        node.on_request = no_receipts
    stage.show(tip)
    await daemon.settle(3)
    assert node.requests["eth_getBlockReceipts"] <= 8
    await stage.untouched(tip)


# -- S13


PRUNED = ["logs empty, receipts null", "logs empty, receipts refused", "logs and receipts refused"]


@pytest.mark.parametrize("how", PRUNED)
async def test_s13_replacement_not_servable(how: str, stage: Stage) -> None:
    daemon, node = await stage.start(0, 1), stage.nodes[0]
    b = stage.busy("b", 97, 6)
    node.pruned_below, node.pruned_mode = 1000, "error" if "and" in how else "empty"

    if "refused" in how:
        node.on_request = no_receipts
    stage.nodes[1].offline = True
    stage.show(stage.at(b, 100) if "and" in how else b)
    for _ in range(5):
        assert not await daemon.poll()
        assert daemon.mode is Mode.WAITING and "blocks 98 to 100" in daemon.progress.waiting
    await stage.untouched(stage.main)
    assert daemon.progress.reasons_not_ready(tolerated=0)
    assert "a replacement of blocks 98 to 100" in await stage.value("SELECT state FROM indexer.lease")
    stage.show(b)
    stage.nodes[1].offline = False
    await daemon.settle()
    await stage.equals(b, [(97, 3)])
    assert not daemon.progress.reasons_not_ready(tolerated=0)


# -- S22


@pytest.mark.parametrize("kind", ["removed entries", "removed entries of a fork", "entries twice"])
async def test_s22_removed_and_duplicate_entries(kind: str, stage: Stage) -> None:
    base, node = stage.at(stage.main, 90), stage.nodes[0]
    stage.show(base)
    daemon = await stage.start(0, 1)
    stage.nodes[1].offline = True
    if kind == "removed entries":
        node.removed_entries = 2
    elif kind == "entries twice":
        node.duplicate_entries = 1
    else:
        node.removed_from = stage.fork("b", 92, 3).hash
    stage.show(stage.main)
    await daemon.poll(3)
    assert daemon.errors == 3
    await stage.stands_at(base)
    stage.nodes[1].offline = False
    await daemon.settle()
    await stage.untouched(stage.main)


# -- an endpoint that fails while a daemon is only just starting


async def test_trouble_between_the_first_answer_and_the_first_look_does_not_end_a_start(stage: Stage) -> None:
    node = stage.nodes[0]
    # More than the tries of one request: the chain id was checked, then nothing comes for a while.
    node.on_request = after(0, lambda: node.fail_next.extend(["drop"] * 8), "eth_chainId")
    daemon = await stage.start()
    assert daemon.errors and not daemon.progress.waiting
    await stage.equals(stage.main)
