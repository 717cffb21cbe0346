"""A JSON-RPC node that serves recorded blocks and nothing else; its head is the highest block it was given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web


class ReplayNode:
    """Serves blocks {number, hash, parentHash, timestamp, logsBloom, logs} over HTTP on a free port."""

    def __init__(self, chain_id: int, blocks: Sequence[dict[str, Any]]) -> None:
        self.chain_id = chain_id
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
        return {"jsonrpc": "2.0", "id": asked["id"], "result": self._result(asked["method"], asked["params"])}

    def _result(self, method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "eth_getBlockByNumber":
            number = max(self.blocks) if params[0] in ("latest", "safe", "finalized") else int(params[0], 16)
            block = self.blocks.get(number)
            return block and {k: v for k, v in block.items() if k != "logs"}
        if method == "eth_getLogs":
            first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
            watched = set(params[0]["address"])
            return [
                log | {"blockNumber": block["number"], "blockHash": block["hash"]}
                for number, block in sorted(self.blocks.items())
                if first <= number <= last
                for log in block["logs"]
                if log["address"] in watched
            ]
        raise ValueError(method)
