"""A JSON-RPC endpoint that misbehaves on order: each test scripts what it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

Answer = web.Response | dict[str, Any] | list[Any]
Script = Callable[["StubNode", Any], Answer | None]


class StubNode:
    """Serves a chain of empty blocks with `head`; `script(node, body)` may answer instead (None: it does not).

    `seen`: the parsed bodies of all requests. `announce(n)` sends a newHeads notification to every subscriber.
    """

    def __init__(self, script: Script | None = None, chain_id: int = 1729, head: int = 100) -> None:
        self.script, self.chain_id, self.head = script, chain_id, head
        self.finalized = True
        self.seen: list[Any] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.url = self.ws_url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> StubNode:
        app = web.Application()
        app.add_routes([web.post("/", self._serve), web.get("/ws", self._socket)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self.url, self.ws_url = f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}/ws"
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in self.sockets:
            await socket.close()
        if self._runner:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.seen.append(body)
        scripted = self.script(self, body) if self.script else None
        if isinstance(scripted, web.Response):
            return scripted
        answer = scripted if scripted is not None else self.answer(body)
        return web.json_response(answer)

    def answer(self, body: Any) -> Any:
        """What a well-behaved node says."""
        if isinstance(body, list):
            return [self.answer(one) for one in body]
        return {"jsonrpc": "2.0", "id": body["id"], "result": self.result(body["method"], body["params"])}

    def result(self, method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "eth_getLogs":
            return []
        tag = params[0]
        if tag == "finalized" and not self.finalized:
            return None
        number = {"latest": self.head, "safe": self.head - 4, "finalized": self.head - 8}.get(tag)
        number = int(tag, 16) if number is None else number
        return block(number) if number <= self.head else None

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await socket.send_json({"jsonrpc": "2.0", "id": 1, "result": "0xabc"})
        return socket

    async def announce(self, number: int) -> None:
        told = {"subscription": "0xabc", "result": {"number": hex(number)}}
        for socket in self.sockets:
            await socket.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": told})

    async def subscribed(self) -> None:
        async with asyncio.timeout(5):
            while not self.sockets:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def block(number: int) -> dict[str, Any]:
    return {
        "number": hex(number),
        "hash": f"0x{number + 1:064x}",
        "parentHash": f"0x{number:064x}",
        "timestamp": hex(1_700_000_000 + number),
        "logsBloom": "0x" + "00" * 256,
    }


def log(number: int, index: int = 0, **changes: Any) -> dict[str, Any]:
    """A well-formed log of address 0x0a…0a."""
    return {
        "address": "0x" + "0a" * 20,
        "topics": ["0x" + "01" * 32],
        "data": "0x1234",
        "blockNumber": hex(number),
        "blockHash": f"0x{number + 1:064x}",
        "transactionHash": "0x" + "02" * 32,
        "transactionIndex": "0x0",
        "logIndex": hex(index),
        "removed": False,
    } | changes


def refusal(body: Any, code: int, message: str) -> Any:
    """The same JSON-RPC error for every call of a request."""
    if isinstance(body, list):
        return [refusal(one, code, message) for one in body]
    return {"jsonrpc": "2.0", "id": body["id"], "error": {"code": code, "message": message}}
