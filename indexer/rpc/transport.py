"""The way of requests and answers between this program and one endpoint: `Transport`, and HTTP as the one there is.

A transport moves bytes. What they mean, how long to wait for them and whether to send them again is decided above it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import aiohttp

from indexer.errors import RangeTooLargeError, RpcCallError, TransientRpcError, error_label
from indexer.rpc.answers import HttpAnswer, redact_text
from indexer.rpc.proxy import proxy_of
from indexer.runtime.secrets import current, redact

READ_AHEAD = 1 << 19  # Bytes of a response that the socket may buffer ahead of the reader.
MAX_COOKIES = 32  # Load balancers pin a client to a backend by cookies; a hostile one must not fill the memory.
JSON = {"Content-Type": "application/json"}
_REDIRECTS = (301, 302, 303, 307, 308)
_KEY_REFUSED = (401, 403)


class Transport(Protocol):
    """Sends the requests of one endpoint. A test that replaces it replaces the network.

    `url`: URL in use, which may contain secrets. `connections`: opened so far; a new one may lead to another machine.
    """

    url: str
    connections: int

    async def post(self, body: bytes) -> HttpAnswer:
        """Send one JSON-RPC request and return the answer. Raises RpcError; a caller that waits no longer cancels."""

    async def close(self) -> None:
        """Close the connections; the next request opens them again."""


# From the URL of an endpoint, its display name without secrets, and the maximum size of a response (bytes).
TransportFactory = Callable[[str, str, int], Transport]


class HttpTransport:
    """Posts to one URL.

    Args:
        url: URL, which may contain secrets.
        name: display name without secrets.
        max_response: maximum size of a response (bytes).
    """

    def __init__(self, url: str, name: str, max_response: int) -> None:
        self.url, self.name, self.max_response = url, name, max_response
        self.connections = 0
        self._proxy, self._key_refused = proxy_of(url), False
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; the next request opens them again."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, body: bytes) -> HttpAnswer:
        """Send one JSON-RPC request and return the answer. Raises RpcError."""
        if self._key_refused:  # It may have been rotated in its file since.
            self.url, self._key_refused = current(self.url), False
        session = self._session = self._session or self._open_session()
        if len(session.cookie_jar) > MAX_COOKIES:
            session.cookie_jar.clear()
        try:
            # Redirects are not followed: the request, and the key in the URL, are for this host only.
            async with session.post(
                self.url, data=body, headers=JSON, allow_redirects=False, proxy_headers=self._proxy.headers
            ) as response:
                answer = HttpAnswer(await self._read(response), response.status, response.headers)
        except TimeoutError:  # The system's own: it is told like the caller's.
            raise
        except (aiohttp.ClientError, OSError) as error:
            detail = redact_text(" ".join(str(error).split())[:200], self.url)
            raise TransientRpcError(f"{error_label(error)}: {detail}", self.name) from None
        self._key_refused = answer.status in _KEY_REFUSED
        if answer.status in _REDIRECTS:
            target = redact(answer.headers.get("Location", ""))
            raise RpcCallError(
                f"redirects to {target}: use the URL that answers without a redirect", self.name, answer.status
            )
        return answer

    def _open_session(self) -> aiohttp.ClientSession:
        async def connected(*_: Any) -> None:
            self.connections += 1

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        return aiohttp.ClientSession(
            # The endpoint limits the time of a request, whatever the transport.
            timeout=aiohttp.ClientTimeout(total=None), trace_configs=[trace], read_bufsize=READ_AHEAD,
            proxy=self._proxy.url,
        )  # fmt: skip

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part, _ in response.content.iter_chunks():  # Chunks as they arrive: other methods copy them.
            size += len(part)
            if size > self.max_response:
                # Bounded, so that one response cannot exhaust the machine's memory.
                raise RangeTooLargeError(f"the answer exceeds {self.max_response} bytes", self.name, results=True)
            parts.append(part)
        return b"".join(parts)
