"""What an endpoint refuses ends in an answer, a smaller question or another endpoint's turn, in a bounded time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.errors import InconsistentResponseError, RateLimitedError, RpcError, TransientRpcError
from indexer.ingest.fetch import fetch_batch, fetch_final
from indexer.rpc import rate_limit
from indexer.rpc.adaptive_size import FAILURES_OF_SHORT_BATCH, MAX_ANSWERS_BEFORE_GROWTH, AdaptiveBatch
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.reader import Reader
from indexer.rpc.retry import MAX_ATTEMPTS, StopAfterTimeout
from tests.support.stubnode import ADDRESS, BAD_GATEWAY, HTML, Hang, Say, StubNode, hash_of, log_of
from tests.unit.test_transport import no_waits, numbers, over  # noqa: F401 - a fixture

ODD = {"code": -32600, "message": "Invalid Request"}


@asynccontextmanager
async def connected(length: int = 101, **settings: Any) -> AsyncIterator[tuple[StubNode, Reader]]:
    async with StubNode(length=length) as node:
        reader = Reader(Endpoint(node.url, **settings))
        try:
            yield node, reader
        finally:
            await reader.endpoint.close()


def final_block(number: int) -> FinalBlock:
    return FinalBlock(number, bytes.fromhex(hash_of(number)[2:]))


def refusing(refused: Callable[[Any], bool], error: dict[str, Any]) -> Callable[[Any], Any]:
    """Answers with the error in place of each result that is `refused`."""

    def mangle(answer: Any) -> Any:
        entries = answer if isinstance(answer, list) else [answer]
        made = [
            {"jsonrpc": "2.0", "id": entry["id"], "error": error} if refused(entry.get("result")) else entry
            for entry in entries
        ]
        return made if isinstance(answer, list) else made[0]

    return mangle


def test_after_hours_of_refusals_batches_grow_again() -> None:
    control = AdaptiveBatch(250)
    for _ in range(1_000):
        control.refused(control.size, length=False)
        while control.size == 1:
            control.succeeded(1)
    answers, before = 0, control.size
    while control.size <= before:
        control.succeeded(control.size)
        answers += 1
        assert answers <= MAX_ANSWERS_BEFORE_GROWTH


def test_what_was_refused_for_another_reason_gives_the_whole_length_back() -> None:
    control = AdaptiveBatch(250)
    for _ in range(3):
        control.refused(control.size, length=False)
    control.restore(control.size)
    assert control.size == 250


@pytest.mark.parametrize("together", [True, False], ids=["one answer", "any answers"])
async def test_an_endpoint_that_limits_everything_is_left_after_its_time_limit(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "MIN_PAUSE_S", 0.1)
    monkeypatch.setattr(rate_limit, "MAX_PAUSE_S", 0.1)
    async with connected(timeout=0.3) as (node, reader):
        node.script = [Say(429)] * 1_000
        with pytest.raises(RateLimitedError):
            await (reader.endpoint.batch(numbers(100)) if together else reader.headers(range(100)))
        # A pause is 0.1 s, so four requests begin in time, and the last of them is retried.
        assert len(node.requests) <= 4 + MAX_ATTEMPTS


async def test_a_longer_batch_that_is_only_tried_costs_nothing_that_was_asked() -> None:
    async with connected() as (node, reader):
        node.mangle = lambda answer: (
            {"jsonrpc": "2.0", "id": None, "error": ODD} if isinstance(answer, list) and len(answer) > 8 else answer
        )
        endpoint = reader.endpoint
        for _ in range(20):
            endpoint.lengths.size, endpoint.lengths._answers = 2, 30
            found = await reader.headers(range(60))
            assert [header.number for header in found] == list(range(60))


LOSSES: dict[str, Say | Hang] = {
    "500": Say(500, "Internal Server Error"),
    "502": BAD_GATEWAY,
    "closed": Hang(0),
    "a page": HTML,
}


def longer_than(calls: int, loss: Say | Hang) -> Callable[[Any], Say | Hang | None]:
    return lambda asked: loss if isinstance(asked, list) and len(asked) > calls else None


async def failing_over(ask: Callable[[], Awaitable[Any]]) -> Any:
    """As a pool asks: what fails is asked again a little later, here at once."""
    for _ in range(20):
        with contextlib.suppress(TransientRpcError):
            return await ask()
    raise AssertionError("never answered")


@pytest.mark.parametrize("cap", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("loss", LOSSES)
async def test_an_endpoint_that_loses_batches_however_short_is_asked_in_shorter_ones(loss: str, cap: int) -> None:
    async with connected() as (node, reader):
        node.instead, node.logs = longer_than(cap, LOSSES[loss]), [log_of(50)]
        heads = await failing_over(reader.heads)
        assert heads.latest.number == 100
        found = await failing_over(lambda: reader.headers(range(60)))
        assert [header.number for header in found] == list(range(60))
        task = ContractRange(40, 90, (ADDRESS,))
        batch = await failing_over(lambda: fetch_batch(reader, task, final_block(95), None, plain=True))
        assert (batch.first, batch.last, len(batch.logs)) == (40, 90, 1)
        assert max(1, cap // 2) <= reader.endpoint.lengths.size <= max(1, cap)
        assert len(node.requests) < 250
        # Once found, nothing is lost any more.
        node.requests.clear()
        await reader.headers(range(20))
        assert len(node.requests) == -(-20 // reader.endpoint.lengths.size)


async def test_heavy_answers_that_are_lost_do_not_shorten_batches() -> None:
    async with connected() as (node, reader):
        node.instead = lambda asked: BAD_GATEWAY if "eth_getLogs" in str(asked) else None
        task = ContractRange(40, 90, (ADDRESS,))
        for _ in range(12):
            with pytest.raises(TransientRpcError):
                await fetch_batch(reader, task, final_block(95), None, plain=True)
        assert reader.endpoint.lengths.size == 250
        node.instead = lambda asked: BAD_GATEWAY
        for _ in range(12):
            with pytest.raises(TransientRpcError):
                await fetch_batch(reader, task, final_block(95), None, plain=True)
        assert reader.endpoint.lengths.size == 250


@pytest.mark.parametrize("requests", range(1, 40))
async def test_an_outage_does_not_shorten_batches(requests: int) -> None:
    """It may begin and end anywhere, also between the questions that look for an endpoint that loses batches."""
    async with connected() as (node, reader):
        reader.endpoint.lengths.learn(8)
        node.script = [BAD_GATEWAY] * requests
        await failing_over(lambda: reader.found([1, 2, 3, "latest"]))
        assert not node.script and reader.endpoint.lengths.size == 8


async def test_a_limit_on_the_rate_is_not_taken_for_lost_batches() -> None:
    async with connected(timeout=0.3) as (node, reader):
        losses = longer_than(1, BAD_GATEWAY)
        for _ in range(FAILURES_OF_SHORT_BATCH):
            node.instead = losses
            with pytest.raises(TransientRpcError):
                await reader.endpoint._send(numbers(4), StopAfterTimeout(1.0))
            node.instead = lambda asked: Say(429)
            await reader.endpoint.batches._shortened(numbers(4), TransientRpcError("lost"), set())
        assert reader.endpoint.lengths.size == 250


def test_a_length_that_was_refused_after_growth_is_not_left_for_single_calls_after_one_loss() -> None:
    control = AdaptiveBatch(250)
    control.refused(100, length=False)
    while control.size == 25:
        control.succeeded(25)
    control.refused(control.size, length=False)
    size = control.size
    assert size == 12 and not control.failed(size)
    assert control.size >= 8


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_short_batches_that_are_lost_are_tried_again_ever_more_seldom(cap: int) -> None:
    """Real batches are shorter than the size they may have, so that a batch of that size never comes."""
    control, lost = AdaptiveBatch(250), 0
    for _ in range(5_000):
        calls = min(4, control.size)
        if calls <= cap:
            control.succeeded(calls)
        else:
            lost += 1
            if control.failed(calls):
                control.lost(calls)
    assert control.size <= 26 and lost < 30


def test_a_longer_batch_that_is_only_tried_and_lost_goes_back_to_what_was_answered() -> None:
    control = AdaptiveBatch(250)
    control.refused(8, length=False)
    assert control.size == 2
    lost = 0
    for _ in range(10_000):
        if control.size > 2:
            assert not control.failed(control.size)
            lost += 1
        assert control.size == 2
        control.succeeded(2)
    assert 2 <= lost < 20


async def test_what_is_refused_among_answers_is_asked_again_as_long_as_more_is_answered() -> None:
    async with connected() as (node, reader):
        node.mangle = over(9, {"code": -32000, "message": "no"})
        assert [header.number for header in await reader.headers(range(60))] == list(range(60))


async def test_a_header_that_is_refused_as_too_large_halves_the_range() -> None:
    async with connected(length=2_001) as (node, reader):
        node.logs = [log_of(n) for n in range(5, 2_000, 5)]
        refused = node.logs[20]["blockHash"]
        node.mangle = refusing(
            lambda block: isinstance(block, dict) and block.get("hash") == refused,
            {"code": -32000, "message": "query timeout exceeded"},
        )
        batch = await fetch_batch(reader, ContractRange(1, 1_900, (ADDRESS,)), final_block(2_000), None, plain=True)
        assert batch.first == 1 and 50 <= batch.last < int(node.logs[20]["blockNumber"], 16)
        assert len(node.requests) < 100


async def test_a_busy_hour_does_not_lower_the_ceiling_of_a_range() -> None:
    async with connected(length=4_001) as (node, reader):
        node.mangle = refusing(lambda found: isinstance(found, list), {"code": -32000, "message": "query timed out"})
        with pytest.raises(RpcError):
            await fetch_batch(reader, ContractRange(1, 3_900, (ADDRESS,)), final_block(4_000), None, plain=True)
        assert reader.ranges.size == 1
        node.mangle, first, batches = (lambda answer: answer), 1, 0
        while first <= 3_900:
            rest = ContractRange(first, 3_900, (ADDRESS,))
            batch = await fetch_batch(reader, rest, final_block(4_000), None, plain=True)
            first, batches = batch.last + 1, batches + 1
        assert reader.ranges.ceiling == 2_000 and batches < 100


@pytest.mark.parametrize(("calls", "last"), [(250, 95), (3, 95), (2, 95), (2, 90), (3, 90)])
async def test_the_final_block_is_seen_by_the_node_that_shows_the_range(calls: int, last: int) -> None:
    """One URL, two nodes: the one on an orphaned branch is asked first. However short batches are, it shows no final
    block."""
    async with connected() as (node, reader):
        reader.endpoint.lengths.learn(calls)
        node.fork = "b"

        def the_other_next(answer: Any) -> Any:
            node.fork = "a"
            return answer

        node.mangle = the_other_next
        with pytest.raises((RpcError, InconsistentResponseError)):
            await asyncio.wait_for(
                fetch_final(reader, 90 if last == 90 else 91, last, [ADDRESS], None, final=final_block(100)), 60
            )
