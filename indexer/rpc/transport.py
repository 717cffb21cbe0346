"""JSON-RPC over HTTP to one endpoint: batches, limits, retries. `classify` and `wire` interpret the answers.

Every request passes one gate, the more urgent purpose first; the gate enforces the cap on requests per second and the
pauses that a node asks for. A batch is one request there, whatever its length, as it is one HTTP request; providers
that count the calls in it need a lower cap.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp
import orjson
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from indexer.errors import (
    BatchUnsupportedError,
    InconsistentResponseError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
    error_label,
)
from indexer.rpc import error_hints
from indexer.rpc.adaptive_size import AdaptiveBatch
from indexer.rpc.budget import Budgets, PriorityLock
from indexer.rpc.error_classifier import classify, named_backoff
from indexer.rpc.health import EndpointHealth
from indexer.rpc.rate_limit import Backoff, TokenBucket, current_purpose
from indexer.rpc.wire import parse_json
from indexer.runtime.secrets import redact

Call = tuple[str, Sequence[Any]]

MAX_ATTEMPTS = 4
MAX_WAIT_S = 5.0  # If a node asks for a longer wait, the call is left to other endpoints.
READ_AHEAD = 1 << 19  # Bytes of a response that the socket may buffer ahead of the reader.
MAX_COOKIES = 32  # Load balancers pin a client to a backend by cookies; a hostile one must not fill the memory.
# Statuses that single calls would get too; any other refusal of a whole batch may be a refusal of batches as such.
_NOT_ABOUT_BATCHES = (401, 403, 404, 407, 451)
_REDIRECTS = (301, 302, 303, 307, 308)
JSON = {"Content-Type": "application/json"}
_backoff = wait_random_exponential(multiplier=0.15, max=3)


def _wait(state: RetryCallState) -> float:
    """Return the wait before a retry (s): jittered and exponential, but at least the node's own Retry-After."""
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, RateLimitedError) else None
    return max(named or 0.0, _backoff(state))


class _StopAfterTimeout(stop_base):
    """Stop retrying after `timeout` (s), not counting time `queued`, or if the node asks for more than MAX_WAIT_S."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.queued = timeout, 0.0

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, RateLimitedError) and (error.retry_after or 0.0) > MAX_WAIT_S:
            return True
        return (retry_state.seconds_since_start or 0.0) - self.queued >= self.timeout


def redact_text(text: str, url: str) -> str:
    """Return `text` without the secrets of `url`: errors of HTTP clients and of nodes quote URLs and keys."""
    parts = urlsplit(url)
    secrets = {*parts.path.split("/"), *(v for _, v in parse_qsl(parts.query)), parts.username, parts.password}
    for secret in sorted({s for s in secrets if s and len(s) >= 8}, key=len, reverse=True):
        text = text.replace(secret, "…").replace(unquote(secret), "…")
    return text


class _Answer(NamedTuple):
    """The `parsed` JSON of an HTTP response. If `status` is not 200, it is a list, or an object with an error."""

    parsed: Any
    status: int
    headers: Mapping[str, str]
    size: int  # Bytes.


class Results(NamedTuple):
    """Results in call order. `size`: bytes of the largest HTTP response among them."""

    values: list[Any]
    size: int


class Endpoint:
    """One HTTP endpoint. Raises RpcError and its subclasses only.

    Args:
        url: URL, which may contain secrets.
        timeout: limit of one request (s).
        max_batch: maximum length of a batch (calls).
        max_response: maximum size of a response (bytes).
        rps: maximum HTTP requests per second; None: no limit.
        name: display name without secrets; "": derived from the URL.
        budgets: request budgets by purpose; None: no limits.
    """

    def __init__(
        self, url: str, *, timeout: float = 20.0, max_batch: int = 250, max_response: int = 64 * 2**20,
        rps: float | None = None, name: str = "", budgets: Budgets | None = None,
    ) -> None:  # fmt: skip
        self.url, self.name = url, name or redact(url)
        self.timeout, self.max_response = timeout, max_response
        self.lengths = AdaptiveBatch(max_batch)
        self._longest = 0  # The longest batch answered as one.
        self.requests = 0
        self.errors: Counter[str] = Counter()  # By class, including those that a retry overcame.
        self.outcomes: Counter[tuple[str, str]] = Counter()  # Calls by method, and "ok" or the error's class.
        self.failed_work: Counter[str] = Counter()  # Failed work of several calls, by the error's class.
        self._session: aiohttp.ClientSession | None = None
        self._next_id = 0
        self._singles = asyncio.Semaphore(8)
        self._gate, self._budgets = PriorityLock(), budgets or Budgets()
        self._bucket = None if rps is None else TokenBucket(rps)
        self._quiet = Backoff()
        self.health = EndpointHealth()
        self.connections = 0  # Opened so far; a new one may lead to another machine.
        self.under_way: dict[int, tuple[str, float]] = {}  # First id -> (method, monotonic time); no probes.
        self.served_at = self.held_until = 0.0  # Last answer to anything but a probe; end of the current delay.

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """Return the result of one call."""
        return (await self._retried([(method, params)], single=True)).values[0]

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return results in call order, or raise the first call's error. One request if the node takes batches."""
        return (await self.batch_with_size(calls)).values

    async def batch_with_size(self, calls: Sequence[Call]) -> Results:
        """Return results as `batch` does, with the size of the largest response."""
        values: list[Any] = []
        size = at = 0
        while at < len(calls):
            if self.lengths.size == 1 or len(calls) == 1:
                parts = await self._send_singly(calls[at:])
                return Results(values + [p.values[0] for p in parts], max(size, *(p.size for p in parts)))
            part = calls[at : at + self.lengths.size]
            answered = await self._send_part(part)
            if answered is not None:
                values += answered.values
                size, at = max(size, answered.size), at + len(part)
        return Results(values, size)

    async def _send_part(self, part: Sequence[Call]) -> Results | None:
        """Send one batch; None if shorter batches are to be sent instead."""
        try:
            answered = await self._retried(part, single=False)
        except BatchUnsupportedError as refusal:
            message = refusal.message.removeprefix(f"{self.name}: ")
            self.lengths.refused(
                len(part), error_hints.max_batch_calls(message), length=error_hints.is_about_batch_length(message)
            )
            return None
        except RangeTooLargeError:
            if len(part) == 1 or any(method != "eth_getBlockByNumber" for method, _ in part):
                raise
            self.lengths.refused(len(part), length=False)  # Headers alone were too much, so no block range is to blame.
            return None
        except TransientRpcError as error:
            if not isinstance(error, RateLimitedError | InconsistentResponseError):
                self.lengths.failed(len(part))
            raise
        self.lengths.succeeded(len(part))
        return answered

    async def _send_singly(self, calls: Sequence[Call]) -> list[Results]:
        """Send one request per call; the first error cancels the rest, so that nothing outlives `close`."""
        tasks = [asyncio.create_task(self._send_one(c)) for c in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_one(self, call: Call) -> Results:
        async with self._singles:
            result = await self._retried([call], single=True)
        self.lengths.succeeded(1)
        return result

    async def _retried(self, calls: Sequence[Call], *, single: bool) -> Results:
        """Retry TransientRpcError a few times, for little more than `timeout`: then it is another endpoint's turn."""
        timeout_stop = _StopAfterTimeout(self.timeout)
        stop = stop_any(stop_after_attempt(MAX_ATTEMPTS), timeout_stop)
        retrying = AsyncRetrying(retry=retry_if_exception_type(TransientRpcError), wait=_wait, stop=stop, reraise=True)
        return await retrying(self._send, calls, timeout_stop, single=single)

    async def _wait_turn(self) -> None:
        """Wait for this request's turn. Raises RateLimitedError if the node wants a pause longer than MAX_WAIT_S.

        A caller that is canceled while it waits leaves the queue and takes nothing from it.
        """
        async with self._gate:
            while True:
                now = time.monotonic()
                quiet = self._quiet.wait(now)
                if quiet > MAX_WAIT_S:
                    raise RateLimitedError(f"accepts no requests for another {quiet:.0f} seconds", self.name, quiet)
                wait = max(quiet, self._bucket.wait(now) if self._bucket else 0.0)
                if wait <= 0:
                    break
                self.held_until = now + wait
                await asyncio.sleep(wait)
            if self._bucket:
                self._bucket.take(now)

    async def _send(self, calls: Sequence[Call], timeout_stop: _StopAfterTimeout, *, single: bool) -> Results:
        queued_at = time.monotonic()
        await self._budgets.take()
        await self._wait_turn()
        sent = time.monotonic()
        timeout_stop.queued += sent - queued_at
        first = self._next_id
        self._next_id += len(calls)
        is_probe = current_purpose() == "probe"
        if not is_probe:
            self.under_way[first] = calls[0][0], sent
        try:
            results = await self._ask(calls, first, single=single)
        except RpcError as error:
            now = time.monotonic()
            self.errors[error_label(error)] += 1
            self.outcomes.update((method, error_label(error)) for method, _ in calls)
            if isinstance(error, RateLimitedError):
                self._quiet.limited(now, sent, error.retry_after or None)
            if isinstance(error, TransientRpcError):
                self.health.failed(now, error.message, limited=isinstance(error, RateLimitedError))
            else:  # A refusal is an answer.
                self.health.answered(now, now - sent)
            raise
        finally:
            self.under_way.pop(first, None)
        self._quiet.answered(sent)
        self.outcomes.update((method, "ok") for method, _ in calls)
        self.health.answered(now := time.monotonic(), now - sent)
        self.served_at = self.served_at if is_probe else now
        return results

    async def _ask(self, calls: Sequence[Call], first: int, *, single: bool) -> Results:
        body = [
            {"jsonrpc": "2.0", "id": first + i, "method": method, "params": list(params)}
            for i, (method, params) in enumerate(calls)
        ]
        self.requests += 1
        answer = await self._post(orjson.dumps(body[0] if single else body))
        if single:
            return Results([self._result(answer.parsed, answer.status, answer.headers)], answer.size)
        if not isinstance(answer.parsed, list):
            raise self._classify_batch_answer(answer.parsed, len(calls), answer.status, answer.headers)
        results = self._in_order(answer.parsed, first, len(calls))
        self._longest = max(self._longest, len(calls))
        return Results(results, answer.size)

    def _classify_batch_answer(
        self, entry: Any, count: int, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> RpcError:  # fmt: skip
        """Return the error for a single answer to a batch of `count` calls: nodes refuse batches in many ways."""
        if not isinstance(entry, dict) or entry.get("error") is None:
            return TransientRpcError(f"no list for a batch: {entry!r:.80}", self.name)
        error = self._error(entry["error"], status, headers)
        if isinstance(error, RpcCallError):
            about_batches = status not in _NOT_ABOUT_BATCHES
            if about_batches and count <= self._longest:
                self._longest = 0  # A single odd answer is retried; twice in a row, it is believed.
                return TransientRpcError(error.message)
        else:
            # "Internal error" is a refusal too, unless a batch this long was answered before: then it is transient.
            passes = isinstance(error, RateLimitedError) or status >= 500 or status == 408 or count <= self._longest
            about_batches = isinstance(error, TransientRpcError) and not passes
        return BatchUnsupportedError(error.message) if about_batches else error

    def _in_order(self, answer: list[Any], first: int, count: int) -> list[Any]:
        by_id: dict[int, Any] = {}
        for entry in answer:
            number = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(number, int):
                raise self._classify_batch_answer(entry, count)
            if number in by_id:
                raise InconsistentResponseError("duplicate answer in a batch", self.name)
            by_id[number] = entry
        missing = sum(i not in by_id for i in range(first, first + count))
        if missing:
            for entry in answer:
                self._result(entry)
            raise TransientRpcError(f"{missing} of {count} answers are missing from a batch", self.name)
        return [self._result(by_id[i]) for i in range(first, first + count)]

    async def _post(self, body: bytes) -> _Answer:
        session = self._session = self._session or self._open_session()
        if len(session.cookie_jar) > MAX_COOKIES:
            session.cookie_jar.clear()
        try:
            # Redirects are not followed: the request, and the key in the URL, are for this host only.
            async with session.post(self.url, data=body, headers=JSON, allow_redirects=False) as answer:
                text = await self._read(answer)
                status, headers = answer.status, answer.headers
        except TimeoutError as error:
            raise TransientRpcError(f"no answer within {self.timeout:g} seconds", self.name) from error
        except (aiohttp.ClientError, OSError) as error:
            detail = redact_text(" ".join(str(error).split())[:200], self.url)
            raise TransientRpcError(f"{error_label(error)}: {detail}", self.name) from None
        if status in _REDIRECTS:
            target = redact(headers.get("Location", ""))
            raise RpcCallError(f"redirects to {target}: use the URL that answers without a redirect", self.name, status)
        return self._answer(text, status, headers)

    def _answer(self, text: bytes, status: int, headers: Mapping[str, str]) -> _Answer:
        try:
            parsed = parse_json(text)
        except ValueError as error:
            if status == 200:
                raise TransientRpcError(f"the answer is not JSON, or is too large: {error!s:.80}", self.name) from error
            parsed = None
        if status != 200 and not (
            (isinstance(parsed, list) and status != 429) or (isinstance(parsed, dict) and parsed.get("error"))
        ):
            # Wrapped as a JSON-RPC error, so that callers handle a single shape.
            parsed = {"error": {"message": text[:2000].decode(errors="replace")}}
        return _Answer(parsed, status, headers, len(text))

    def _open_session(self) -> aiohttp.ClientSession:
        async def connected(*_: Any) -> None:
            self.connections += 1

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.timeout), trace_configs=[trace], read_bufsize=READ_AHEAD
        )

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part, _ in answer.content.iter_chunks():  # Chunks as they arrive: other methods copy them.
            size += len(part)
            if size > self.max_response:
                # Bounded, so that one response cannot exhaust the machine's memory.
                raise RangeTooLargeError(f"the answer exceeds {self.max_response} bytes", self.name, results=True)
            parts.append(part)
        return b"".join(parts)

    def _result(self, entry: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
        if not isinstance(entry, dict):
            raise TransientRpcError(f"an answer is not an object: {entry!r:.80}", self.name)
        error = entry.get("error")
        if error is not None:
            raise self._error(error, status, headers)
        if "result" not in entry:
            raise TransientRpcError("an answer has neither result nor error", self.name)
        return entry["result"]

    def _error(self, error: Any, status: int, headers: Mapping[str, str] | None) -> RpcError:
        if not isinstance(error, dict):
            return self._classified(0, str(error), status, headers)
        code, extra = error.get("code"), error.get("data")
        message = str(error.get("message", ""))
        if isinstance(extra, str) and not extra.startswith("0x"):
            message = f"{message}: {extra}"
        return self._classified(code if isinstance(code, int) else 0, message, status, headers, named_backoff(extra))

    def _classified(
        self, code: int, message: str, status: int, headers: Mapping[str, str] | None, backoff: float | None = None
    ) -> RpcError:
        redacted = redact_text(message, self.url)
        return classify(code, redacted, self.name, status, headers, now=time.time(), backoff=backoff)
