"""One endpoint that refuses, lies, breaks off and hangs; real HTTP, short waits."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from aiohttp import web

from indexer.errors import (
    EndpointUnreachable,
    Inconsistent,
    RangeTooLarge,
    RateLimited,
    RpcRefused,
    Transient,
    WrongChain,
)
from indexer.rpc import transport
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.rpc.transport import Endpoint
from tests.anvil.node import free_port
from tests.stubnode import StubNode, refusal

ADDRESS = "0x" + "0a" * 20


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_backoff", lambda _: 0.01)


def headers(reader: Reader, *numbers: int) -> Any:
    return reader.headers(numbers)


async def test_many_headers_are_one_request() -> None:
    async with StubNode() as node:
        endpoint = Endpoint(node.url)
        assert [h.number for h in await headers(Reader(endpoint), *range(50))] == list(range(50))
        assert endpoint.requests == 1 and endpoint.calls["eth_getBlockByNumber"] == 50
        await endpoint.close()


@pytest.mark.parametrize("status", [200, 400])
async def test_a_node_that_refuses_batches_is_asked_one_by_one(status: int) -> None:
    def no_batches(_: StubNode, body: Any) -> Any:
        if isinstance(body, list):
            error = {
                "jsonrpc": "2.0",
                "id": None,
                "error": {"code": -32600, "message": "batch requests are not supported"},
            }
            return web.json_response(error, status=status)
        return None

    async with StubNode(no_batches) as node:
        endpoint = Endpoint(node.url)
        assert [h.number for h in await headers(Reader(endpoint), *range(20))] == list(range(20))
        before = len(node.seen)
        await headers(Reader(endpoint), 1, 2, 3)
        assert [type(b) for b in node.seen[before:]] == [dict] * 3  # it is not asked for a batch again
        await endpoint.close()


async def test_a_limit_on_the_length_of_a_batch_is_learnt() -> None:
    def at_most_ten(_: StubNode, body: Any) -> Any:
        return refusal(body, -32000, "batch too large") if isinstance(body, list) and len(body) > 10 else None

    async with StubNode(at_most_ten) as node:
        endpoint = Endpoint(node.url)
        assert len(await headers(Reader(endpoint), *range(100))) == 100
        assert endpoint.batches and endpoint.max_batch <= 10
        await endpoint.close()


@pytest.mark.parametrize(
    "trouble",
    [
        web.Response(status=502, text="<html>Bad Gateway</html>"),
        web.Response(status=200, text='{"jsonrpc":"2.0","id":0,"resu'),
        web.Response(status=200, text="<html>sign in</html>"),
        {"jsonrpc": "2.0", "id": 0, "error": {"code": -32000, "message": "header not found"}},
        {"jsonrpc": "2.0", "id": 0},
    ],
    ids=["502", "cut", "html", "not yet", "neither"],
)
async def test_passing_trouble_is_tried_again_and_lasting_trouble_ends_after_four_attempts(trouble: Any) -> None:
    calls = 0

    def twice(_: StubNode, body: Any) -> Any:
        nonlocal calls
        calls += 1
        # A response object serves once.
        fresh = web.Response(status=trouble.status, text=trouble.text) if isinstance(trouble, web.Response) else trouble
        return fresh if calls in (1, 2) or calls > 3 else None

    async with StubNode(twice) as node:
        endpoint = Endpoint(node.url)
        assert await endpoint.call("eth_chainId", []) == "0x6c1"
        with pytest.raises(Transient):
            await endpoint.call("eth_chainId", [])
        assert calls == 3 + transport.ATTEMPTS
        await endpoint.close()


async def test_a_batch_with_a_missing_or_doubled_answer_is_not_believed() -> None:
    for spoil, kind in ((lambda a: a[:-1], Transient), (lambda a: [*a, a[0]], Inconsistent)):

        def spoiled(node: StubNode, body: Any, spoil: Any = spoil) -> Any:
            return spoil(node.answer(body)) if isinstance(body, list) else None

        async with StubNode(spoiled) as node:
            endpoint = Endpoint(node.url)
            with pytest.raises(kind):
                await headers(Reader(endpoint), 1, 2, 3)
            await endpoint.close()


async def test_a_rate_limit_waits_as_long_as_the_node_says() -> None:
    def limited(node: StubNode, _: Any) -> Any:
        return web.Response(status=429, headers={"Retry-After": "1"}) if len(node.seen) == 1 else None

    async with StubNode(limited) as node:
        endpoint = Endpoint(node.url)
        started = time.monotonic()
        assert await endpoint.call("eth_chainId", []) == "0x6c1"
        assert time.monotonic() - started >= 1
        await endpoint.close()

    async with StubNode(lambda *_: web.Response(status=429)) as node:
        endpoint = Endpoint(node.url)
        with pytest.raises(RateLimited):
            await endpoint.call("eth_chainId", [])
        await endpoint.close()


async def test_an_answer_beyond_the_limit_is_cut_off_and_asks_for_a_smaller_range() -> None:
    async with StubNode(lambda *_: web.Response(text=json.dumps({"result": "x" * 100_000}))) as node:
        endpoint = Endpoint(node.url, max_response=10_000)
        with pytest.raises(RangeTooLarge):
            await endpoint.call("eth_getLogs", [])
        await endpoint.close()


async def test_a_refused_range_inside_a_batch_is_told_with_its_hint() -> None:
    def refuse_logs(node: StubNode, body: Any) -> Any:
        return [
            refusal(one, -32000, "block range too large, maximum 50")
            if one["method"] == "eth_getLogs"
            else node.answer(one)
            for one in body
        ]

    async with StubNode(refuse_logs) as node:
        endpoint = Endpoint(node.url)
        with pytest.raises(RangeTooLarge) as refused:
            await Reader(endpoint).logs_with_headers(0, 99, [ADDRESS], [0, 99])
        assert refused.value.hint == 50 and endpoint.requests == 1
        await endpoint.close()


async def test_a_hanging_node_is_given_up_in_time_and_never_by_its_secret_name() -> None:
    port = free_port()
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v2/secret-key?token=hidden", timeout=0.5)
    with pytest.raises(Transient) as failed:
        await endpoint.call("eth_chainId", [])
    assert "secret-key" not in str(failed.value) and "hidden" not in str(failed.value)
    await endpoint.close()


@pytest.mark.parametrize("answer", ["null", "refused"])
async def test_a_node_without_tags_is_read_without_them(answer: str) -> None:
    def tagless(node: StubNode, body: Any) -> Any:
        def one(call: Any) -> Any:
            if call["params"] and call["params"][0] in ("safe", "finalized"):
                if answer == "null":
                    return {"jsonrpc": "2.0", "id": call["id"], "result": None}
                return refusal(call, -39001, f"{call['params'][0]} block not found")
            return node.answer(call)

        return [one(c) for c in body] if isinstance(body, list) else one(body)

    async with StubNode(tagless) as node:
        endpoint = Endpoint(node.url)
        reader = Reader(endpoint)
        for _ in range(3):
            heads = await reader.heads()
            assert (heads.latest.number, heads.safe, heads.finalized) == (100, None, None)
        assert endpoint.requests <= 6  # a refused tag is not asked for at every look
        await endpoint.close()


async def test_every_endpoint_of_another_chain_is_refused_even_beside_a_right_one() -> None:
    async with StubNode() as right, StubNode(chain_id=1) as wrong:
        pool = Pool([right.url, wrong.url], 1729)
        with pytest.raises(WrongChain, match="chain 1,"):
            await pool.open()
        await pool.close()


async def test_no_endpoint_that_answers_is_unreachable_and_names_them() -> None:
    ports = [free_port(), free_port()]
    pool = Pool([f"http://127.0.0.1:{p}" for p in ports], 1729)
    with pytest.raises(EndpointUnreachable) as failed:
        await pool.open()
    assert all(str(p) in str(failed.value) for p in ports)
    await pool.close()


async def test_a_unit_that_fails_on_one_endpoint_is_done_whole_on_the_next_which_is_kept() -> None:
    down = False

    def flaky(_: StubNode, body: Any) -> Any:
        return web.Response(status=503) if down else None

    async with StubNode(flaky) as first, StubNode(head=200) as second:
        pool = Pool([first.url, second.url], 1729)
        await pool.open()
        assert (await pool.run(lambda r: r.heads())).latest.number == 100
        down = True
        assert (await pool.run(lambda r: r.heads())).latest.number == 200
        asked = len(first.seen)
        await pool.run(lambda r: r.heads())
        assert len(first.seen) == asked
        await pool.close()


async def test_an_endpoint_that_was_down_at_the_start_is_checked_before_it_is_used() -> None:
    up = False

    def late(_: StubNode, __: Any) -> Any:
        return None if up else web.Response(status=503)

    async with StubNode(late, chain_id=1) as impostor, StubNode() as right:
        pool = Pool([impostor.url, right.url], 1729)
        await pool.open()
        up = True
        assert (await pool.run(lambda r: r.heads())).latest.number == 100

        async def fail(reader: Reader) -> None:
            raise RpcRefused("no", reader.name)

        with pytest.raises(WrongChain):
            await pool.run(fail)
        await pool.close()
