"""One endpoint over a real socket: what it does wrong is survived, retried within limits, or named."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from indexer.errors import (
    BatchUnsupportedError,
    ConfigError,
    InconsistentResponseError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
)
from indexer.rpc import rate_limit, retry
from indexer.rpc.answers import Call
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.proxy import Proxy, proxy_of
from indexer.rpc.reader import Reader
from indexer.rpc.retry import MAX_ATTEMPTS
from tests.support.inprocess import in_process
from tests.support.stubnode import ADDRESS, BAD_GATEWAY, HTML, TRUNCATED, Hang, Say, StubNode, hash_of, log_of
from tests.support.waiting import guard

CHAIN_ID: Call = ("eth_chainId", [])


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)


@asynccontextmanager
async def connected(**settings: Any) -> AsyncIterator[tuple[StubNode, Endpoint]]:
    async with StubNode() as node:
        endpoint = Endpoint(node.url, **settings)
        try:
            yield node, endpoint
        finally:
            await endpoint.close()


def numbers(count: int) -> list[Call]:
    return [("eth_getBlockByNumber", [hex(n), False]) for n in range(count)]


async def served_hashes(endpoint: Endpoint, count: int) -> None:
    assert [r["hash"] for r in await endpoint.batch(numbers(count))] == [hash_of(n) for n in range(count)]


async def test_a_batch_is_one_request_and_its_results_come_in_order() -> None:
    async with connected() as (node, endpoint):
        node.mangle = lambda answer: answer[::-1]
        await served_hashes(endpoint, 5)
        assert endpoint.requests == len(node.requests) == 1
        assert endpoint.outcomes == {("eth_getBlockByNumber", "ok"): 5}


async def test_no_calls_are_no_request() -> None:
    async with connected() as (node, endpoint):
        assert await endpoint.batch([]) == []
        assert node.requests == []


async def test_long_batches_are_split_at_max_batch() -> None:
    async with connected(max_batch=40) as (node, endpoint):
        await served_hashes(endpoint, 100)
        assert [len(r) for r in node.requests] == [40, 40, 20]


@pytest.mark.parametrize("way", ["error", "400", "text", "item", "internal"])
async def test_a_node_that_refuses_batches_is_asked_one_by_one_for_good(way: Any) -> None:
    async with connected() as (node, endpoint):
        node.refuses_batches = way
        await served_hashes(endpoint, 5)
        node.requests.clear()
        await served_hashes(endpoint, 7)
        assert len(node.requests) == 7 and all(isinstance(r, dict) for r in node.requests)


async def test_a_node_that_limits_batches_still_gets_batches() -> None:
    async with connected() as (node, endpoint):
        node.max_batch = 10
        await served_hashes(endpoint, 100)
        assert endpoint.lengths.size == 10
        assert len(node.requests) < 30


async def test_the_limit_that_a_node_names_is_met_at_once() -> None:
    async with connected() as (node, endpoint):
        node.max_batch, node.batch_message = 100, "batch limit {cap} exceeded. Requested batch of size: {count}"
        await served_hashes(endpoint, 101)
        await served_hashes(endpoint, 101)
        assert [len(r) if isinstance(r, list) else "alone" for r in node.requests] == [101, 100, "alone", 100, "alone"]
        assert (endpoint.lengths.size, endpoint.lengths.ceiling) == (100, 100)


async def test_batches_under_way_together_are_shortened_once_and_all_answered() -> None:
    async with connected() as (node, endpoint):
        node.max_batch, node.batch_message = 70, "batch too large"
        await asyncio.gather(*(served_hashes(endpoint, 101) for _ in range(6)))
        assert endpoint.lengths.size == 101 // 4


async def test_a_node_that_hangs_up_on_long_batches_gets_shorter_ones_and_longer_ones_again() -> None:
    async with connected(max_batch=64) as (node, endpoint):
        node.script = [Hang(0)] * MAX_ATTEMPTS
        with pytest.raises(TransientRpcError):
            await endpoint.batch(numbers(64))
        assert (endpoint.lengths.size, endpoint.lengths.ceiling) == (32, 64)
        for _ in range(6 * 32):
            await endpoint.batch(numbers(1) * endpoint.lengths.size)
        assert endpoint.lengths.size == 64


async def test_after_a_bad_hour_batches_are_tried_again() -> None:
    async with connected() as (node, endpoint):
        node.refuses_batches = "internal"
        await served_hashes(endpoint, 5)
        assert (endpoint.lengths.size, endpoint.lengths.ceiling) == (1, 250)
        node.refuses_batches = ""
        for _ in range(20):
            await served_hashes(endpoint, 5)
        assert endpoint.lengths.size > 1
        node.requests.clear()
        await served_hashes(endpoint, 5)
        assert len(node.requests) == 1


async def test_headers_that_are_too_much_for_one_answer_come_in_shorter_batches() -> None:
    async with connected(max_response=30_000) as (_, endpoint):
        await served_hashes(endpoint, 100)
        assert 1 < endpoint.lengths.size < 100 and endpoint.lengths.ceiling == 250


@pytest.mark.parametrize("named", [True, False])
async def test_however_many_fetch_at_once_a_size_is_refused_once(named: bool) -> None:
    async with connected() as (node, endpoint):
        node.cap, node.length = 20, 4001
        node.cap_message = "block range too large, maximum {cap}" if named else "block range is too wide"
        reader = Reader(endpoint, max_blocks=320)

        async def fetch(first: int, last: int) -> None:
            while first <= last:
                end = min(last, first + reader.ranges.size - 1)
                try:
                    await reader.logs_with_headers(first, end, [ADDRESS], [first])
                except RangeTooLargeError as refusal:
                    reader.ranges.refused(end - first + 1, refusal.hint, results=refusal.results)
                else:
                    reader.ranges.succeeded(end - first + 1, 0)
                    first = end + 1

        await asyncio.gather(*(fetch(n * 400, n * 400 + 399) for n in range(10)))
        assert node.refused == (1 if named else 4)
        assert node.getlogs.count(20) == 200
        assert reader.export_limits()["ranges"]["ceiling"] == 20
        other = Reader(endpoint, max_blocks=320)
        other.import_limits(reader.export_limits())
        assert other.ranges.size == 20


async def test_a_refusal_of_many_logs_names_about_how_many_blocks_to_ask_for() -> None:
    async with connected() as (node, endpoint):
        node.cap, node.cap_message = 20, "query returned more than 10000 results"
        reader = Reader(endpoint)
        with pytest.raises(RangeTooLargeError) as caught:
            await reader.logs_with_headers(0, 99, [ADDRESS], [])
        assert caught.value.results and caught.value.hint == 10
        assert (reader.ranges.size, reader.ranges.ceiling) == (10, 2000)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_key_is_not_taken_for_a_refusal_of_batches(status: int) -> None:
    async with connected() as (node, endpoint):
        node.script = [Say(status, "invalid project id")]
        with pytest.raises(RpcCallError, match="invalid project id"):
            await endpoint.batch(numbers(5))
        assert endpoint.lengths.size == 250 and len(node.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        Say(429, '{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Too Many Requests"}}'),
        Say(200, '{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"rate limit exceeded"}}'),
        Say(429, '[{"jsonrpc":"2.0","id":0,"error":{"code":429,"message":"x"}}]'),
        Say(503, '{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"overloaded"}}'),
        Say(500, '{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"unheard of"}}'),
        Say(200, "{}"), Say(200, "null"), Say(200, "[]"), Say(200, ""), Say(200, '[{"id":[],"result":1}]'),
        HTML, BAD_GATEWAY, TRUNCATED, Hang(0),
    ],
    ids=str,
)  # fmt: skip
async def test_passing_trouble_is_tried_again_and_batches_go_on(trouble: Say | Hang) -> None:
    async with connected() as (node, endpoint):
        node.script = [trouble, trouble]
        await served_hashes(endpoint, 5)
        assert endpoint.lengths.size == 250
        assert len(node.requests) == 3


async def test_internal_error_for_a_batch_that_was_served_before_is_passing_trouble() -> None:
    async with connected() as (node, endpoint):
        await served_hashes(endpoint, 5)
        node.script = [Say(200, '{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Internal error"}}')]
        await served_hashes(endpoint, 5)
        assert endpoint.lengths.size == 250


@pytest.mark.parametrize("trouble", [HTML, BAD_GATEWAY, TRUNCATED, Hang(0), Say(429), Say(500)], ids=str)
async def test_retries_are_bounded(trouble: Say | Hang) -> None:
    async with connected() as (node, endpoint):
        node.script = [trouble] * 50
        with pytest.raises(TransientRpcError) as caught:
            await endpoint.call(*CHAIN_ID)
        assert len(node.requests) == MAX_ATTEMPTS
        assert caught.value.endpoint == endpoint.name
        assert "\n" not in str(caught.value)


async def test_a_hanging_node_is_given_up_after_about_its_time_out() -> None:
    async with connected(timeout=0.15) as (node, endpoint):
        node.script = [Hang(3600)] * 9
        async with guard("the time-out"):
            with pytest.raises(TransientRpcError, match=r"no answer within 0\.15 seconds"):
                await endpoint.call(*CHAIN_ID)
        assert len(node.requests) <= 2


async def test_a_closed_port_is_transient() -> None:
    async with connected() as (node, endpoint):
        await node.stop()
        with pytest.raises(TransientRpcError):
            await endpoint.call(*CHAIN_ID)
        await node.start()
        assert await endpoint.call(*CHAIN_ID) == hex(1729)


@pytest.mark.parametrize("trouble", [HTML, BAD_GATEWAY, Hang(0), Say(403, "Forbidden")], ids=str)
async def test_an_error_names_its_endpoint_without_the_key(trouble: Say | Hang) -> None:
    async with StubNode() as node:
        endpoint = Endpoint(f"{node.url}/?token=hidden")
        node.script = [trouble] * MAX_ATTEMPTS
        with pytest.raises(RpcError, match=node.url) as caught:
            await endpoint.call(*CHAIN_ID)
        assert "hidden" not in str(caught.value)
        await endpoint.close()


async def test_what_is_no_url_is_an_rpc_error() -> None:
    endpoint = Endpoint("nonsense")
    with pytest.raises(RpcError):
        await endpoint.call(*CHAIN_ID)
    await endpoint.close()


async def test_a_retry_waits_as_long_as_the_node_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, sleep = list[float](), asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    async with connected() as (node, endpoint):
        node.script = [Say(429, "slow down", {"Retry-After": "0.2"})]
        started = time.monotonic()
        await endpoint.call(*CHAIN_ID)
        assert time.monotonic() - started >= 0.2 and sum(slept) < 1


async def test_a_rate_limit_that_stays_names_its_wait() -> None:
    async with connected() as (node, endpoint):
        node.script = [Say(429, "slow down", {"Retry-After": "0"})] * 9
        with pytest.raises(RateLimitedError) as caught:
            await endpoint.call(*CHAIN_ID)
        assert caught.value.retry_after == 0


async def test_the_wait_that_a_node_asks_for_holds_when_its_refusal_is_in_a_list() -> None:
    async with connected() as (node, endpoint):
        node.script = [Say(429, '[{"id":null,"error":{"code":429,"message":"slow down"}}]', {"Retry-After": "7"})]
        with pytest.raises(RateLimitedError) as caught:
            await endpoint.batch(numbers(3))
        assert caught.value.retry_after == 7 and len(node.requests) == 1


def without_the_second(answer: Any) -> Any:
    return [answer[0], *answer[2:]]


def with_the_first_twice(answer: Any) -> Any:
    return [answer[0], *answer]


@pytest.mark.parametrize(
    ("mangle", "kind", "said"),
    [
        (without_the_second, TransientRpcError, "1 of 3 answers are missing"),
        (with_the_first_twice, InconsistentResponseError, "duplicate"),
    ],
)
async def test_a_batch_with_an_answer_too_few_or_too_many_is_tried_again_then_named(
    mangle: Callable[[Any], Any], kind: type[RpcError], said: str
) -> None:
    async with connected() as (node, endpoint):
        node.mangle = mangle
        with pytest.raises(kind, match=said):
            await endpoint.batch(numbers(3))
        assert len(node.requests) == MAX_ATTEMPTS
        node.mangle = lambda answer: answer
        await served_hashes(endpoint, 3)


@pytest.mark.parametrize("singly", [False, True])
async def test_a_range_too_large_among_answers_that_are_fine_is_named_with_its_hint(singly: bool) -> None:
    async with connected() as (node, endpoint):
        node.cap, node.refuses_batches = 20, "error" if singly else ""
        reader = Reader(endpoint)
        with pytest.raises(RangeTooLargeError) as caught:
            await reader.logs_with_headers(0, 50, [ADDRESS], [0, 50])
        assert caught.value.hint == 20
        assert node.refused == 1  # not tried again: it would be refused again
        assert len(asyncio.all_tasks()) <= 6  # nothing of ours goes on behind the error's back
        logs, headers = await reader.logs_with_headers(0, 19, [ADDRESS], [0, 19])
        assert logs == [] and [h.number for h in headers] == [0, 19]


async def test_one_by_one_the_first_error_ends_the_other_calls() -> None:
    async with connected() as (node, endpoint):
        endpoint.lengths.learn(1)
        node.cap = 1
        calls = [("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "0x9", "address": []}]), *numbers(100)]
        with pytest.raises(RangeTooLargeError):
            await endpoint.batch(calls)
        asked = len(node.requests)
        await asyncio.sleep(0.05)
        assert asked < 60 and len(node.requests) <= asked + 8  # what was under way may still arrive


async def test_an_oversized_answer_is_a_range_too_large() -> None:
    async with connected(max_response=20_000) as (node, endpoint):
        node.logs = [log_of(n) for n in range(100)]
        with pytest.raises(RangeTooLargeError, match="exceeds 20000 bytes"):
            await Reader(endpoint).logs_with_headers(0, 99, [ADDRESS], [])
        logs, _ = await Reader(endpoint).logs_with_headers(0, 9, [ADDRESS], [])
        assert len(logs) == 10


async def test_an_unknown_refusal_of_many_blocks_is_answered_with_fewer_and_of_one_block_stays_a_refusal() -> None:
    async with connected() as (node, endpoint):
        node.cap, node.cap_message = 0, "something nobody has heard of"
        reader = Reader(endpoint, max_blocks=4)
        for blocks, left in ((4, 2), (2, 1)):
            with pytest.raises(RangeTooLargeError, match="nobody has heard of"):
                await reader.logs_with_headers(0, blocks - 1, [ADDRESS], [0])
            assert reader.ranges.size == left
        with pytest.raises(RpcCallError, match="nobody has heard of") as caught:
            await reader.logs_with_headers(0, 0, [ADDRESS], [0])
        assert reader.ranges.size == 4  # the number of blocks was not to blame
        for part in (endpoint.name, "eth_getLogs of blocks 0 to 0", "max_blocks under [ranges]"):
            assert part in str(caught.value)
        assert node.getlogs == [4, 4, 2, 2, 1, 1]  # each once more


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ([{**log_of(5), "removed": True}], "removed"),
        ([log_of(5), log_of(5)], "duplicate"),
        ([log_of(5), log_of(5, 1, fork="b")], "two hashes"),
    ],
)
async def test_logs_that_contradict_themselves_name_the_endpoint(logs: list[Any], said: str) -> None:
    async with connected() as (node, endpoint):
        node.logs = logs
        with pytest.raises(InconsistentResponseError, match=said) as caught:
            await Reader(endpoint).logs_with_headers(0, 50, [ADDRESS], [])
        assert caught.value.endpoint == endpoint.name


async def test_a_range_without_an_answer_is_asked_for_smaller_next() -> None:
    async with connected() as (node, endpoint):
        reader = Reader(endpoint, max_blocks=64)
        node.script = [BAD_GATEWAY] * MAX_ATTEMPTS
        with pytest.raises(TransientRpcError):
            await reader.logs_with_headers(0, 63, [ADDRESS], [])
        assert (reader.ranges.size, reader.ranges.ceiling) == (32, 64)


async def test_a_rate_limit_does_not_shrink_the_range() -> None:
    async with connected() as (node, endpoint):
        reader = Reader(endpoint, max_blocks=64)
        node.script = [Say(429)] * MAX_ATTEMPTS
        with pytest.raises(RateLimitedError):
            await reader.logs_with_headers(0, 63, [ADDRESS], [])
        assert reader.ranges.size == 64


@pytest.mark.parametrize("batches", ["", "error"])
@pytest.mark.parametrize(
    ("safe", "finalized", "expected"),
    [
        (90, 80, (90, 80)),
        ("null", "null", (None, None)),
        ("refused", "refused", (None, None)),
        ("refused", 7, (None, 7)),
    ],
)
async def test_heads_are_latest_and_the_tags_that_the_node_has(
    safe: Any, finalized: Any, expected: tuple[int | None, int | None], batches: Any
) -> None:
    async with connected() as (node, endpoint):
        node.safe, node.finalized, node.refuses_batches = safe, finalized, batches
        reader = Reader(endpoint)
        for _ in range(3):
            heads = await reader.heads()
            assert heads.latest.number == 100
            tags = (heads.safe and heads.safe.number, heads.finalized and heads.finalized.number)
            assert tags == expected


async def test_a_tag_that_the_node_refuses_is_not_asked_for_at_every_look() -> None:
    async with connected() as (node, endpoint):
        node.safe = node.finalized = "refused"
        reader = Reader(endpoint)
        await reader.heads()
        node.requests.clear()
        for _ in range(20):
            await reader.heads()
        assert len(node.requests) == 20


async def test_a_block_that_the_node_does_not_have_is_none_alone_and_transient_among_others() -> None:
    async with connected() as (_, endpoint):
        reader = Reader(endpoint)
        assert await reader.header(500) is None
        with pytest.raises(TransientRpcError, match="missing"):
            await reader.headers([5, 500])


def test_a_refused_batch_is_no_transient_error() -> None:
    assert not issubclass(BatchUnsupportedError, TransientRpcError)


# -- what was answered of a batch is kept


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MIN_PAUSE_S", 0.001)
    monkeypatch.setattr(rate_limit, "MAX_PAUSE_S", 0.01)


def over(most: int, error: dict[str, Any]) -> Callable[[Any], Any]:
    """Answers so many calls of a batch, and the others with an error."""

    def mangle(answer: Any) -> Any:
        if isinstance(answer, dict):
            return answer
        return answer[:most] + [{"jsonrpc": "2.0", "id": entry["id"], "error": error} for entry in answer[most:]]

    return mangle


def blocks_of(node: StubNode) -> list[list[int]]:
    return [[int(call["params"][0], 16) for call in asked] for asked in node.requests if isinstance(asked, list)]


async def test_only_calls_that_a_rate_limit_left_out_of_a_batch_are_asked_again(hasty: None) -> None:
    async with connected() as (node, endpoint):
        node.length, node.mangle = 300, over(50, {"code": 429, "message": "exceeded 50 calls per second"})
        headers = await Reader(endpoint).headers(range(201))
        assert [h.number for h in headers] == list(range(201))
        answered = [n for asked in blocks_of(node) for n in asked[:50]]
        assert len(answered) == len(set(answered)) >= 200  # the last one is asked alone
        assert len(blocks_of(node)) <= 12 and endpoint.lengths.ceiling == 250


async def test_a_batch_limited_as_a_whole_shrinks_to_what_is_served_and_grows_again(hasty: None) -> None:
    async with connected() as (node, endpoint):
        node.length, most = 300, 3
        too_fast = Say(429, '{"error":{"code":429,"message":"Too Many Requests"}}')
        real = node._batch_refusal
        node._batch_refusal = lambda count: (  # type: ignore[method-assign]
            real(count) if count <= most else web.Response(status=429, text=too_fast.body)
        )
        reader = Reader(endpoint)
        for _ in range(5):  # each fails after a few attempts, until two in a row show that even short ones do not pass
            with contextlib.suppress(RateLimitedError):
                await reader.headers(range(40))
                break
        else:
            raise AssertionError("never answered")
        assert endpoint.lengths.size <= most
        most = 1000
        for _ in range(25):
            await reader.headers(range(201))
        assert endpoint.lengths.size > 50


async def test_a_storm_of_429_leaves_short_batches_whole(hasty: None) -> None:
    """Nothing passes, however short: the length is not to blame, and what must be one answer stays one."""
    async with connected() as (node, endpoint):
        for _ in range(6):
            node.script = [Say(429)] * 40
            with pytest.raises(RateLimitedError):
                await Reader(endpoint).heads()
        node.script = []
        node.requests.clear()
        await Reader(endpoint).heads()
        assert [len(asked) for asked in node.requests] == [3]


async def test_one_call_refused_among_others_is_asked_once_more_and_then_named() -> None:
    async with connected() as (node, endpoint):
        node.mangle = over(4, {"code": -32000, "message": "no such thing"})
        assert len(await endpoint.batches.independent(numbers(5))) == 5
        assert [len(asked) for asked in node.requests if isinstance(asked, list)] == [5]
        many = over(4, {"code": -32000, "message": "no such thing"})
        node.mangle = lambda answer: many(answer) if isinstance(answer, list) else over(0, {"code": 3})([answer])[0]
        with pytest.raises(RpcCallError) as caught:
            await endpoint.batches.independent(numbers(5))
        assert "eth_getBlockByNumber of block 4" in str(caught.value)


async def test_a_batch_takes_as_many_tokens_as_calls_once_the_endpoint_was_seen_to_count_them() -> None:
    async with connected(rps=40) as (node, endpoint):
        taken: list[int] = []

        class Noted(rate_limit.TokenBucket):
            def take(self, now: float, tokens: int = 1) -> None:
                taken.append(tokens)  # and takes none: nobody waits

        endpoint.gate._bucket = Noted(40)
        node.length, node.mangle = 300, over(100, {"code": -32005, "message": "rate limit"})
        await endpoint.batches.independent(numbers(120))
        assert taken == [1, 20]
        node.mangle = lambda answer: answer
        await endpoint.batches.independent(numbers(100))
        assert taken[2:] == [40, 40, 20]
        assert [len(asked) for asked in blocks_of(node)] == [120, 20, 40, 40, 20]


# -- spelled in another way, equal in value


@pytest.mark.parametrize(
    "spell",
    [
        lambda answer: [{**entry, "id": str(entry["id"])} for entry in answer],
        lambda answer: [{**entry, "id": float(entry["id"])} for entry in answer],
        lambda answer: [{**entry, "id": hex(entry["id"])} for entry in answer],
        lambda answer: [{**entry, "error": None} for entry in answer],
        lambda answer: [{**entry, "error": ""} for entry in answer],
        lambda answer: {str(entry["id"]): entry for entry in answer},
        lambda answer: {str(entry["id"]): {"result": entry["result"]} for entry in answer},
    ],
)
async def test_a_batch_s_answer_spelled_in_another_way_is_read(spell: Callable[[Any], Any]) -> None:
    async with connected() as (node, endpoint):
        node.mangle = spell
        await served_hashes(endpoint, 5)
        assert len(node.requests) == 1


async def test_a_call_that_is_alone_is_sent_as_an_object_and_may_be_answered_as_a_list() -> None:
    async with connected(max_batch=4) as (node, endpoint):
        node.mangle = lambda answer: [answer] if isinstance(answer, dict) else answer
        await served_hashes(endpoint, 5)
        assert await endpoint.call(*CHAIN_ID) == hex(1729)
        assert [isinstance(asked, list) for asked in node.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ({"code": "-32005", "message": "limit"}, RateLimitedError, "limit"),
        ({"code": -32005.0, "message": "limit"}, RateLimitedError, "limit"),
        ({"code": -32000, "message": {"message": "rate limit reached"}}, RateLimitedError, "rate limit reached"),
        ({"code": -32000}, RpcCallError, "-32000"),
        ({"code": -32000, "message": None, "details": "too odd"}, RpcCallError, "too odd"),
        ({"code": -32000, "message": ["block range too large"]}, RangeTooLargeError, "block range too large"),
        ("too many requests", RateLimitedError, "too many requests"),
        (["odd"], RpcCallError, "odd"),
    ],
)
async def test_an_error_spelled_in_another_way_is_understood(error: Any, kind: type[RpcError], said: str) -> None:
    async with connected() as (node, endpoint):
        node.mangle = lambda answer: {"id": answer["id"], "error": error}
        with pytest.raises(kind, match=said):
            await endpoint.call(*CHAIN_ID)


async def test_a_gateway_s_own_words_for_a_rate_limit_are_understood_without_an_error_object() -> None:
    async with connected() as (node, endpoint):
        node.script = [Say(200, '{"message":"API rate limit exceeded"}')] * 20
        with pytest.raises(RateLimitedError, match="API rate limit exceeded"):
            await endpoint.call(*CHAIN_ID)
        with pytest.raises(RateLimitedError, match="API rate limit exceeded"):
            await endpoint.batch(numbers(3))


async def test_a_429_with_a_list_keeps_what_it_answers() -> None:
    async with connected() as (node, endpoint):
        respond = node.respond

        async def limited(body: bytes) -> web.Response | None:
            answer = await respond(body)
            if len(node.requests) == 1:
                assert answer is not None
                answer.set_status(429)
            return answer

        node.respond = limited  # type: ignore[method-assign]
        node.mangle = over(3, {"code": 1, "message": "odd"})
        assert len(await endpoint.batches.independent(numbers(5))) == 5
        assert blocks_of(node) == [[0, 1, 2, 3, 4], [3, 4]]


# -- the seam


async def test_a_test_replaces_the_network_by_one_transport() -> None:
    node = StubNode()  # that listens nowhere
    endpoint = Endpoint(node.url, transport=in_process(node))
    node.max_batch, node.script = 3, [BAD_GATEWAY, Hang(0), Say(429, "slow down", {"Retry-After": "0.01"})]
    await served_hashes(endpoint, 5)
    assert endpoint.errors == {"Transient": 2, "RateLimited": 1, "BatchRefused": 1}
    assert [len(asked) if isinstance(asked, list) else 1 for asked in node.requests] == [5, 5, 5, 5, 3, 2]


# -- proxies


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_an_endpoint_is_reached_through_the_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def forward(request: web.BaseRequest) -> web.Response:
        asked.append(f"{request.headers.get('Proxy-Authorization')} {request.url}")
        return web.json_response({"jsonrpc": "2.0", "id": 0, "result": hex(1729)})

    runner = web.ServerRunner(web.Server(forward))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv(variable, proxy.replace("//", "//u:p%40w@"))
    endpoint = Endpoint("http://node.invalid:8545/key")
    try:
        assert await endpoint.call(*CHAIN_ID) == hex(1729)
        assert asked == [f"{aiohttp.encode_basic_auth('u', 'p@w')} http://node.invalid:8545/key"]
    finally:
        await endpoint.close()
        await runner.cleanup()
    assert proxy_of("http://u:p@node.example").url == proxy
    for local in ("http://127.0.0.1:1", "http://localhost:1", "ws://[::1]:1"):
        assert proxy_of(local) == Proxy()
    monkeypatch.setenv("NO_PROXY", "other.example,.invalid")
    assert proxy_of("http://node.invalid:8545/key") == Proxy()


def test_websockets_go_through_the_proxy_of_their_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "user:secret@proxy.example:3128")
    proxy = Proxy("http://proxy.example:3128", {"Authorization": aiohttp.encode_basic_auth("user", "secret")})
    assert proxy_of("wss://node.example") == proxy == proxy_of("https://node.example")
    assert proxy_of("ws://node.example") == Proxy()


def test_a_proxy_that_does_not_speak_http_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:secret@proxy.example:1080")
    with pytest.raises(ConfigError, match=r"ALL_PROXY.*socks5://proxy\.example:1080") as told:
        Endpoint("https://node.example")
    assert "NO_PROXY" in told.value.remedy and "secret" not in str(told.value)


@pytest.mark.parametrize("text", ["http://user:PRO#XYSECRET@proxy:3128", "http://user:a[PROXYSECRET@h", "http://"])
def test_a_proxy_that_cannot_be_parsed_is_refused_without_its_password(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", text)
    with pytest.raises(ConfigError) as told:
        Endpoint("http://node.example")
    assert "SECRET" not in str(told.value) and "HTTP_PROXY" in told.value.message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp leaves the socket open
async def test_an_error_of_a_proxy_does_not_tell_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(request: web.BaseRequest) -> web.Response:
        return web.Response(status=407)

    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:PROXYSECRET@127.0.0.1:{runner.addresses[0][1]}")
    endpoint = Endpoint("https://node.invalid/key", timeout=2.0)
    try:
        with pytest.raises(RpcError) as told:
            await endpoint.call(*CHAIN_ID)
        assert "PROXYSECRET" not in str(told.value)
    finally:
        await endpoint.close()
        await runner.cleanup()
