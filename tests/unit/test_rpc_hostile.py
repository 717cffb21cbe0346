"""A hostile node: whatever it answers is a typed error or a checked value, in bounded time and memory."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header
from indexer.errors import RateLimitedError, RpcCallError, RpcError, TransientRpcError
from indexer.ingest.executor import split_into_tasks
from indexer.rpc import error_hints, rate_limit, retry
from indexer.rpc.answers import HttpAnswer
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.error_classifier import classify
from indexer.rpc.head_feed import MIN_PAUSE_S, HeadFeed
from indexer.rpc.reader import Reader
from indexer.rpc.transport import MAX_COOKIES, HttpTransport
from indexer.rpc.wire import SMALL_BODY, parse_json
from tests.support.simchain.chain import SimLog, SimTx, Tree
from tests.support.simchain.view import View
from tests.support.stubnode import StubNode
from tests.support.waiting import eventually, guard

ADDRESS = "0x" + "77" * 20


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)
    monkeypatch.setattr(rate_limit, "MIN_PAUSE_S", 0.0)
    monkeypatch.setattr(rate_limit, "MAX_PAUSE_S", 0.0)


def chain() -> View:
    """Three blocks with logs, as an honest node has them."""
    tree = Tree()
    tip = tree.genesis
    for n in range(3):
        logs = [SimLog(ADDRESS, (bytes([n]) * 32,), bytes(64)) for _ in range(2)]
        tip = tree.extend(tip.hash, [SimTx(bytes([n + 1]) * 32, logs)])
    view = View(tree, tip.hash)
    view.safe = view.finalized = 1
    return view


VIEW = chain()
HEADER = Header(2, bytes.fromhex(VIEW.do_eth_getBlockByNumber("0x2")["hash"][2:]), bytes(32), 0)
QUESTIONS: dict[str, Callable[[Reader], Awaitable[Any]]] = {
    "chain id": lambda r: r.chain_id(),
    "heads": lambda r: r.heads(),
    "probe": lambda r: r.probe(1),
    "header": lambda r: r.header(2),
    "headers": lambda r: r.headers([1, 2, 3]),
    "logs": lambda r: r.logs_with_headers(1, 3, [ADDRESS], [1, 3]),
    "receipts": lambda r: r.receipts(2, [ADDRESS]),
    "logged": lambda r: r.addresses_in_receipts(HEADER),
}

# What a field, or an answer, may be instead of what it must be.
HOSTILE = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from([
        "0x\u0661", "", "0x", "0X1", "0x-1", "-0x1", "0x" + "f" * 64, "0x" + "f" * 66, "0x1 ", " 0x1", "0x1_0",
        "0x" + "00" * 31, "0x" + "00" * 33, "0x" + "zz" * 32, "0x" + "0" * 63, "0x" + "11" * 20, "'; DROP TABLE x; --",
        "\x1b[2J", "\x00", "\\N", "0x00 00", [], {}, [[]], {"": None}, [None], "9" * 5000,
    ]),
)  # fmt: skip
JSON = st.recursive(
    HOSTILE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, one in inner for path in paths(one, (*here, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def honest(asked: bytes) -> Any:
    def one(call: Any) -> Any:
        return {"jsonrpc": "2.0", "id": call["id"], "result": VIEW.answer(call["method"], call["params"])}

    calls = orjson.loads(asked)
    return [one(c) for c in calls] if isinstance(calls, list) else one(calls)


def asked(question: str, answer: Callable[[bytes], bytes], status: int = 200) -> Any:
    """What the reader makes of answers with these bytes; its RpcError. Everything else is raised."""

    class Hostile(HttpTransport):
        async def post(self, body: bytes) -> HttpAnswer:
            return HttpAnswer(answer(body), status, {})

    async def ask() -> Any:
        endpoint = Endpoint("http://hostile.example/SECRETKEY", transport=Hostile)
        try:
            async with guard("an answer or an error"):
                return await QUESTIONS[question](Reader(endpoint))
        except RpcError as error:
            assert str(error).isprintable() and len(error.message) < 1000 and "SECRETKEY" not in str(error)
            return error

    return asyncio.run(ask())


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_an_honest_node_answers_is_read(question: str) -> None:
    assert not isinstance(asked(question, lambda sent: orjson.dumps(honest(sent))), Exception)


FUZZ = settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
@FUZZ
@given(data=st.data())
def test_one_field_that_is_anything_is_a_typed_error_or_does_not_matter(question: str, data: st.DataObject) -> None:
    def spoilt(sent: bytes) -> bytes:
        answer = honest(sent)
        path = data.draw(st.sampled_from(paths(answer)))
        return orjson.dumps(replaced(answer, path, data.draw(JSON)))

    right, got = asked(question, lambda sent: orjson.dumps(honest(sent))), asked(question, spoilt)
    if not isinstance(got, RpcError):
        checked(question, right, got)


def checked(question: str, right: Any, got: Any) -> None:
    """A value that came through has the types it must have, and is about what was asked for."""
    assert type(got) is type(right) or got is None
    if question == "logs":
        logs, headers = got
        assert all(1 <= g.block_number <= 3 and len(g.transaction_hash) == 32 and len(g.topics) <= 4 for g in logs)
        assert all(isinstance(g.data, bytes) and all(len(t) == 32 for t in g.topics) for g in logs)
        assert [h.number for h in headers] == [1, 3]
    elif question in ("header", "headers"):
        for header in [got] if question == "header" else got:
            assert header is None or (len(header.hash) == len(header.parent_hash) == 32 and header.timestamp < 2**63)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("status", [200, 500, 404])
@FUZZ
@given(answer=JSON)
@example(answer="rate limit")  # of whatever is asked: lengths that it changes must not be tried in turn for ever
@example(answer={"message": "too many requests"})
def test_any_json_is_a_typed_error(question: str, status: int, answer: Any) -> None:
    asked(question, lambda sent: orjson.dumps(answer), status)


@pytest.mark.parametrize("status", [200, 429, 503])
@FUZZ
@given(body=st.binary(max_size=200), cut=st.integers(0, 2000))
def test_any_bytes_and_any_cut_are_a_typed_error(status: int, body: bytes, cut: int) -> None:
    assert isinstance(asked("logs", lambda sent: body, status), RpcError)
    whole = asked("logs", lambda sent: orjson.dumps(honest(sent))[: -1 - cut], status)
    assert isinstance(whole, RpcError)


@FUZZ
@given(
    code=st.integers(-(2**40), 2**40), message=st.text(max_size=300), status=st.sampled_from([200, 400, 413, 429, 503]),
    after=st.one_of(st.text(max_size=40), st.floats(allow_nan=True).map(str), st.just("Fri, 99 Dec 9999 99:99:99")),
    date=st.text(max_size=30), extra=JSON,
)  # fmt: skip
def test_any_refusal_is_one_error_with_a_wait_of_a_minute_at_most(
    code: int, message: str, status: int, after: str, date: str, extra: Any
) -> None:
    error = classify(code, message, "http://a", status, {"Retry-After": after, "Date": date}, now=0.0)
    assert str(error).isprintable()
    if isinstance(error, RateLimitedError):
        assert error.retry_after is None or 0 <= error.retry_after <= 60
    body = orjson.dumps({"id": 0, "error": {"code": code, "message": message, "data": extra}}, default=str)
    assert isinstance(asked("chain id", lambda sent: body, status), RpcError)


def test_words_made_to_keep_the_patterns_busy_do_not() -> None:
    started = time.process_time()
    for piece in ("a", "0", "batch ", "range ", "retry after 1", "1,", "block range from 1 to ", "limit to ", "max ",
                  "history is not ", "[0x1, ", "exceeds the ", "more than 1", "logs size "):  # fmt: skip
        text = (piece * 2000)[:100_000]
        classify(-32000, text, "http://a")
        for read in (
            error_hints.suggested_blocks,
            error_hints.max_results,
            error_hints.max_bytes,
            error_hints.max_batch_calls,
            error_hints.is_about_batch_length,
            error_hints.retry_after,
        ):
            read(text[:2000])
    assert time.process_time() - started < 5


# -- memory


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"",', b'{"a":{}},'])
def test_a_body_of_nothing_but_values_is_refused_before_it_is_read(piece: bytes) -> None:
    body = b"[" + piece * (8 * SMALL_BODY // len(piece)) + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="values and"):
            parse_json(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


def test_bodies_as_nodes_send_them_are_far_from_that_bound() -> None:
    logs = VIEW.do_eth_getLogs({"fromBlock": "0x0", "toBlock": "0x3", "address": ADDRESS})
    receipts = VIEW.do_eth_getBlockReceipts("0x2")
    bare = {"address": ADDRESS, "topics": [], "data": "0x", "blockNumber": "0x1", "blockHash": logs[0]["blockHash"],
            "transactionHash": "0x" + "00" * 32, "transactionIndex": "0x0", "logIndex": "0x0"}  # fmt: skip
    for entries in (logs, receipts, [bare], [VIEW.do_eth_getBlockByNumber("0x2")]):
        many = orjson.dumps(entries * (3 * SMALL_BODY // len(orjson.dumps(entries))))
        assert len(many) > SMALL_BODY and len(parse_json(many)) > 100


@pytest.mark.parametrize("depth", [2000, 100_000])
def test_a_body_nested_deep_is_no_json_to_us(depth: int) -> None:
    for one in (b"[", b'{"a":'):
        with pytest.raises(ValueError):
            parse_json(one * depth)
    with pytest.raises(ValueError):
        parse_json(b"[" * depth + b"]" * depth)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(4096):
        await answer.write(b" " * (1 << 16))
    return answer


BOMB = gzip.compress(bytes(1 << 28))


async def bomb(request: web.Request) -> web.StreamResponse:
    return web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})


async def drip(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(400):
        await answer.write(b" ")
        await asyncio.sleep(0.05)
    return answer


async def headers(request: web.Request) -> web.StreamResponse:
    return web.Response(text="{}", headers={f"X-{n}": "x" * 4000 for n in range(1000)})


@pytest.mark.parametrize("hostile", [endless, bomb, drip, headers])
async def test_an_answer_without_an_end_is_given_up(
    hostile: Callable[[web.Request], Awaitable[web.StreamResponse]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 1)
    async with serving(hostile) as url:
        endpoint = Endpoint(url, timeout=1.0, max_response=1 << 20)
        tracemalloc.start()
        try:
            async with guard("an RpcError"):
                with pytest.raises(RpcError):
                    await endpoint.call("eth_chainId", [])
            assert tracemalloc.get_traced_memory()[1] < 1 << 27
        finally:
            tracemalloc.stop()
            await endpoint.close()


async def test_cookies_do_not_pile_up() -> None:
    count = 0

    async def sticky(request: web.Request) -> web.Response:
        nonlocal count
        answer = web.json_response({"jsonrpc": "2.0", "id": (await request.json())["id"], "result": "0x1"})
        for _ in range(10):
            count += 1
            answer.set_cookie(f"c{count}", "x")
        return answer

    async with serving(sticky) as url:
        endpoint = Endpoint(url.replace("127.0.0.1", "localhost"))
        for _ in range(20):
            await endpoint.call("eth_chainId", [])
        assert isinstance(endpoint.transport, HttpTransport) and endpoint.transport._session is not None
        assert len(endpoint.transport._session.cookie_jar) <= MAX_COOKIES + 10
        await endpoint.close()


async def test_a_redirect_is_not_followed_to_another_host() -> None:
    reached = []

    async def inside(request: web.Request) -> web.Response:
        reached.append(request)
        return web.json_response({"id": 0, "result": "0x1"})

    async with serving(inside) as inner:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{inner}/internal?key=SECRET"})

        async with serving(away) as url:
            endpoint = Endpoint(url)
            with pytest.raises(RpcCallError, match="redirects to") as told:
                await endpoint.call("eth_chainId", [])
            assert not reached and "SECRET" not in str(told.value)
            await endpoint.close()


@pytest.mark.parametrize("width", [2, 8])
def test_a_head_of_any_height_makes_no_endless_list_of_tasks(width: int) -> None:
    parts = split_into_tasks([ContractRange(0, 2**62, (ADDRESS,))], width, 2000)
    assert len(parts) <= 100_001 and parts[-1].last == 2**62
    assert all(a.last + 1 == b.first for a, b in pairwise(parts))


def test_a_block_that_has_no_room_in_a_unique_id_is_refused() -> None:
    header = VIEW.do_eth_getBlockByNumber("0x2") | {"number": hex(2**62)}
    error = asked("heads", lambda sent: orjson.dumps([
        {"jsonrpc": "2.0", "id": call["id"], "result": header} for call in orjson.loads(sent)
    ]))  # fmt: skip
    assert isinstance(error, RpcError) and "block number is too large" in str(error)


# -- words


@pytest.mark.parametrize("words", ["\x1b[2J\x1b[1;1Hall is well", "a\x00b", "x\r\n{}", "\u202egnol", "\u2028\x85\x07"])
def test_words_of_a_node_cannot_write_over_other_lines(words: str) -> None:
    body = orjson.dumps({"id": 0, "error": {"code": -32000, "message": words}})
    error = asked("chain id", lambda sent: body)
    assert isinstance(error, RpcError) and str(error).isprintable()
    assert str(TransientRpcError(words)).isprintable()


# -- sockets


async def test_a_flood_of_heads_does_not_make_us_flood_the_endpoints() -> None:
    async with StubNode() as node, guard("looks at announced heads"):
        feed, began, looks = HeadFeed([node.ws_url], 3600), node.length, 0
        feed.start()
        await node.subscribed()
        flooding, started = asyncio.create_task(flood(node)), time.monotonic()
        while looks < 5 or node.length - began < 50:
            assert await feed.wait(asyncio.Event()) == "notified"
            looks += 1
        passed = time.monotonic() - started
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        assert passed >= (looks - 1) * MIN_PAUSE_S * 0.9, "however many heads were announced"
        await feed.close()


async def flood(node: StubNode) -> None:
    while True:
        await node.mine()
        await asyncio.sleep(0.001)


async def test_a_socket_of_another_chain_is_left() -> None:
    async with StubNode() as node:  # answers "0x1" to everything that is asked over a socket
        feed = HeadFeed([node.ws_url], 0.05, chain_id=5)
        feed.start()
        score = feed.scores[feed.names[0]]
        await eventually(lambda: score.last_error, "a socket that is left")
        assert "serves chain '0x1', the deployment is chain 5" in score.last_error
        await feed.close()
