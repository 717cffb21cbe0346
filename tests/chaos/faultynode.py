"""A node that goes wrong for as long as it is told, and notes the first request that met it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from tests.support.simchain.node import Say, ThreadedNode
from tests.support.simchain.view import Json

# An answer to an HTTP request in the place of the right one; what was asked for is parsed already.
Spoil = Callable[["FaultyNode", web.Request, Any], Awaitable[web.StreamResponse]]

JSON = {"Content-Type": "application/json"}
HTML = "<html><head><title>502 Bad Gateway</title></head><body>Sign in to continue</body></html>"
HUGE = 66 * 2**20  # bytes, more than a caller reads of one answer
PIECE = bytes(2**20).replace(b"\0", b" ")


class FaultyNode(ThreadedNode):
    """`spoil` answers each HTTP request while it is set; `watched`: a fault of another sort is on, met by the next
    request with this word. `met_at`: monotonic seconds, None until somebody met it."""

    def knobs(self) -> None:
        super().knobs()
        self.spoil: Spoil | None = None
        self.watched: bytes | None = None
        self.met_at: float | None = None
        self.left_out = 0  # logs that a caller was not told of

    def meet(self) -> None:
        if self.met_at is None:
            self.met_at = time.monotonic()

    async def _http(self, request: web.Request) -> web.StreamResponse:
        spoil = self.spoil
        if spoil is None:
            if self.watched is not None and self.watched in await request.read():
                self.meet()
            return await super()._http(request)
        asked = orjson.loads(await request.read())
        self.meet()
        return await spoil(self, request, asked)

    def _logs(self, block: Any, several: bool) -> list[Json]:
        found = super()._logs(block, several)
        if self.omit and (missing := sum(len(tx.logs) for tx in block.txs) - len(found)):
            self.left_out += missing
            self.meet()
        return found

    def body(self, asked: Any) -> bytes:
        """The right answer."""
        return orjson.dumps(self._answers(asked, self))


def say(*answers: Say) -> Spoil:
    """These answers, in turns."""
    turn = 0

    async def spoil(node: FaultyNode, request: web.Request, asked: Any) -> web.StreamResponse:
        nonlocal turn
        turn += 1
        one = answers[turn % len(answers)]
        return web.Response(status=one.status, body=one.body.encode(), headers=JSON | one.headers)

    return spoil


def held_back(seconds: float) -> Spoil:
    """The right answer, so late that nobody waits for it any more."""

    async def spoil(node: FaultyNode, request: web.Request, asked: Any) -> web.StreamResponse:
        until = time.monotonic() + seconds
        while time.monotonic() < until and node.spoil is spoil:  # noqa: ASYNC110 - over when the fault is
            await asyncio.sleep(0.05)
        return web.Response(body=node.body(asked), headers=JSON)

    return spoil


async def truncated(node: FaultyNode, request: web.Request, asked: Any) -> web.StreamResponse:
    """Half of the right answer, as if that were all of it."""
    body = node.body(asked)
    return web.Response(body=body[: len(body) // 2], headers=JSON)


async def closed(node: FaultyNode, request: web.Request, asked: Any) -> web.StreamResponse:
    """The socket closed in the middle of the right answer."""
    body = node.body(asked)
    answer = web.StreamResponse(headers=JSON | {"Content-Length": str(len(body))})
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return answer


async def huge(node: FaultyNode, request: web.Request, asked: Any) -> web.StreamResponse:
    """A JSON answer that does not end before it is larger than anybody's memory should be asked for."""
    answer = web.StreamResponse(headers=JSON)
    await answer.prepare(request)
    try:
        await answer.write(b'{"jsonrpc":"2.0","id":0,"result":"')
        for _ in range(HUGE // len(PIECE)):
            await answer.write(PIECE)
        await answer.write_eof(b'"}')
    except ConnectionError:  # nobody reads on
        pass
    return answer


async def swollen(node: FaultyNode, request: web.Request, asked: Any) -> web.StreamResponse:
    """Few bytes on the wire that become many times as much in memory."""
    return web.Response(body=b"[" + b"[]," * (1 << 20) + b"[]]", headers=JSON)
