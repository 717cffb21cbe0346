"""Checks of one endpoint for `doctor`: everything the indexer relies on. A few dozen requests; they change nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from indexer.chain.types import Header, Heads
from indexer.config import Deployment
from indexer.errors import RangeTooLargeError, RpcCallError, RpcError, TransientRpcError, error_label, printable
from indexer.ops.doctor.findings import DoctorFinding, DoctorFindings
from indexer.ops.doctor.proof_checks import examine_log_times, examine_proof, examine_receipts
from indexer.rpc.answers import redact_text
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.error_classifier import pruned
from indexer.rpc.proxy import proxy_of
from indexer.rpc.reader import Reader
from indexer.runtime.secrets import redact

MAX_RANGES = 20  # Sizes of eth_getLogs that are tried at most.
SPAN = 1000  # Blocks over which the block time is measured.
OLD_HEAD, CLOCK = 60, 15  # A head older, or further in the future, than this is reported (s).
BATCH = 20  # Calls in the batch that is tried.


class EndpointDoctor:
    """Examines one HTTP endpoint. `final` is a block that the endpoint calls final, for comparison with others."""

    def __init__(self, deployment: Deployment, url: str, name: str) -> None:
        self.deployment, self._url = deployment, url
        self.reader = Reader(Endpoint(url, timeout=deployment.rpc_timeout, name=name), deployment.max_blocks)
        self.found = DoctorFindings(name)
        self.head: Header | None = None
        self.final: Header | None = None
        self._sample: int | None = None  # A final block with logs of the deployment, if one was seen.

    async def examine(self) -> list[DoctorFinding]:
        """Run all checks. One that fails is a finding, and the others still run."""
        try:
            if await self._chain():
                heads = await self._heads()
                if heads is not None:
                    for look in (self._tags, self._pace, self._batch, self._range, self._logs, self._receipts,
                                 self._proof, self._history):  # fmt: skip
                        await self._try(look, heads)
                    self._latency()
        finally:
            await self.reader.endpoint.close()
        return self.found.items

    async def hash_of(self, number: int) -> str | None:
        """Return a block's hash; None if the endpoint does not serve it."""
        try:
            header = await self.reader.header(number)
        except RpcError:
            return None
        finally:
            await self.reader.endpoint.close()
        return None if header is None else "0x" + header.hash.hex()

    async def _try(self, look: Callable[[Heads], Awaitable[None]], heads: Heads) -> None:
        try:
            await look(heads)
        except RpcError as error:
            check = look.__name__.strip("_")
            self.found.fix(check, error.message, "Use an endpoint that serves it; see its provider's documentation")

    async def _chain(self) -> bool:
        parts = urlsplit(self._url)
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            self.found.note("TLS", "plain http: keys and answers can be read and changed on the way", "Use https")
        try:
            chain = await self.reader.chain_id()
        except RpcError as error:
            self.found.fix("answers", error.message, "Check the URL, its key and the network")
            return False
        if chain != self.deployment.chain_id:
            detail = f"serves chain {chain}, the deployment {self.deployment.name} is chain {self.deployment.chain_id}"
            self.found.fix("chain id", detail, "Use an endpoint of the deployment's chain, or another --chain")
            return False
        self.found.good("chain id", str(chain))
        if proxy := proxy_of(self._url).url:
            self.found.note(
                "proxy", f"reached through {redact(proxy)}", "To connect directly, add its host to NO_PROXY"
            )
        return True

    async def _heads(self) -> Heads | None:
        try:
            heads = await self._seen()
        except RpcError as error:
            self.found.fix("head", error.message, "Use an endpoint that serves eth_getBlockByNumber")
            return None
        self.head = heads.latest
        age = time.time() - heads.latest.timestamp
        if age > OLD_HEAD:
            self.found.note("clock", f"block {heads.latest.number} is {age:.0f} s old: it lags, or the chain is idle",
                            "Compare with another endpoint")  # fmt: skip
        elif age < -CLOCK:
            self.found.note("clock", f"block {heads.latest.number} is {-age:.0f} s in the future",
                            "Set this machine's clock (chrony, systemd-timesyncd)")  # fmt: skip
        else:
            self.found.good("clock", f"block {heads.latest.number} is {max(age, 0):.0f} s old")
        return heads

    async def _seen(self) -> Heads:
        """Return the heads; the second time `latest` is asked for alone, because a tag may have failed all of it."""
        try:
            return await self.reader.heads()
        except TransientRpcError:
            return await self.reader.heads()

    async def _tags(self, heads: Heads) -> None:
        latest, depth = heads.latest.number, self.deployment.finality_depth
        for tag, header in (("safe", heads.safe), ("finalized", heads.finalized)):
            if header is None:
                refused = self.reader.endpoint.health.support.get(f"tag {tag}")
                why = "" if refused is None else f" ({refused.why})"
                if refused is not None and refused.transient:
                    detail = f"fails now{why}: nothing new becomes final meanwhile"
                else:
                    detail = f"not served{why}: {depth} blocks below the head count as final instead"
                remedy = "Set [finality] depth to what the chain needs, or put an endpoint that serves the tag first"
                self.found.note(f"tag {tag}", detail, remedy if tag == "finalized" else "")
            elif header.number > latest:
                self.found.fix(f"tag {tag}", f"block {header.number}, above latest {latest}", "Use another endpoint")
            elif header.number == latest and latest > 0:
                self.found.note(f"tag {tag}", "is the head itself: it is disbelieved as soon as the head moves on")
            elif latest - header.number > depth:
                detail = f"block {header.number}, {latest - header.number} below latest: more than [finality] depth"
                self.found.note(
                    f"tag {tag}", detail, "Compare with another endpoint: this one may have lost its parent"
                )
            else:
                self.found.good(f"tag {tag}", f"block {header.number}, {latest - header.number} below latest")
        if heads.safe and heads.finalized and heads.finalized.number > heads.safe.number:
            self.found.fix("tags", "finalized is above safe", "Use another endpoint")
        believed = heads.finalized is not None and heads.finalized.number < latest
        if believed:
            self.final = heads.finalized
        elif latest > depth:
            self.final = await self.reader.header(latest - depth)

    async def _pace(self, heads: Heads) -> None:
        latest = heads.latest
        before = await self.reader.header(max(0, latest.number - SPAN))
        if before is None:
            self.found.note("block time", f"block {max(0, latest.number - SPAN)} is not served")
        elif latest.number > before.number:
            pace = (latest.timestamp - before.timestamp) / (latest.number - before.number)
            self.found.good("block time", f"{pace:.2f} s over {latest.number - before.number} blocks")

    async def _batch(self, heads: Heads) -> None:
        await self.reader.headers([max(0, heads.latest.number - n) for n in range(BATCH)])
        size = self.reader.endpoint.lengths.size
        if size >= BATCH:
            self.found.good("batch", f"{BATCH} calls in one request")
        else:
            detail = f"at most {size} calls in a request: catching up takes more of them"
            self.found.note("batch", "single calls only: everything takes more requests" if size == 1 else detail,
                            "Set [rpc] rps and [budget] to what the provider allows")  # fmt: skip

    async def _logs(self, heads: Heads) -> None:
        """Check that a block has as many logs by number as by hash."""
        number, addresses = self._block(heads), self._addresses
        logs, (header,) = await self.reader.logs_with_headers(number, number, addresses, [number])
        examine_log_times(self.found, logs, header)
        asked = {"blockHash": "0x" + header.hash.hex(), "address": addresses}
        try:
            by_hash = await self.reader.endpoint.call("eth_getLogs", [asked])
        except RpcCallError as error:
            self.found.note("getLogs by hash", error.message)
            return
        if not isinstance(by_hash, list) or len(by_hash) != len(logs):
            detail = f"block {number}: {len(logs)} logs by number, another answer by hash"
            self.found.fix("getLogs by hash", detail, "It leaves logs out: use another endpoint")
        else:
            self.found.good("getLogs by hash", f"block {number}: {len(logs)} logs, by number and by hash")

    async def _receipts(self, heads: Heads) -> None:
        await examine_receipts(self.reader, self.found, self._block(heads), self._addresses)

    async def _proof(self, heads: Heads) -> None:
        await examine_proof(self.reader, self.found, self._block(heads), self._addresses)

    @property
    def _addresses(self) -> list[str]:
        return [c.address for c in self.deployment.contracts]

    def _block(self, heads: Heads) -> int:
        """Return the block to look into: one with logs if there was one, final if any is."""
        if self._sample is not None:
            return self._sample
        return self.final.number if self.final else heads.latest.number

    async def _range(self, heads: Heads) -> None:
        """Find out how many blocks one eth_getLogs may have, from the endpoint's own refusals."""
        addresses, last = self._addresses, heads.latest.number
        ranges = self.reader.ranges
        for _ in range(MAX_RANGES):
            blocks = min(ranges.size, last + 1)
            try:
                logs, _headers = await self.reader.logs_with_headers(last - blocks + 1, last, addresses, [])
            except RangeTooLargeError as error:
                if blocks == 1:
                    self.found.note("limits", f"refuses the newest block alone: {error.message}; it is read in parts")
                    return
                continue
            except RpcError as error:
                if not pruned(error.message):
                    raise
                self.found.note("limits", f"not known: {error.message}")
                return
            final = self.final.number if self.final else last
            self._sample = next((log.block_number for log in reversed(logs) if log.block_number <= final), None)
            self._limits(blocks, whole_chain=blocks == last + 1)
            return
        self.found.note("limits", f"not known: {MAX_RANGES} sizes were refused", "Set [ranges] max_blocks")

    def _limits(self, blocks: int, *, whole_chain: bool) -> None:
        """Name the limit of eth_getLogs, if it is below what the deployment asks for."""
        ranges, wanted = self.reader.ranges, self.deployment.max_blocks
        detail = f"{blocks} blocks in one eth_getLogs" + (
            f", at most {ranges.max_logs} logs" if ranges.max_logs else ""
        )
        if blocks < wanted and not whole_chain:
            detail += (
                f", not {wanted}: a backfill takes {wanted / blocks:.0f} times as many requests where logs are few"
            )
            self.found.note(
                "limits", detail, f"Set [ranges] max_blocks = {blocks}; it is found out at each start otherwise"
            )
        else:
            self.found.good("limits", detail)

    async def _history(self, heads: Heads) -> None:
        """Check the first block of the deployment: a pruned node serves the head but not the past."""
        first = self.deployment.start_block
        header = await self.reader.header(first)
        if header is None:
            self.found.note("history", f"block {first} is not served", "Follows the head; a backfill needs another")
            return
        try:
            await self.reader.logs_with_headers(first, first, self._addresses, [])
        except RpcError as error:
            self.found.note("history", f"logs of block {first}: {error.message}", "A backfill needs another endpoint")
        else:
            self.found.good("history", f"block {first} and its logs")

    def _latency(self) -> None:
        endpoint = self.reader.endpoint
        if endpoint.health.latency is not None:
            self.found.good("latency", f"{1000 * endpoint.health.latency:.0f} ms")
        limited = endpoint.errors["RateLimited"]
        if limited:
            self.found.note("rate", f"refused {limited} of {endpoint.requests} requests for their rate",
                            "Set [rpc] rps in the deployment's file")  # fmt: skip


async def examine_socket(deployment: Deployment, url: str, name: str) -> list[DoctorFinding]:
    """Examine a WebSocket endpoint: whether it opens, serves the deployment's chain and accepts a subscription."""
    found = DoctorFindings(name)
    try:
        proxy = proxy_of(url)
        session = aiohttp.ClientSession(proxy=proxy.url)
        opening = session.ws_connect(url, proxy_headers=proxy.headers)
        async with asyncio.timeout(15), session, opening as socket:
            chain = await _call(socket, 1, "eth_chainId", [])
            if chain != hex(deployment.chain_id):
                detail = f"serves chain {chain!r:.40}, the deployment is chain {deployment.chain_id}"
                found.fix("chain id", detail, "Give an endpoint of that chain")
            else:
                await _call(socket, 2, "eth_subscribe", ["newHeads"])
                found.good("newHeads", "subscribed")
    except (OSError, TimeoutError, ValueError, aiohttp.ClientError) as error:
        detail = printable(redact_text(" ".join(f"{error_label(error)}: {error}".split())[:200], url))
        found.note("answers", detail, "Heads are polled without it")
    return found.items


async def _call(socket: aiohttp.ClientWebSocketResponse, number: int, method: str, params: list[Any]) -> Any:
    """Send one JSON-RPC call and return its result. Raises ValueError if it is refused or not answered."""
    await socket.send_json({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    for _ in range(100):  # Notifications may arrive before the answer.
        message = await socket.receive()
        if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            raise ValueError("closed by the node")
        answer = orjson.loads(message.data)
        if isinstance(answer, dict) and answer.get("id") == number:
            if answer.get("error"):
                raise ValueError(f"{method} refused: {str(answer['error'])[:100]}")
            return answer.get("result")
    raise ValueError(f"no answer to {method}")
