"""A view of the tree behind real sockets: JSON-RPC over HTTP and WebSocket, with the faults that endpoints have."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple

import orjson
from aiohttp import WSMsgType, web

from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import Json, View
from tests.support.stubnode import http_response
from tests.support.waiting import PATIENCE, eventually


class Say(NamedTuple):
    """An HTTP answer as it is."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


# "{}": an empty object; "null": a null result for every call; "no id": answers without ids; "shuffled": a batch in
# reverse order; "short": a batch without its last answer; "hang": nothing until the caller gives up; "drop": the
# connection closed without an answer; "cut": half of the right answer.
Fault = Literal["429", "500", "html", "{}", "null", "no id", "shuffled", "short", "hang", "drop", "cut"] | Say
_SAYS = {
    "429": Say(429, '{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Too Many Requests"}}'),
    "500": Say(500, "Internal Server Error"),
    "html": Say(200, "<html><body>Sign in</body></html>", {"Content-Type": "text/html"}),
    "{}": Say(200, "{}"),
}


class SimNode(View):
    """`async with SimNode(tree, head) as node`: listens on a free port, `node.url` and `node.ws_url`.

    What it serves and how it errs are the knobs of View, and those below; all may change while it runs.
    """

    def __init__(self, tree: Tree, head: bytes | None = None, chain_id: int = 31337) -> None:
        self.requests: Counter[str] = Counter()  # calls by method, those in batches too
        self.http_requests = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._quit = asyncio.Event()
        self._port = 0
        self._sockets: set[web.WebSocketResponse] = set()
        self._connected: set[web.WebSocketResponse] = set()
        self._sending: set[asyncio.Task[None]] = set()
        super().__init__(tree, head, chain_id)
        self._moved = self._publish

    def knobs(self) -> None:
        super().knobs()
        self.fail_next: list[Fault] = []  # what the next HTTP requests get instead, one entry each
        self.fault_for: Callable[[Any], Fault | None] = lambda asked: None  # the same, by what is asked
        # Another node that answers an HTTP request in place of this one, as behind a load balancer; None: this one.
        self.balance: Callable[[Any], View | None] = lambda asked: None
        self.latency = 0.0  # seconds before each HTTP answer
        self.gate: asyncio.Event | None = None  # that HTTP answers wait for
        self.offline = False  # connections are closed without an answer; `down` refuses them
        self.max_batch: int | None = None
        self.mute = False  # heads are not announced
        self.refuses_subscriptions = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    @property
    def subscribers(self) -> int:
        return len(self._sockets)

    async def __aenter__(self) -> SimNode:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Again on the same port after `stop`."""
        self._loop = asyncio.get_running_loop()
        self._quit = asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{key:.*}", self._http)
        app.router.add_get("/ws{key:.*}", self._ws)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port: connections are refused."""
        self._quit.set()
        self._loop = None
        await self.close_sockets()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def close_sockets(self) -> None:
        for socket in tuple(self._connected):
            await socket.close()
        self._sockets.clear()

    async def subscribed(self) -> None:
        """Until somebody listens for heads."""
        await eventually(lambda: self._sockets, "a subscription")

    # -- HTTP

    async def _http(self, request: web.Request) -> web.StreamResponse:
        return http_response(request, await self.respond(await request.read()))

    async def respond(self, body: bytes) -> web.Response | None:
        """The answer to an HTTP request; None: the connection is closed without one."""
        asked = orjson.loads(body)
        self.http_requests += 1
        fault = self.fail_next.pop(0) if self.fail_next else self._fault(asked)
        if self.latency:
            await self._within(self.latency)
        if fault == "hang":
            await self._within(3600)
        if self.gate is not None:
            await self.gate.wait()
        if self.offline or fault in ("hang", "drop"):
            return None
        say = fault if isinstance(fault, Say) else _SAYS.get(fault or "")
        if say:
            headers = {"Content-Type": "application/json"} | say.headers
            return web.Response(status=say.status, body=say.body.encode(), headers=headers)
        answers = _spoilt(self._answers(asked, self.balance(asked) or self), fault)
        response = self._response(answers)
        if fault == "cut":
            assert isinstance(response.body, bytes)
            response.body = response.body[: len(response.body) // 2]
        return response

    def _fault(self, asked: Any) -> Fault | None:
        return self.fault_for(asked)

    def _response(self, answers: Any) -> web.Response:
        return web.Response(body=orjson.dumps(answers), content_type="application/json")

    def _answers(self, asked: Any, view: View) -> Any:
        if isinstance(asked, list):
            if self.max_batch is not None and len(asked) > self.max_batch:
                error = {"code": -32600, "message": f"Maximum number of calls in a batch is {self.max_batch}"}
                return {"jsonrpc": "2.0", "id": None, "error": error}
            return [self._one(call, view) for call in asked]
        return self._one(asked, view)

    def _one(self, call: Json, view: View) -> Json:
        self.requests[call["method"]] += 1
        answer: Json = {"jsonrpc": "2.0", "id": call.get("id")}
        try:
            return answer | {"result": view.answer(call["method"], call.get("params") or [])}
        except Refusal as refusal:
            extra = {} if refusal.data is None else {"data": refusal.data}
            return answer | {"error": {"code": refusal.code, "message": refusal.message} | extra}
        except (TypeError, KeyError, AttributeError) as error:
            return answer | {"error": {"code": -32602, "message": f"invalid params: {error}"}}

    async def _within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quit.wait()

    # -- WebSocket

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._connected.add(socket)
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT:
                    continue
                call = orjson.loads(message.data)
                if isinstance(call, list) or call["method"] != "eth_subscribe":
                    await socket.send_str(orjson.dumps(self._answers(call, self)).decode())
                elif self.refuses_subscriptions or call["params"] != ["newHeads"]:
                    error = {"code": -32601, "message": "no such subscription"}
                    await socket.send_json({"jsonrpc": "2.0", "id": call["id"], "error": error})
                else:
                    await socket.send_json({"jsonrpc": "2.0", "id": call["id"], "result": "0x1"})
                    self._sockets.add(socket)
        finally:
            self._sockets.discard(socket)
            self._connected.discard(socket)
        return socket

    def _publish(self, blocks: list[Block]) -> None:
        loop = self._loop
        if loop is None or self.mute or not self._sockets:
            return
        loop.call_soon_threadsafe(self._spawn, [b.header() for b in blocks])

    def _spawn(self, headers: list[Json]) -> None:
        task = asyncio.ensure_future(self._send(headers))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, headers: list[Json]) -> None:
        for header in headers:
            del header["transactions"], header["uncles"]
            note = {"subscription": "0x1", "result": header}
            message = orjson.dumps({"jsonrpc": "2.0", "method": "eth_subscription", "params": note}).decode()
            for socket in tuple(self._sockets):
                with contextlib.suppress(ConnectionError):
                    await socket.send_str(message)


def _spoilt(answers: Any, fault: Fault | None) -> Any:
    batch = answers if isinstance(answers, list) else [answers]
    match fault:
        case "null":
            batch = [{"jsonrpc": "2.0", "id": a["id"], "result": None} for a in batch]
        case "no id":
            batch = [{k: v for k, v in a.items() if k != "id"} for a in batch]
        case "shuffled":
            batch = batch[::-1]
        case "short":
            batch = batch[:-1]
    return batch if isinstance(answers, list) else (batch[0] if batch else {})


class ThreadedNode(SimNode):
    """`with ThreadedNode(tree, head) as node`: in an event loop and a thread of its own, for callers that block."""

    def __enter__(self) -> ThreadedNode:
        self._own = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._own.run_forever, name="simnode", daemon=True)
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._own.call_soon_threadsafe(self._own.stop)
        self._thread.join(PATIENCE)
        self._own.close()

    def up(self) -> None:
        """Listens again, on the same port."""
        self._run(self.start())

    def down(self) -> None:
        """Connections are refused from now on."""
        self._run(self.stop())

    def drop_subscribers(self) -> None:
        self._run(self.close_sockets())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._own).result(PATIENCE)
