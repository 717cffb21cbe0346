"""JSON-RPC over HTTP to one endpoint: batches, limits, retries. What an answer means is classify's and wire's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from indexer.config import redact
from indexer.errors import BatchRefused, Inconsistent, RangeTooLarge, RateLimited, RpcError, Transient
from indexer.rpc.classify import classify

Call = tuple[str, Sequence[Any]]

ATTEMPTS = 4
_backoff = wait_random_exponential(multiplier=0.15, max=3)


def _wait(state: RetryCallState) -> float:
    """Jittered and exponential, seconds; a node's own Retry-After comes first."""
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, RateLimited) else None
    return named if named is not None else _backoff(state)


class Endpoint:
    """One HTTP endpoint. `timeout` in seconds, `max_response` in bytes. Raises RpcError and its subclasses only."""

    def __init__(
        self, url: str, *, timeout: float = 20.0, max_batch: int = 250, max_response: int = 64 * 2**20
    ) -> None:  # fmt: skip
        self.url, self.name = url, redact(url)
        self.timeout, self.max_batch, self.max_response = timeout, max_batch, max_response
        self.batches = True
        self.requests = 0
        self.calls: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None
        self._next_id = 0
        self._singles = asyncio.Semaphore(8)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """One call's result."""
        (result,) = await self._retried([(method, params)], single=True)
        return result

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results in order, or the first call's error. One request where the node takes batches."""
        results: list[Any] = []
        at = 0
        while at < len(calls):
            if not self.batches or len(calls) == 1:
                results += await asyncio.gather(*(self._one(c) for c in calls[at:]))
                break
            part = calls[at : at + self.max_batch]
            try:
                results += await self._retried(part, single=False)
            except BatchRefused:
                # Smaller first: many nodes limit a batch's length; those that take none are asked one by one for good.
                self.max_batch = len(part) // 4
                self.batches = self.max_batch >= 2
                continue
            at += len(part)
        return results

    async def _one(self, call: Call) -> Any:
        async with self._singles:
            return await self.call(*call)

    async def _retried(self, calls: Sequence[Call], *, single: bool) -> list[Any]:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Transient), wait=_wait, stop=stop_after_attempt(ATTEMPTS), reraise=True
        )
        return await retrying(self._send, calls, single)

    async def _send(self, calls: Sequence[Call], single: bool) -> list[Any]:
        first = self._next_id
        self._next_id += len(calls)
        body = [
            {"jsonrpc": "2.0", "id": first + i, "method": method, "params": list(params)}
            for i, (method, params) in enumerate(calls)
        ]
        self.requests += 1
        self.calls.update(method for method, _ in calls)
        answer = await self._post(orjson.dumps(body[0] if single else body))
        if single:
            return [self._result(answer)]
        if isinstance(answer, dict):
            # Some nodes answer a batch they refuse with one error object.
            error = answer.get("error")
            raise BatchRefused(str(error)[:200], self.name) if error else Transient("no list for a batch", self.name)
        if not isinstance(answer, list):
            raise Transient("no list for a batch", self.name)
        return self._in_order(answer, first, len(calls))

    def _in_order(self, answer: list[Any], first: int, count: int) -> list[Any]:
        by_id = {entry.get("id"): entry for entry in answer if isinstance(entry, dict)}
        if len(by_id) != len(answer):
            raise Inconsistent("an answer came twice in one batch", self.name)
        missing = [i for i in range(first, first + count) if i not in by_id]
        if missing:
            for entry in answer:  # a refusal without the call's id
                self._result(entry)
            raise Transient(f"{len(missing)} of {count} answers are missing in a batch", self.name)
        return [self._result(by_id[i]) for i in range(first, first + count)]

    async def _post(self, body: bytes) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.timeout))
        try:
            async with self._session.post(self.url, data=body, headers={"Content-Type": "application/json"}) as answer:
                text = await self._read(answer)
                status, headers = answer.status, answer.headers
        except TimeoutError as error:
            raise Transient(f"no answer within {self.timeout:g} seconds", self.name) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", self.name) from error
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            if status != 200:
                raise classify(0, text[:200].decode(errors="replace"), self.name, status, headers) from error
            raise Transient("the answer is not JSON", self.name) from error
        if status != 200 and not (isinstance(parsed, dict) and parsed.get("error")):
            raise classify(0, text[:200].decode(errors="replace"), self.name, status, headers)
        if status == 429:
            raise classify(429, str(parsed)[:200], self.name, status, headers)
        return parsed

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in answer.content.iter_chunked(1 << 16):
            size += len(part)
            if size > self.max_response:
                # Bounded, so that one answer cannot take the machine's memory.
                raise RangeTooLarge(f"the answer exceeds {self.max_response} bytes", self.name)
            parts.append(part)
        return b"".join(parts)

    def _result(self, entry: Any) -> Any:
        if not isinstance(entry, dict):
            raise Transient(f"an answer is no object: {entry!r:.80}", self.name)
        error = entry.get("error")
        if error is not None:
            raise self._error(error)
        if "result" not in entry:
            raise Transient("an answer has neither result nor error", self.name)
        return entry["result"]

    def _error(self, error: Any) -> RpcError:
        if not isinstance(error, dict):
            return classify(0, str(error), self.name)
        code, extra = error.get("code"), error.get("data")
        message = str(error.get("message", ""))
        if isinstance(extra, str) and not extra.startswith("0x"):
            message = f"{message}: {extra}"
        return classify(code if isinstance(code, int) else 0, message, self.name)
