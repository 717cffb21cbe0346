"""Endpoints that refuse: calls counted one by one, ranges in any words, now and then for no reason, and for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from indexer.errors import TransientRpcError
from indexer.follow.runner import BACKFILL_TIMEOUT_S
from indexer.ingest import ingestor
from indexer.rpc import rate_limit, reader, retry
from tests.scenarios.harness import Stage
from tests.support.simchain.node import Fault, Say, SimNode
from tests.support.simchain.refusals import Refusal

TOO_FAST = '{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Too Many Requests"}}'


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that nobody asked for are short."""
    monkeypatch.setattr(rate_limit, "MIN_PAUSE_S", 0.001)
    monkeypatch.setattr(rate_limit, "MAX_PAUSE_S", 0.01)
    monkeypatch.setattr(reader, "_ASK_AGAIN_S", 0.0, raising=False)


def blocks_asked(asked: Any) -> range | None:
    """The blocks whose logs an HTTP request asks for."""
    for call in asked if isinstance(asked, list) else [asked]:
        if call["method"] == "eth_getLogs":
            return range(int(call["params"][0]["fromBlock"], 16), int(call["params"][0]["toBlock"], 16) + 1)
    return None


def counting(node: SimNode, most: int, *, whole: bool) -> list[list[Any]]:
    """`node` answers so many calls of an HTTP request and refuses the others, or the whole; the bodies it answered."""
    answered: list[list[Any]] = []
    left = most

    def look(asked: Any) -> Fault | None:
        nonlocal left
        left = most
        calls = asked if isinstance(asked, list) else [asked]
        if len(calls) <= most:
            answered.append(calls)
        return Say(429, TOO_FAST) if whole and len(calls) > most else None

    def count(method: str, params: list[Any]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Refusal(429, "exceeded 50 calls per second")

    node.fault_for, node.on_request = look, count
    return answered


# -- calls of a batch that are counted one by one


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("most", [20, 4, 2])
async def test_e03_blocks_above_finalized_come_in_batches_of_the_calls_that_are_served(
    stage: Stage, most: int, whole: bool
) -> None:
    """26 calls for 24 blocks are refused: the range shrinks until logs, headers and the final block are one answer."""
    stage.nodes[0].finalized = 76
    answered = counting(stage.nodes[0], most, whole=whole)
    daemon = await stage.start(settled=False)
    await daemon.settle()
    await stage.untouched(stage.main)
    above = [calls for calls in answered if (blocks := blocks_asked(calls)) and blocks[0] > 76]
    for calls in above if most > 2 else ():
        headers = {int(c["params"][0], 16) for c in calls if c["method"] == "eth_getBlockByNumber"}
        blocks = blocks_asked(calls)
        assert blocks is not None and {*blocks, 76} <= headers


# -- ranges that are refused in any words


WORDS: list[tuple[int, str]] = [
    (-32000, "too wide blocks range, the limit is 10"),
    (-32005, "limit exceeded"),
    (-32000, "computer says no"),
    (-32602, "invalid argument 0"),
    (-32603, "unheard of"),
    (0, ""),
]


def narrow(most: int, refusal: Callable[[], Exception]) -> Callable[[str, list[Any]], None]:
    def refuse(method: str, params: list[Any]) -> None:
        if method == "eth_getLogs" and int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) >= most:
            raise refusal()

    return refuse


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[1] or "nothing")
async def test_e04_a_range_refused_in_any_words_is_asked_for_smaller(stage: Stage, words: tuple[int, str]) -> None:
    stage.nodes[0].on_request = narrow(10, lambda: Refusal(*words))
    daemon = await stage.start(settled=False)
    await daemon.settle()
    await stage.untouched(stage.main)
    assert daemon.pool.readers[0].endpoint.lengths.size > 4  # not taken for a limit of batches


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_e04_a_range_refused_by_an_http_status_is_asked_for_smaller(stage: Stage, status: int) -> None:
    """The whole answer is the refusal, so it might as well be about batches; single calls show that it is not."""

    def refuse(asked: Any) -> Fault | None:
        blocks = blocks_asked(asked)
        return Say(status, "Bad Request") if blocks is not None and len(blocks) > 10 else None

    stage.nodes[0].fault_for = refuse
    daemon = await stage.start(settled=False)
    await daemon.settle()
    await stage.untouched(stage.main)
    assert daemon.pool.readers[0].endpoint.lengths.size > 4


async def test_e04_ranges_grow_again_after_refusals_that_were_not_about_them(stage: Stage) -> None:
    """A key that expired for a while refuses everything; afterwards ranges are as large as before."""
    node = stage.nodes[0]
    daemon = await stage.start()
    tip = stage.grow(stage.main, 30)
    stage.show(tip)
    node.on_request = narrow(0, lambda: Refusal(-32000, "invalid api key"))
    await daemon.poll(5)
    assert daemon.progress.waiting
    node.on_request = None
    await daemon.settle()
    await stage.untouched(tip)
    assert daemon.pool.readers[0].ranges.size == 2000


async def test_e04_a_refused_block_is_a_wait_that_says_where_what_why_and_what_helps(stage: Stage) -> None:
    daemon = await stage.start()
    node, tip = stage.nodes[0], stage.grow(stage.main, 1)
    stage.show(tip)
    node.on_request = narrow(0, lambda: Refusal(-32000, "computer says no"))
    with structlog.testing.capture_logs() as lines:
        await daemon.poll(3)
    said = [str(line["error"]) for line in lines if line["event"] == "waiting"]
    assert len(said) == 1  # once, however often it comes again
    for text in (said[0], daemon.progress.waiting, await stage.value("SELECT state FROM indexer.lease")):
        for part in (node.url, "eth_getLogs", f"blocks {tip.number} to {tip.number}", "computer says no"):
            assert part in text
        assert "max_blocks under [ranges]" in text
    assert daemon.progress.waiting.startswith("an endpoint that serves what is asked: ")
    node.on_request = None
    await daemon.settle()
    assert await stage.value("SELECT state FROM indexer.lease") == "following"
    await stage.untouched(tip)


# -- a refusal now and then


def one_in(times: int, *methods: str) -> Callable[[str, list[Any]], None]:
    asked = 0

    def refuse(method: str, params: list[Any]) -> None:
        nonlocal asked
        if method in methods:
            asked += 1
            if asked % times == 0:
                raise Refusal(-32602, "invalid block range params")

    return refuse


async def test_e07_a_refusal_now_and_then_is_asked_again_and_costs_nothing_else(stage: Stage) -> None:
    node = stage.nodes[0]
    node.finalized = node.safe = 100
    node.on_request = one_in(30, "eth_getLogs")
    daemon = await stage.start(max_blocks=2, settled=False)
    await daemon.settle()
    await stage.untouched(stage.main)
    assert daemon.errors == 0 and node.requests["eth_getLogs"] <= 51 + 2


async def test_e07_what_was_fetched_before_and_beside_an_error_is_committed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block 40 is not served: all the others are there afterwards, and only it is asked for again."""
    monkeypatch.setattr(ingestor, "GROUP_SECONDS", 3600.0)  # nothing is committed because time passed
    node = stage.nodes[0]
    node.finalized = node.safe = 99
    failing = [True]

    def fail(asked: Any) -> Fault | None:
        blocks = blocks_asked(asked)
        return "500" if failing and blocks is not None and 40 in blocks else None

    node.fault_for = fail
    daemon = await stage.start(max_blocks=10, settled=False, last=99)
    monkeypatch.setattr("indexer.follow.action_executor.MIN_CATCH_UP_BLOCKS", 1)
    await daemon.poll()
    assert daemon.errors == 1
    covered = await stage.fetch("SELECT DISTINCT lower(blocks), upper(blocks) FROM indexer.coverage ORDER BY 1")
    assert covered[0] == (0, 40) and len(covered) == 2 and covered[1][0] <= 50 and covered[1][1] > 60
    failing.clear()
    before = node.requests["eth_getLogs"]
    await daemon.settle()
    assert node.requests["eth_getLogs"] - before < 10
    assert await stage.value("SELECT number FROM indexer.checkpoint") == 99


async def test_e07_a_backfill_that_moves_is_not_given_up_and_one_that_does_not_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn fails and each pause is minutes long: twenty turns with a commit pass, without one they end it."""
    node = stage.nodes[0]
    node.finalized = node.safe = 20
    daemon = await stage.start(max_blocks=2, settled=False, first=0, last=20)
    now = 1000.0
    daemon.progress.clock = lambda: now

    async def pause(seconds: float) -> None:
        nonlocal now
        now += BACKFILL_TIMEOUT_S / 2

    monkeypatch.setattr(daemon.runner, "_pause", pause)
    asked = 0

    def fail(asked_now: Any) -> Fault | None:
        nonlocal asked
        if blocks_asked(asked_now) is None:
            return None
        asked += 1
        return "500" if asked % (retry.MAX_ATTEMPTS + 1) else None

    node.fault_for = fail
    await daemon.runner.backfill()
    assert daemon.errors > 5
    await stage.untouched(stage.at(stage.main, 20))
    node.fault_for = lambda asked: "500" if blocks_asked(asked) is not None else None
    object.__setattr__(daemon.runner.engine.options, "last", 25)
    errors = daemon.errors
    with pytest.raises(TransientRpcError, match="Internal Server Error"):
        await daemon.runner.backfill()
    assert daemon.errors - errors == 4
