"""An endpoint's key never reaches a log line or an error, and one endpoint's wait never keeps another from serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from indexer.errors import RpcError
from indexer.rpc import retry
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from tests.support.waiting import eventually

KEY = "SECRETKEY"
NUMBERS = {"latest": 100, "safe": 96, "finalized": 92}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda _: 0.01)


@asynccontextmanager
async def serving(handler: Any, method: str = "POST") -> AsyncIterator[str]:
    """host:port of a server with one handler for every path."""
    app = web.Application()
    app.router.add_route(method, "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def block(number: int) -> dict[str, str]:
    return {"number": hex(number), "hash": f"0x{number + 1:064x}", "parentHash": f"0x{number:064x}", "timestamp": "0x1"}


def answer(call: dict[str, Any], refused_tag: str = "") -> dict[str, Any]:
    head = {"jsonrpc": "2.0", "id": call["id"]}
    if call["method"] == "eth_chainId":
        return head | {"result": "0x6c1"}
    if refused_tag and call["params"][0] in ("safe", "finalized"):
        return head | {"error": {"code": -32000, "message": refused_tag}}
    return head | {"result": block(NUMBERS[call["params"][0]])}


async def test_a_refused_websocket_handshake_does_not_log_the_key() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403)

    async with serving(refuse, "GET") as at:
        with capture_logs() as logs:
            feed = HeadFeed([f"ws://{at}/v2/{KEY}"], 0.05)
            feed.start()
            await eventually(lambda: logs, "a log line about the refused handshake")
            await feed.close()
        assert KEY not in str(logs)


@pytest.mark.parametrize("trouble", ["redirect", "echo"])
async def test_an_error_does_not_tell_the_key(trouble: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        if trouble == "redirect":
            raise web.HTTPTemporaryRedirect(str(request.url))
        error = {"code": -32000, "message": f"invalid api key: {KEY}"}
        return web.json_response({"jsonrpc": "2.0", "id": 0, "error": error}, status=401)

    async with serving(handle) as at:
        endpoint = Endpoint(f"http://{at}/v2/{KEY}")
        with pytest.raises(RpcError) as told:
            await endpoint.call("eth_chainId", [])
        assert KEY not in str(told.value) and KEY not in repr(told.value)
        await endpoint.close()


@pytest.mark.parametrize("words", ["unknown block", "header not found", "Block not available", "invalid block tag"])
async def test_a_tag_that_is_refused_in_any_words_is_absent(words: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response([answer(c, words) for c in asked] if isinstance(asked, list) else answer(asked, words))

    async with serving(handle) as at:
        endpoint = Endpoint(f"http://{at}/")
        heads = await Reader(endpoint).heads()
        assert (heads.latest.number, heads.safe, heads.finalized) == (100, None, None)
        await endpoint.close()


async def test_a_long_retry_after_lets_the_next_endpoint_serve_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    limited, slept, sleep = False, list[float](), asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    async def first(request: web.Request) -> web.Response:
        asked = await request.json()
        if limited:
            return web.Response(status=429, headers={"Retry-After": "20"})
        return web.json_response([answer(c) for c in asked] if isinstance(asked, list) else answer(asked))

    async def second(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response([answer(c) for c in asked] if isinstance(asked, list) else answer(asked))

    async with serving(first) as a, serving(second) as b:
        pool = Pool([f"http://{a}/", f"http://{b}/"], 1729)
        await pool.open()
        limited = True
        monkeypatch.setattr(asyncio, "sleep", noted)
        assert (await pool.with_failover(lambda reader: reader.heads())).latest.number == 100
        assert sum(slept) < 6
        await pool.close()
