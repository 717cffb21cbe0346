"""E2: a method that an endpoint cannot serve is found by what it does, whatever the code and the words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from indexer.attest import auditor as auditors
from indexer.rpc import retry
from indexer.rpc.health import MethodSupport
from indexer.rpc.receipt_source import BLOCK, SINGLE
from tests.scenarios.harness import ADDRESSES, Daemon, Stage
from tests.scenarios.test_answers import misleading
from tests.scenarios.test_attest import audited, incidents, up_to
from tests.support.simchain.chain import Block
from tests.support.simchain.node import Fault, Say
from tests.support.simchain.refusals import Refusal

REFUSALS = {
    "no such method": Refusal(-32601, "the method does not exist/is not available"),
    "invalid request": Refusal(-32600, "Unsupported method: eth_getBlockReceipts on MATIC_MAINNET"),
    "not whitelisted": Refusal(-32001, "method eth_getBlockReceipts is not whitelisted"),
    "a larger plan": Refusal(35, "eth_getBlockReceipts is not available on the free tier, upgrade your plan"),
    "not supported": Refusal(-32004, "Method not supported"),
    "a server error": Refusal(-32000, "this method has been turned off"),
    "an internal error": Refusal(-32603, "could not handle your request"),
    "not available": Refusal(-32001, "rpc method is unavailable"),
    "not permitted": Refusal(-32000, "rpc method calls are not allowed. Please contact support"),
    "no parameters": Refusal(-32602, "invalid argument 0: json: cannot unmarshal string"),
    "of its own": Refusal(0, "⛔ nope"),
}
METHODS = {BLOCK, SINGLE}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)


def refusing(refusal: Refusal, methods: set[str] = METHODS) -> Callable[[str, list[Any]], None]:
    def hook(method: str, params: list[Any]) -> None:
        if method in methods:
            raise refusal

    return hook


def announced(stage: Stage) -> Block:
    """A block whose bloom announces a watched contract that logged nothing, and one above it with logs."""
    foreign = stage.tx(*misleading(stage, min(ADDRESSES)))
    return stage.chain(stage.main, [foreign], stage.filler(stage.main, 2))


def refused(daemon: Daemon, node: int = 0) -> dict[str, str]:
    return daemon.pool.readers[node].endpoint.health.support.reasons()


@pytest.mark.parametrize("words", REFUSALS)
async def test_e02_a_refused_method_does_not_stop_the_head(words: str, stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    node.on_request = refusing(REFUSALS[words])
    tip = announced(stage)
    stage.show(tip)
    await daemon.settle(3)
    assert (daemon.errors, daemon.progress.waiting) == (0, "")
    await stage.untouched(tip)
    assert set(refused(daemon)) == METHODS and REFUSALS[words].message in refused(daemon)[BLOCK]
    # What is known to be refused is not asked for again.
    asked = node.requests[BLOCK], node.requests[SINGLE]
    tip = stage.chain(tip, [stage.tx(*misleading(stage, min(ADDRESSES)))], stage.filler(tip, 2))
    stage.show(tip)
    await daemon.settle(3)
    assert (node.requests[BLOCK], node.requests[SINGLE]) == asked
    await stage.untouched(tip)


@pytest.mark.parametrize("words", ["not whitelisted", "an internal error"])
async def test_e02_a_refused_method_is_tried_again_now_and_then(
    words: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    node.on_request = refusing(REFUSALS[words])
    stage.show(tip := announced(stage))
    await daemon.settle(3)
    assert set(refused(daemon)) == METHODS
    node.on_request = None
    monkeypatch.setattr(MethodSupport, "rests", lambda *_: False)
    stage.show(tip := stage.chain(tip, [stage.tx(*misleading(stage, min(ADDRESSES)))]))
    await daemon.settle(3)
    assert BLOCK not in refused(daemon)
    await stage.untouched(tip)


async def test_e02_the_block_is_proven_by_the_receipts_of_its_transactions(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    node.on_request = refusing(REFUSALS["not whitelisted"], {BLOCK})
    stage.show(tip := announced(stage))
    await daemon.settle(3)
    assert set(refused(daemon)) == {BLOCK} and node.requests[SINGLE] == len(stage.at(tip, 101).txs)
    # Logs that are not found yet are not taken for none.
    node.log_lag = 1
    stage.show(tip := stage.grow(tip, 1, 9.0))
    await daemon.poll()
    assert daemon.errors == 1
    node.log_lag = 0
    await daemon.settle()
    await stage.untouched(tip)
    # Attestation reads them too.
    node.finalized = node.safe = tip.number
    await daemon.settle()
    assert up_to(await audited(daemon, stage, 0)) == (tip.number, tip.number)


async def test_e02_the_block_is_proven_by_another_endpoint(stage: Stage) -> None:
    daemon, node, other = await stage.start(0, 1), stage.nodes[0], stage.nodes[1]
    node.on_request = refusing(REFUSALS["a larger plan"])
    stage.show(tip := announced(stage))
    await daemon.settle(3)
    assert (daemon.errors, other.requests[BLOCK], other.requests["eth_getLogs"]) == (0, 1, 0)
    # The other one shows logs that this one left out, which is then not believed.
    node.log_lag = 1
    stage.show(tip := stage.grow(tip, 1, 9.0))
    await daemon.settle()
    assert daemon.pool.current.name == other.url
    await stage.untouched(tip)


async def test_e02_another_endpoint_that_is_down_is_not_waited_for_at_each_block(stage: Stage) -> None:
    daemon, other, tip = await stage.start(0, 1), stage.nodes[1], stage.main
    stage.nodes[0].on_request, other.offline = refusing(REFUSALS["not whitelisted"]), True
    for _ in range(3):
        stage.show(tip := stage.chain(tip, [stage.tx(*misleading(stage, min(ADDRESSES)))]), 0)
        asked = other.http_requests
        await daemon.settle(3)
        spent = other.http_requests - asked
    assert spent == 0 and daemon.errors == 0
    await stage.untouched(tip)


ONE_BLOCK: dict[str, Refusal | None] = {
    "pruned": Refusal(4444, "pruned history unavailable"),
    "missing": Refusal(-32000, "missing trie node"),
    "internal": Refusal(-32603, "internal error"),
    "null": None,
}


@pytest.mark.parametrize("how", ONE_BLOCK)
async def test_e02_the_refusal_of_one_block_is_not_a_refusal_of_the_method(how: str, stage: Stage) -> None:
    daemon, node, refusal = await stage.start(), stage.nodes[0], ONE_BLOCK[how]

    def one(method: str, params: list[Any]) -> None:
        if method == BLOCK and params == [hex(101)] and refusal is not None:
            raise refusal

    tip = announced(stage)
    node.on_request, node.pruned_below = one, None if refusal else 102
    stage.show(tip)
    await daemon.poll(2)
    assert (daemon.errors, refused(daemon)) == (2, {})
    await stage.stands_at(stage.main)
    node.on_request = node.pruned_below = None
    await daemon.settle()
    await stage.untouched(tip)


async def test_e02_an_endpoint_in_trouble_refuses_no_method(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    tip, down = announced(stage), []

    def fault(asked: Any) -> Fault | None:
        down.extend([asked] if BLOCK in str(asked) else [])
        return "drop" if down else None

    stage.show(tip)
    node.fault_for = fault
    await daemon.poll()
    assert (daemon.errors, refused(daemon)) == (1, {})
    node.fault_for = lambda asked: None
    await daemon.settle()
    await stage.untouched(tip)


@pytest.mark.parametrize("way", ["500", Say(502, "<html>Bad Gateway</html>"), "html", "drop"], ids=str)
@pytest.mark.parametrize("single", [True, False], ids=["one by one", "by block"])
async def test_receipts_that_a_gateway_loses_are_no_missing_method(single: bool, way: Fault, stage: Stage) -> None:
    """An answer that leaves logs out is not believed because the receipts did not come for a moment."""
    daemon, node = await stage.start(), stage.nodes[0]
    node.on_request = refusing(REFUSALS["no such method"], METHODS - {SINGLE if single else BLOCK})
    stage.show(tip := announced(stage))
    await daemon.settle(3)
    tip = stage.grow(tip, 1, 9.0)
    node.log_lag = 1
    node.fault_for = lambda asked: way if any(method in str(asked) for method in METHODS) else None
    stage.show(tip)
    await daemon.poll(2)
    assert daemon.errors == 2 and (SINGLE if single else BLOCK) not in refused(daemon)
    await stage.stands_at(stage.tree[tip.parent])
    node.fault_for, node.log_lag = lambda asked: None, 0
    await daemon.settle()
    await stage.untouched(tip)
    # What fails for longer is not served: the head goes on, and the methods are named.
    stage.show(tip := stage.chain(tip, [stage.tx(*misleading(stage, min(ADDRESSES)))]))
    node.fault_for = lambda asked: way if any(method in str(asked) for method in METHODS) else None
    await daemon.poll(4)
    assert set(refused(daemon)) == METHODS
    await stage.untouched(tip)


async def test_e02_a_method_that_is_served_costs_one_request(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    stage.show(tip := announced(stage))
    asked = node.http_requests
    await daemon.settle(3)
    assert (node.requests[BLOCK], node.requests[SINGLE]) == (1, 0)
    assert node.http_requests - asked <= 4  # two looks, the logs, the receipts
    await stage.untouched(tip)


async def test_e02_attestation_names_a_refused_method_once_and_asks_for_nothing_more(stage: Stage) -> None:
    node = stage.nodes[0]
    node.on_request = refusing(REFUSALS["an internal error"])
    daemon = await stage.start()
    auditor = await audited(daemon, stage, 0)
    assert up_to(auditor)[0] < 60 and auditor.gauges.blocks["proven"] > 0
    assert await incidents(stage) == [("unprovable", f"{node.url}: no receipts")]
    # Ten blocks in one request and two control questions, four attempts each; nothing for all the other blocks.
    assert node.requests[BLOCK] <= 4 * (10 + 2)
    await stage.untouched(stage.main)
