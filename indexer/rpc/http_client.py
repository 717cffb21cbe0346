"""HTTP to one endpoint: a connection, a POST, a bounded answer as JSON. Raises RpcError and its subclasses only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from tenacity import RetryCallState
from tenacity.stop import stop_base

from indexer.errors import RangeTooLargeError, RateLimitedError, RpcCallError, TransientRpcError, error_label
from indexer.rpc.answers import redact_text
from indexer.rpc.proxy import proxy_of
from indexer.rpc.wire import parse_json
from indexer.runtime.secrets import current, redact

READ_AHEAD = 1 << 19  # Bytes of a response that the socket may buffer ahead of the reader.
MAX_COOKIES = 32  # Load balancers pin a client to a backend by cookies; a hostile one must not fill the memory.
MAX_WAIT_S = 5.0  # If a node asks for a longer wait, the call is left to other endpoints.
JSON = {"Content-Type": "application/json"}
_REDIRECTS = (301, 302, 303, 307, 308)
_KEY_REFUSED = (401, 403)


class StopAfterTimeout(stop_base):
    """Stop retrying after `timeout` (s), not counting time `queued`, or if the node asks for more than MAX_WAIT_S."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.queued = timeout, 0.0

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, RateLimitedError) and (error.retry_after or 0.0) > MAX_WAIT_S:
            return True
        return (retry_state.seconds_since_start or 0.0) - self.queued >= self.timeout


class HttpAnswer(NamedTuple):
    """The `parsed` JSON of an HTTP response. If `status` is not 200, it is a list, or an object with an error."""

    parsed: Any
    status: int
    headers: Mapping[str, str]
    size: int  # Bytes.


class HttpClient:
    """Posts JSON to one URL.

    Args:
        url: URL, which may contain secrets.
        name: display name without secrets.
        timeout: limit of one request (s).
        max_response: maximum size of a response (bytes).
    """

    def __init__(self, url: str, name: str, timeout: float, max_response: int) -> None:
        self.url, self.name, self.timeout, self.max_response = url, name, timeout, max_response
        self.proxy, self._key_refused = proxy_of(url), False
        self.connections = 0  # Opened so far; a new one may lead to another machine.
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, body: bytes) -> HttpAnswer:
        if self._key_refused:  # It may have been rotated in its file since.
            self.url, self._key_refused = current(self.url), False
        session = self._session = self._session or self._open_session()
        if len(session.cookie_jar) > MAX_COOKIES:
            session.cookie_jar.clear()
        try:
            # Redirects are not followed: the request, and the key in the URL, are for this host only.
            async with session.post(
                self.url, data=body, headers=JSON, allow_redirects=False, proxy_headers=self.proxy.headers
            ) as answer:
                text = await self._read(answer)
                status, headers = answer.status, answer.headers
        except TimeoutError as error:
            raise TransientRpcError(f"no answer within {self.timeout:g} seconds", self.name) from error
        except (aiohttp.ClientError, OSError) as error:
            detail = redact_text(" ".join(str(error).split())[:200], self.url)
            raise TransientRpcError(f"{error_label(error)}: {detail}", self.name) from None
        self._key_refused = status in _KEY_REFUSED
        if status in _REDIRECTS:
            target = redact(headers.get("Location", ""))
            raise RpcCallError(f"redirects to {target}: use the URL that answers without a redirect", self.name, status)
        return self._answer(text, status, headers)

    def _answer(self, text: bytes, status: int, headers: Mapping[str, str]) -> HttpAnswer:
        try:
            parsed = parse_json(text)
        except ValueError as error:
            if status == 200:
                raise TransientRpcError(f"the answer is not JSON, or is too large: {error!s:.80}", self.name) from error
            parsed = None
        if status != 200 and not (
            (isinstance(parsed, list) and parsed) or (isinstance(parsed, dict) and parsed.get("error"))
        ):
            # Wrapped as a JSON-RPC error, so that callers handle a single shape.
            parsed = {"error": {"message": text[:2000].decode(errors="replace")}}
        return HttpAnswer(parsed, status, headers, len(text))

    def _open_session(self) -> aiohttp.ClientSession:
        async def connected(*_: Any) -> None:
            self.connections += 1

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.timeout), trace_configs=[trace], read_bufsize=READ_AHEAD,
            proxy=self.proxy.url,
        )  # fmt: skip

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
