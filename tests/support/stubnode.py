"""A small JSON-RPC node that misbehaves as told: what real endpoints do to their callers, over real sockets.

Its chain is `length` blocks with hashes made from their number and `fork`; `logs` are what eth_getLogs finds. `script`
holds what the next HTTP requests get instead of an answer, one entry each; `instead` returns it for any request. Other
attributes hold until changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from aiohttp import WSMsgType, web

from tests.support.waiting import eventually

ADDRESS = "0x" + "a1" * 20
Tag = int | Literal["latest", "null", "refused"]


def http_response(request: web.Request, response: web.Response | None) -> web.Response:
    """The response to a request; None closes its connection without one."""
    if response is None:
        assert request.transport is not None
        request.transport.close()
        return web.Response()
    return response


class Say(NamedTuple):
    """An HTTP answer as it is."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Hang(NamedTuple):
    """No answer for so many seconds, then a closed connection; 0 closes at once."""

    seconds: float = 5.0


HTML = Say(200, "<html><body>Sign in</body></html>", {"Content-Type": "text/html"})
BAD_GATEWAY = Say(502, "<html><title>502 Bad Gateway</title></html>", {"Content-Type": "text/html"})
TRUNCATED = Say(200, '{"jsonrpc":"2.0","id":0,"result":{"numb')


def hash_of(number: int, fork: str = "a") -> str:
    return "0x" + hashlib.sha256(f"{fork}{number}".encode()).hexdigest()


def log_of(number: int, index: int = 0, address: str = ADDRESS, fork: str = "a") -> dict[str, Any]:
    return {
        "address": address,
        "topics": ["0x" + "77" * 32],
        "data": f"0x{number:064x}",
        "blockNumber": hex(number),
        "blockHash": hash_of(number, fork),
        "transactionHash": "0x" + hashlib.sha256(f"tx{number}".encode()).hexdigest(),
        "transactionIndex": "0x0",
        "logIndex": hex(index),
        "removed": False,
    }


class StubNode:
    """`async with StubNode() as node` listens on a free port: `node.url`, `node.ws_url`."""

    def __init__(self, chain_id: int = 1729, length: int = 101) -> None:
        self.chain_id, self.length, self.fork = chain_id, length, "a"
        self.safe: Tag = "null"
        self.finalized: Tag = "null"
        self.logs: list[dict[str, Any]] = []
        self.cap: int | None = None
        self.cap_message = "block range too large, maximum {cap}"
        self.refuses_batches: Literal["", "error", "400", "text", "item", "internal"] = ""
        self.max_batch = 1000
        self.batch_message = "Maximum number of calls in a batch is {cap}"
        self.mangle: Callable[[Any], Any] = lambda answer: answer
        self.script: list[Say | Hang] = []
        self.instead: Callable[[Any], Say | Hang | None] = lambda asked: None
        self.requests: list[Any] = []
        self.getlogs: list[int] = []  # blocks asked for, one entry a call
        self.refused = 0
        self.mute = False
        self.refuses_subscriptions = False
        self.connections = 0
        self._sockets: set[web.WebSocketResponse] = set()
        self._quit = asyncio.Event()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    async def __aenter__(self) -> StubNode:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Again on the same port after `stop`."""
        app = web.Application()
        app.router.add_post("/", self._http)
        app.router.add_get("/ws", self._ws)
        self._quit = asyncio.Event()
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._quit.set()
        await self.drop_sockets()
        await self._runner.cleanup()

    async def _http(self, request: web.Request) -> web.StreamResponse:
        return http_response(request, await self.respond(await request.read()))

    async def respond(self, body: bytes) -> web.Response | None:
        """The answer to an HTTP request; None: the connection is closed without one."""
        asked = json.loads(body)
        self.requests.append(asked)
        if answer := self.script.pop(0) if self.script else self.instead(asked):
            if isinstance(answer, Say):
                return web.Response(status=answer.status, text=answer.body, headers=answer.headers)
            if answer.seconds:
                await _within(self._quit, answer.seconds)
            return None
        if isinstance(asked, dict):
            return web.json_response(self.mangle(self._answer(asked)))
        refusal = self._batch_refusal(len(asked))
        return refusal or web.json_response(self.mangle([self._answer(call) for call in asked]))

    def _batch_refusal(self, count: int) -> web.Response | None:
        if not self.refuses_batches:
            if count <= self.max_batch:
                return None
            said = self.batch_message.format(cap=self.max_batch, count=count)
            return web.json_response(_error(None, -32600, said))
        return {
            "error": web.json_response(_error(None, -32600, "Invalid Request")),
            "400": web.json_response(_error(None, -32600, "batch requests are not supported"), status=400),
            "text": web.Response(status=400, text="Bad Request"),
            "item": web.json_response([_error(None, -32600, "Invalid Request")]),
            "internal": web.json_response(_error(None, -32603, "Internal error")),
        }[self.refuses_batches]

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        number, params = call["id"], call["params"]
        match call["method"]:
            case "eth_chainId":
                return _result(number, hex(self.chain_id))
            case "eth_getBlockByNumber":
                return self._block(number, params[0])
            case "eth_getLogs":
                return self._logs(number, params[0])
        return _error(number, -32601, f"the method {call['method']} does not exist/is not available")

    def _block(self, call: int, asked: str) -> dict[str, Any]:
        latest = self.length - 1
        if asked in ("safe", "finalized"):
            tag = self.safe if asked == "safe" else self.finalized
            if tag == "refused":
                return _error(call, -32000, f"{asked} block not found")
            height = latest if tag == "latest" else tag
        else:
            height = latest if asked == "latest" else int(asked, 16)
        if not isinstance(height, int) or height > latest:
            return _result(call, None)
        block = {
            "number": hex(height),
            "hash": hash_of(height, self.fork),
            "parentHash": hash_of(height - 1, self.fork),
            "timestamp": hex(1_700_000_000 + height),
            "logsBloom": "0x" + "00" * 256,
        }
        return _result(call, block)

    def _logs(self, call: int, asked: dict[str, Any]) -> dict[str, Any]:
        first, last = int(asked["fromBlock"], 16), int(asked["toBlock"], 16)
        self.getlogs.append(last - first + 1)
        if self.cap is not None and last - first + 1 > self.cap:
            self.refused += 1
            return _error(call, -32602, self.cap_message.format(cap=self.cap))
        watched = [a.lower() for a in asked["address"]]
        found = [g for g in self.logs if first <= int(g["blockNumber"], 16) <= last and g["address"].lower() in watched]
        return _result(call, found)

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        async for message in socket:
            if message.type != WSMsgType.TEXT:
                continue
            call = json.loads(message.data)
            if self.refuses_subscriptions:
                await socket.send_json(_error(call["id"], -32601, "the method eth_subscribe does not exist"))
            else:
                await socket.send_json(_result(call["id"], "0x1"))
                self._sockets.add(socket)
        self._sockets.discard(socket)
        return socket

    async def subscribed(self) -> None:
        """Until somebody listens."""
        await eventually(lambda: self._sockets, "a subscription")

    async def mine(self, count: int = 1) -> None:
        """New blocks, announced unless `mute`."""
        for _ in range(count):
            self.length += 1
            if not self.mute:
                await self.send(
                    {"method": "eth_subscription", "params": {"subscription": "0x1", "result": {"number": "0x1"}}}
                )

    async def send(self, message: Any) -> None:
        for socket in tuple(self._sockets):
            await (socket.send_str(message) if isinstance(message, str) else socket.send_json(message))

    async def drop_sockets(self) -> None:
        for socket in tuple(self._sockets):
            await socket.close()
        self._sockets.clear()


def _result(call: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call, "result": result}


def _error(call: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call, "error": {"code": code, "message": message}}


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
