"""E6: the head needs no tag. Whatever `safe` and `finalized` do, it is followed, and nothing becomes final by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from indexer.chain import finality
from indexer.rpc import head_tags, retry
from tests.scenarios.harness import HEAD, Daemon, Stage
from tests.support.simchain.node import Fault, Say, SimNode
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import Depth, Json

WAYS: dict[str, Refusal | Fault] = {
    "unknown to the node": Refusal(-39001, "Unknown block"),
    "not found": Refusal(-32000, "finalized block not found"),
    "an invalid argument": Refusal(-32602, "invalid argument 0: hex string without 0x prefix"),
    "not whitelisted": Refusal(-32001, "not whitelisted"),
    "limited": Refusal(-32005, "rate limit exceeded"),
    "limited by its code": Refusal(429, "compute units exceeded"),
    "timed out behind the node": Refusal(-32000, "context deadline exceeded"),
    "an error of the parent chain": Refusal(-32000, "failed to get finalized block: Post https://l1: connection reset"),
    "an error of the parent chain in its words": Refusal(-32603, "L1 client: 503 Service Temporarily Unavailable"),
    "internal": Refusal(-32603, "Internal error"),
    "HTTP 500": "500",
    "HTTP 502": Say(502, "<html>Bad Gateway</html>"),
    "HTTP 429": "429",
    "a sign-in page": "html",
    "a connection that closes": "drop",
    "half an answer": "cut",
}
BLOCKS: dict[str, Callable[[Json], Any]] = {
    "null": lambda block: None,
    "no object": lambda block: "0x1",
    "no number": lambda block: block | {"number": None},
    "no hash": lambda block: block | {"hash": "0x"},
    "a time that is no quantity": lambda block: block | {"timestamp": "yesterday"},
    "an empty object": lambda block: {},
}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)


def is_tag(call: Any) -> bool:
    return call["method"] == "eth_getBlockByNumber" and call["params"][0] in ("safe", "finalized")


def fail(node: SimNode, way: Refusal | Fault) -> None:
    """Every call about a tag is answered so, or every request that contains one."""

    def refuse(method: str, params: list[Any]) -> None:
        if is_tag({"method": method, "params": params}):
            raise way  # type: ignore[misc]

    def fault(asked: Any) -> Fault | None:
        calls = asked if isinstance(asked, list) else [asked]
        return way if any(map(is_tag, calls)) else None  # type: ignore[return-value]

    if isinstance(way, Refusal):
        node.on_request = refuse
    else:
        node.fault_for = fault


def spoil(node: SimNode, change: Callable[[Json], Any]) -> None:
    """The tags are answered, with a block like this."""
    honest = node.tagged

    def answer(number: str, full: bool = False) -> Any:
        block = node._block(honest(number), full)
        return change(block) if number in ("safe", "finalized") and block else block

    node.do_eth_getBlockByNumber = answer  # type: ignore[method-assign]


async def follows(stage: Stage, daemon: Daemon, tip: Any) -> Any:
    """Five more blocks are followed, one by one; the last of them."""
    for _ in range(5):
        tip = stage.grow(tip, 1)
        stage.show(tip)
        await daemon.settle()
    await stage.stands_at(tip)
    return tip


async def floor(stage: Stage) -> int:
    return int(await stage.value("SELECT rollback_floor FROM indexer.checkpoint"))


@pytest.mark.parametrize("way", [*WAYS, *BLOCKS])
async def test_e06_a_tag_that_fails_does_not_stop_the_head_and_makes_nothing_final(way: str, stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    daemon.runner.engine.observer.finality.depth = 10
    assert await floor(stage) == 60
    if way in WAYS:
        fail(node, WAYS[way])
    else:
        spoil(node, BLOCKS[way])
    tip = await follows(stage, daemon, stage.main)
    assert daemon.errors <= 1, "a request that fails as a whole is one look"
    assert (daemon.progress.finalized, await floor(stage)) == (60, 60)
    assert "nothing becomes final" in daemon.progress.finality_source
    await stage.untouched(tip)
    # It works again: the tag counts.
    node.on_request, node.fault_for = None, lambda asked: None
    node.__dict__.pop("do_eth_getBlockByNumber", None)
    daemon.pool.readers[0].endpoint.health.support.__init__()  # type: ignore[misc]
    node.finalized = node.safe = 102
    tip = await follows(stage, daemon, tip)
    assert (daemon.progress.finalized, daemon.progress.finality_source) == (102, "tag")
    await stage.untouched(tip)


@pytest.mark.parametrize("way", ["limited", "internal", "HTTP 500", "no number"])
async def test_e06_a_tag_that_fails_for_longer_gives_way_to_the_depth(
    way: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    daemon.runner.engine.observer.finality.depth = 10
    fail(node, WAYS[way]) if way in WAYS else spoil(node, BLOCKS[way])
    tip = await follows(stage, daemon, stage.main)
    assert daemon.progress.finalized == 60
    monkeypatch.setattr(finality, "MISSING_TAG_S", -1.0)
    tip = await follows(stage, daemon, tip)
    assert daemon.progress.finalized == tip.number - 10 and "tag fails" in daemon.progress.finality_source
    await stage.untouched(tip)


async def test_e06_a_daemon_that_starts_without_its_tag_follows_the_head(stage: Stage) -> None:
    fail(stage.nodes[0], WAYS["an error of the parent chain"])
    daemon = await stage.start()
    assert (daemon.progress.finalized, await floor(stage)) == (-1, -1)
    tip = await follows(stage, daemon, stage.main)
    assert daemon.errors <= 1
    await stage.untouched(tip)


async def test_e06_a_tag_that_hangs_delays_no_later_look(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    monkeypatch.setattr(head_tags, "TAG_WAIT_S", 0.05)
    fail(node, "hang")
    endpoint = daemon.pool.readers[0].endpoint
    patience, endpoint.batches.timeout = endpoint.timeout, 0.5
    await daemon.poll()
    # From now on a busy machine is waited for, and another request that hangs would be seen.
    endpoint.batches.timeout = patience
    errors = daemon.errors
    tip = await follows(stage, daemon, stage.main)
    assert daemon.errors == errors <= 1 and daemon.progress.finalized == 60
    refused = endpoint.health.support.reasons()
    assert set(refused) == {"tag finalized", "tag safe"}
    await stage.untouched(tip)


async def test_e06_the_other_endpoint_gives_the_tag(stage: Stage) -> None:
    daemon = await stage.start(0, 1)
    fail(stage.nodes[0], WAYS["HTTP 500"])
    for node in stage.nodes:
        node.finalized = node.safe = 70
    await follows(stage, daemon, stage.main)
    assert (daemon.progress.finalized, daemon.progress.finality_source) == (70, "tag")


@pytest.mark.parametrize("tags", [True, False], ids=["with tags", "without"])
async def test_a_head_far_above_the_chain_is_waited_out_by_name(
    tags: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One false answer names a final block that no range can join."""
    daemon, node = await stage.start(), stage.nodes[0]
    if not tags:
        fail(node, WAYS["unknown to the node"])
    honest = node.tagged

    def absurd(number: str, full: bool = False) -> Any:
        block = node._block(honest(number), full)
        return block | {"number": hex(10**12)} if number in ("latest", "safe", "finalized") and block else block

    monkeypatch.setattr(finality, "MISSING_TAG_S", -1.0)
    node.do_eth_getBlockByNumber = absurd  # type: ignore[method-assign]
    await daemon.poll()
    node.__dict__.pop("do_eth_getBlockByNumber")
    final = daemon.runner.engine.observer.finality.final.number
    assert final > 10**11
    tip = stage.grow(stage.main, 5)
    stage.show(tip)
    await daemon.poll(2)
    monkeypatch.setattr(finality, "UNREACHED_S", -1.0)
    stage.show(tip := stage.grow(tip, 1))  # A head that stands still would be no evidence.
    await daemon.settle(3)
    assert daemon.runner.engine.observer.finality.final.number < 10**11 and daemon.progress.waiting == ""
    await stage.untouched(tip)


async def test_e06_tags_cost_no_request_while_they_work(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    asked = node.http_requests
    await daemon.poll(10)
    assert node.http_requests - asked == 10


async def test_e06_tags_that_fail_cost_few_requests(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    fail(node, WAYS["internal"])
    await daemon.poll(3)
    asked = node.http_requests
    await daemon.poll(20)
    assert node.http_requests - asked == 20


# -- tags that are there and useless


async def test_e06_a_tag_far_below_the_depth_is_named_and_the_head_is_followed(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    daemon.runner.engine.observer.finality.depth = 20
    node.finalized = node.safe = 60
    tip = await follows(stage, daemon, stage.main)
    assert daemon.progress.finalized == 60 and "more than 20 blocks below latest" in daemon.progress.finality_source
    await stage.untouched(tip)


@pytest.mark.parametrize("moves", [0, 1], ids=["not at all", "hardly"])
async def test_e06_a_tag_that_does_not_move_gives_way_to_the_depth(moves: int, stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    daemon.runner.engine.observer.finality.depth = 15
    tip = stage.main
    for turn in range(4):
        node.finalized = node.safe = 60 + moves * (turn // 3)
        tip = await follows(stage, daemon, tip)
    assert "stands still" in daemon.progress.finality_source
    assert (daemon.progress.finalized, await floor(stage)) == (tip.number - 15, tip.number - 15)
    await stage.untouched(tip)


async def test_e06_a_tag_that_is_the_head_gives_way_to_the_depth(stage: Stage) -> None:
    daemon, node = await stage.start(settled=False), stage.nodes[0]
    node.finalized = node.safe = Depth(0)
    daemon.runner.engine.observer.finality.depth = 3
    await daemon.settle()
    await follows(stage, daemon, stage.main)
    assert "equals latest" in daemon.progress.finality_source and daemon.progress.finalized >= HEAD


async def test_e06_the_state_is_shown(stage: Stage) -> None:
    daemon, node = await stage.start(), stage.nodes[0]
    fail(node, WAYS["an error of the parent chain"])
    await follows(stage, daemon, stage.main)
    reasons = daemon.pool.readers[0].endpoint.health.reason(daemon.pool.clock())
    assert "tag finalized: failed to get finalized block" in reasons and json.dumps(reasons)
