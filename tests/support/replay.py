"""A JSON-RPC node that serves recorded blocks and nothing else; its head is the highest block it was given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web


class ReplayNode:
    """Serves blocks {number, hash, parentHash, timestamp, logsBloom, logs} over HTTP on a free port.

    `cap`: the most blocks that it serves in one eth_getLogs.
    """

    def __init__(self, chain_id: int, blocks: Sequence[dict[str, Any]], *, cap: int | None = None) -> None:
        self.chain_id, self.cap, self.refused = chain_id, cap, 0
        self.blocks = {int(b["number"], 16): b for b in blocks}
        self.requests = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> ReplayNode:
        app = web.Application()
        app.add_routes([web.post("/", self._serve)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        self.requests += 1
        asked = json.loads(await request.read())
        answer = [self._answer(a) for a in asked] if isinstance(asked, list) else self._answer(asked)
        return web.Response(body=json.dumps(answer), content_type="application/json")

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = {"jsonrpc": "2.0", "id": asked["id"]}
        if asked["method"] == "eth_getLogs" and self.cap is not None:
            span = int(asked["params"][0]["toBlock"], 16) - int(asked["params"][0]["fromBlock"], 16) + 1
            if span > self.cap:
                self.refused += 1
                return answer | {"error": {"code": -32000, "message": f"block range too large, maximum {self.cap}"}}
        return answer | {"result": self._result(asked["method"], asked["params"])}

    def _result(self, method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "eth_getBlockByNumber":
            number = max(self.blocks) if params[0] in ("latest", "safe", "finalized") else int(params[0], 16)
            block = self.blocks.get(number)
            return block and {k: v for k, v in block.items() if k != "logs"}
        if method == "eth_getLogs":
            first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
            named = params[0]["address"]
            watched = {a.lower() for a in ([named] if isinstance(named, str) else named)}
            return [
                log | {"blockNumber": self.blocks[number]["number"], "blockHash": self.blocks[number]["hash"]}
                for number in range(first, last + 1)
                if number in self.blocks
                for log in self.blocks[number]["logs"]
                if log["address"] in watched
            ]
        raise ValueError(method)


def chain(length: int, logs: dict[int, list[dict[str, Any]]] | None = None) -> list[dict[str, Any]]:
    """Blocks 0..length-1 that follow each other, one second apart; `logs` by block number."""
    return [
        {
            "number": hex(n),
            "hash": f"0x{n + 1:064x}",
            "parentHash": f"0x{n:064x}",
            "timestamp": hex(1_700_000_000 + n),
            "logsBloom": "0x" + "00" * 256,
            "logs": (logs or {}).get(n, []),
        }
        for n in range(length)
    ]
