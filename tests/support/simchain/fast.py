"""A recorded chain behind JSON-RPC, fast enough to be no bottleneck of a benchmark: a process of its own.

    python -m tests.support.simchain.fast --chain chain.jsonl --port 0 [--max-range 2000] [--latency-ms 50] ...

Prints its URL. Logs are serialised once, when the file is read; an eth_getLogs answer is a slice of one buffer.
GET /stats tells what was asked; POST /reset forgets it, starts the growing head anew and takes knobs as a JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
import urllib.request
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import orjson

from tests.support.simchain.recording import Found, Json, Recording
from tests.support.simchain.refusals import BLOCKS, LOGS, Provider, Refusal, refuse
from tests.support.waiting import PATIENCE


@dataclass
class Knobs:
    """How the node behaves; a 0 stands for no limit."""

    max_range: int = 0  # blocks per eth_getLogs
    max_logs: int = 0  # logs per eth_getLogs
    says: Provider = "reya"  # in whose words it refuses
    latency_ms: float = 0.0  # before each HTTP answer
    rate_limit: int = 0  # HTTP requests in any second; the others get 429
    retry_after: float = 0.0  # seconds, in a 429's header
    finality: int = 0  # blocks from the head to `finalized`; `safe` is half way
    start_head: int = 0
    rate: float = 0.0  # blocks a second by which the head grows from start_head on


class Node:
    """Answers calls and counts them."""

    def __init__(self, chain: Recording, knobs: Knobs) -> None:
        self.chain, self.knobs = chain, knobs
        self.reset({})

    def reset(self, knobs: Json) -> None:
        self.knobs = Knobs(**(vars(self.knobs) | knobs))
        self.methods: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.http_requests = self.batches = self.limited = self.logs = self.bytes_out = 0
        self.started, self._cpu = time.monotonic(), _cpu_seconds()
        self._asked_at: deque[float] = deque()

    def stats(self) -> Json:
        """`started` on the clock of time.monotonic: when the head was at start_head."""
        counted = ("http_requests", "batches", "limited", "logs", "bytes_out", "started")
        return {name: getattr(self, name) for name in counted} | {
            "head": self.head(),
            "methods": dict(self.methods),
            "errors": dict(self.errors),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 3),
        }

    def head(self) -> int:
        if not self.knobs.rate:
            return self.chain.head
        grown = int((time.monotonic() - self.started) * self.knobs.rate)
        return min(self.chain.head, self.knobs.start_head + grown)

    def over_rate(self) -> bool:
        """Whether this HTTP request is one too many."""
        if not self.knobs.rate_limit:
            return False
        now, asked = time.monotonic(), self._asked_at
        while asked and asked[0] <= now - 1:
            asked.popleft()
        if len(asked) >= self.knobs.rate_limit:
            self.limited += 1
            return True
        asked.append(now)
        return False

    def answer(self, body: bytes) -> bytes:
        """The answer to a call or a batch."""
        asked = orjson.loads(body)
        if isinstance(asked, list):
            self.batches += 1
            return b"[" + b",".join([self._one(call) for call in asked]) + b"]"
        return self._one(asked)

    def _one(self, call: Json) -> bytes:
        method, head = call.get("method", ""), b'{"jsonrpc":"2.0","id":' + orjson.dumps(call.get("id"))
        self.methods[method] += 1
        try:
            return b"".join((head, b',"result":', self._result(method, call.get("params") or []), b"}"))
        except Refusal as refusal:
            code, message = refusal.code, refusal.message
        except (TypeError, KeyError, AttributeError, ValueError, IndexError) as problem:
            code, message = -32602, f"invalid params: {problem}"
        self.errors[message] += 1
        return b"".join((head, b',"error":', orjson.dumps({"code": code, "message": message}), b"}"))

    def _result(self, method: str, params: list[Any]) -> bytes:
        match method:
            case "eth_getLogs":
                return self._logs(params[0])
            case "eth_getBlockByNumber":
                if len(params) > 1 and params[1]:
                    raise Refusal(-32602, "whole transactions are not recorded")
                number = self._number(params[0])
                return self.chain.headers[number] if number <= self.head() else b"null"
            case "eth_getBlockReceipts":
                number = self._number(params[0])
                return orjson.dumps(self.chain.block(number).receipts()) if number <= self.head() else b"null"
            case "eth_blockNumber":
                return b'"%#x"' % self.head()
            case "eth_chainId":
                return b'"%#x"' % self.chain.meta["chain_id"]
        raise Refusal(-32601, f"the method {method} does not exist/is not available")

    def _number(self, text: str) -> int:
        head, finality = self.head(), self.knobs.finality
        tags = {"latest": head, "safe": max(0, head - finality // 2), "finalized": max(0, head - finality)}
        if text in tags:
            return tags[text]
        return 0 if text == "earliest" else int(text, 16)

    def _logs(self, asked: Json) -> bytes:
        addresses, topics = asked.get("address"), asked.get("topics") or [None]
        if len(topics) > 1:
            raise Refusal(-32602, "only the first topic is indexed here")
        found = self.chain.find(_any_of(addresses), _any_of(topics[0]))
        head = self.head()
        if "blockHash" in asked:
            first = last = self.chain.by_hash.get(asked["blockHash"], head + 1)
            if first > head:
                raise Refusal(-32000, "unknown block")
        else:
            first, last = self._number(asked.get("fromBlock", "latest")), self._number(asked.get("toBlock", "latest"))
            self._check(found, first, last, head)
        self.logs += found.before[last + 1] - found.before[first]
        return b"[" + found.buffer[found.at[first] : max(found.at[first], found.at[last + 1] - 1)] + b"]"

    def _check(self, found: Found, first: int, last: int, head: int) -> None:
        """Refuses a range, in the provider's words."""
        knobs, span = self.knobs, last - first + 1
        if span < 1:
            raise Refusal(-32602, "invalid block range params")
        if last > head:
            raise Refusal(-32602, "block range extends beyond current head block")
        if knobs.max_range and span > knobs.max_range:
            refuse(BLOCKS, knobs.says, cap=knobs.max_range, first=first, fits=first + knobs.max_range - 1, span=span)
        if knobs.max_logs and found.before[last + 1] - found.before[first] > knobs.max_logs:
            fits = max(first, bisect_left(found.before, found.before[first] + knobs.max_logs + 1) - 2)
            refuse(LOGS, knobs.says, cap=knobs.max_logs, first=first, fits=fits, span=span)


def _any_of(told: str | list[str] | None) -> Collection[str] | None:
    if not told:
        return None
    return {t.lower() for t in ([told] if isinstance(told, str) else told)}


def _cpu_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


class Http(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, bodies with a Content-Length, one request after the other on a connection."""

    def __init__(self, node: Node) -> None:
        self.node, self._read = node, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            request, *lines = bytes(self._read[:end]).lower().split(b"\r\n")
            headers = dict(line.split(b":", 1) for line in lines)
            size = int(headers.get(b"content-length", b"0"))
            if len(self._read) < end + 4 + size:
                return
            body = bytes(self._read[end + 4 : end + 4 + size])
            del self._read[: end + 4 + size]
            self._serve(request, body, headers.get(b"connection", b"").strip() == b"close")

    def _serve(self, request: bytes, body: bytes, close: bool) -> None:
        node, extra, latency = self.node, b"", self.node.knobs.latency_ms / 1000
        if request.startswith((b"get /stats ", b"post /reset ")):
            latency = 0.0
            if request.startswith(b"post"):
                node.reset(orjson.loads(body or b"{}"))
            status, answer = b"200 OK", orjson.dumps(node.stats())
        else:
            node.http_requests += 1
            if node.over_rate():
                status, answer = b"429 Too Many Requests", _TOO_MANY
                extra = b"Retry-After: %g\r\n" % node.knobs.retry_after if node.knobs.retry_after else b""
            else:
                try:
                    status, answer = b"200 OK", node.answer(body)
                except (ValueError, AttributeError):
                    status, answer = b"400 Bad Request", b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}'
            node.bytes_out += len(answer)
        said = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n" % (
            status, extra, len(answer),
        )  # fmt: skip
        if latency:
            asyncio.get_running_loop().call_later(latency, self._write, said + answer, close)
        else:
            self._write(said + answer, close)

    def _write(self, answer: bytes, close: bool) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)
            if close:
                self._transport.close()


_TOO_MANY = b'{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Too Many Requests"}}'


async def serve(chain: Path, port: int, log_timestamp: bool, knobs: Knobs, ready: Callable[[str], None]) -> None:
    """Serves a chain file on the loopback until it is cancelled; tells its URL."""
    node = Node(Recording(chain, log_timestamp), knobs)
    gc.collect()
    gc.freeze()
    server = await asyncio.get_running_loop().create_server(lambda: Http(node), "127.0.0.1", port)
    ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


class FastNode:
    """`with FastNode(chain) as node`: the server in a process of its own, `node.url`, ended with the block."""

    def __init__(self, chain: Path, *, log_timestamp: bool = False) -> None:
        self._command = [sys.executable, "-m", "tests.support.simchain.fast", "--chain", str(chain), "--port", "0"]
        self._command += ["--log-timestamp"] if log_timestamp else []
        self.url = ""

    def __enter__(self) -> FastNode:
        root = Path(__file__).parents[3]
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, cwd=root)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the node did not start, exit code {self._process.wait(PATIENCE)}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def stats(self) -> Json:
        told: Json = ask(f"{self.url}/stats")
        return told

    def reset(self, **knobs: object) -> None:
        """Forgets the counts. Knobs that are not named become what a new node has."""
        ask(f"{self.url}/reset", vars(Knobs()) | knobs)


def ask(url: str, body: object = None) -> Any:
    """JSON of a GET, or of a POST with a JSON body."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a recorded chain.")
    parser.add_argument("--chain", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log-timestamp", action="store_true", help="logs carry blockTimestamp")
    for name, kind in get_type_hints(Knobs).items():
        kind = kind if kind in (int, float) else str  # noqa: PLW2901
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(Knobs, name))
    given = vars(parser.parse_args())
    chain, port, stamps = given.pop("chain"), given.pop("port"), given.pop("log_timestamp")
    asyncio.run(serve(chain, port, stamps, Knobs(**given), lambda url: print(url, flush=True)))


if __name__ == "__main__":
    main()
