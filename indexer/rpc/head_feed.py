"""When to look at the head: a WebSocket's newHeads only wakes the caller early; polling is what is relied upon.

A socket may go mute without closing. Polling at the configured interval then continues, and the socket is reopened, at
the next endpoint if there are several.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import aiohttp
import orjson
import structlog

from indexer.errors import error_label, printable
from indexer.rpc.answers import integer, redact_text
from indexer.rpc.health import FAILING_S, EndpointHealth
from indexer.rpc.pool import display_names
from indexer.rpc.proxy import proxy_of
from indexer.runtime.secrets import current

log = structlog.get_logger()
Woken = Literal["notified", "polled", "stopped"]
RELAXED_POLL_S = 5.0  # Factor on the poll interval while a socket announces heads.
RECONNECT_PAUSE_S = 0.5  # Doubled, up to 30, while sockets announce nothing.
HANDSHAKE_TIMEOUT_S = 10.0  # Limit for opening a socket and subscribing.
MUTE_AFTER_S = 45.0  # A socket mute for longer is no longer news: polling has taken over.
MIN_PAUSE_S = 0.05  # Between wakes (or a tenth of the poll interval), however many heads are announced.


class HeadFeed:
    """Wakes its caller when there may be a new head. Never raises: without a socket it polls.

    Args:
        urls: WebSocket URLs; none means polling only.
        poll_interval: time between polls (s).
        mute_after: a socket that announces no head for this long while the head moves is mute (s).
        clock: monotonic clock (s).
        chain_id: a socket that serves another chain is dropped; None: not checked.
    """

    def __init__(
        self, urls: Sequence[str], poll_interval: float, mute_after: float = 10.0,
        clock: Callable[[], float] = time.monotonic, chain_id: int | None = None,
    ) -> None:  # fmt: skip
        self.urls, self.poll_interval, self.mute_after, self.clock = tuple(urls), poll_interval, mute_after, clock
        self.chain_id = chain_id
        self.names = display_names(self.urls)
        self.scores = {name: EndpointHealth() for name in self.names}
        self._connected = ""  # Endpoint whose socket is open.
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._unannounced: float | None = None  # When polling saw a head the open socket did not announce.
        self._mute: tuple[str, float] | None = None  # Endpoint whose socket was found mute, and when.
        self._waited_at = float("-inf")
        self._woken = asyncio.Event()
        self._spoke_at: float | None = None
        self._moved_at: float | None = None
        self._head = -1
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """The source of wakes: websocket, polling, or polling because the socket is closed or mute."""
        if not self.urls:
            return "polling"
        return "websocket" if self._alive() else "polling: the WebSocket is closed or mute"

    def _alive(self) -> bool:
        """Return whether the socket announced a head since, or shortly before, polling last saw the head move."""
        if self._spoke_at is None:
            return False
        return self._moved_at is None or self._moved_at - self._spoke_at < self.mute_after

    def start(self) -> None:
        """Start listening in a background task."""
        if self.urls:
            self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def observe_polled_head(self, number: int) -> None:
        """Take the head that polling saw, so that a mute socket is noticed."""
        if number > self._head:
            self._head, self._moved_at = number, self.clock()
            # An announcement shortly before was of this head: on a chain of slow blocks the next one is far away.
            silent = self._spoke_at is None or self._moved_at - self._spoke_at > self.mute_after
            if self._connected and self._unannounced is None and silent:
                self._unannounced = self._moved_at

    @property
    def mute(self) -> str:
        """The endpoint whose socket is mute, until a socket speaks again or polling has long taken over; "" if none."""
        if self._mute is not None and self.clock() - self._mute[1] > MUTE_AFTER_S:
            self._mute = None
        return self._mute[0] if self._mute else ""

    async def check_mute(self) -> None:
        """Close a socket that is mute although the head moves, so that the next one is opened."""
        now = self.clock()
        if not self._connected or self._unannounced is None or now - self._unannounced <= self.mute_after:
            return
        name, socket = self._connected, self._socket
        self._unannounced, self._mute = None, (name, now)
        why = f"no head announced for {self.mute_after:g} s while it moved"
        self.scores[name].set_aside(now, "mute", why, MUTE_AFTER_S)
        log.warning("websocket_mute", endpoint=name, seconds=self.mute_after)
        if socket is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await socket.close()

    def wake(self) -> None:
        """End the current or the next wait at once, as an announced head does."""
        self._woken.set()

    async def wait(self, stop: asyncio.Event) -> Woken:
        """Wait until a head is announced, the interval is over, or `stop` is set."""
        min_pause = min(MIN_PAUSE_S, self.poll_interval / 10) - (self.clock() - self._waited_at)
        if min_pause > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min_pause)
        pause = self.poll_interval * (RELAXED_POLL_S if self._alive() else 1)
        waits = {asyncio.create_task(self._woken.wait()), asyncio.create_task(stop.wait())}
        try:
            await asyncio.wait(waits, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._waited_at = self.clock()
        if stop.is_set():
            return "stopped"
        notified = self._woken.is_set()
        self._woken.clear()
        return "notified" if notified else "polled"

    async def _listen(self) -> None:
        pause, turn = RECONNECT_PAUSE_S, 0
        async with aiohttp.ClientSession() as session:
            while True:
                url, name = current(self.urls[turn % len(self.urls)]), self.names[turn % len(self.urls)]
                turn += 1
                try:
                    await self._subscribe(session, url, name)
                    reason = "closed"
                except Exception as error:  # Whatever a socket does, polling continues.
                    reason = printable(redact_text(" ".join(f"{error_label(error)}: {error}".split())[:200], url))
                self._connected, self._socket, self._unannounced = "", None, None
                score, now = self.scores[name], self.clock()
                score.failed(now, reason)
                score.set_aside(now, "failing", reason, FAILING_S + pause)
                log.info("websocket_lost", endpoint=name, error=reason)
                if self._spoke_at is not None:
                    pause = RECONNECT_PAUSE_S
                self._spoke_at = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30.0)

    async def _subscribe(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        proxy = proxy_of(url)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            socket = await session.ws_connect(
                url, heartbeat=20, max_msg_size=2**20, proxy=proxy.url, proxy_headers=proxy.headers
            )
        async with socket:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                if self.chain_id is not None:
                    await socket.send_json({"jsonrpc": "2.0", "id": 0, "method": "eth_chainId", "params": []})
                await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
            self._connected, self._socket = name, socket
            while True:
                message = await socket.receive(timeout=self.mute_after * 6)
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return
                self._handle_message(orjson.loads(message.data), name)

    def _handle_message(self, message: Any, name: str) -> None:
        """Handle one message. Raises ValueError for one that ends the subscription."""
        if not isinstance(message, dict):
            return
        about_chain = self.chain_id is not None and str(message.get("id")) == "0"
        if message.get("error"):
            # A socket that serves subscriptions only is used all the same: it brings no data.
            if not about_chain:
                raise ValueError(f"eth_subscribe refused: {str(message['error'])[:100]}")
        elif about_chain:
            if integer(message.get("result")) != self.chain_id:
                raise ValueError(f"serves chain {message.get('result')!r:.20}, the deployment is chain {self.chain_id}")
        elif message.get("method") == "eth_subscription":
            self._spoke_at = now = self.clock()
            self._unannounced = self._mute = None
            self.scores[name].answered(now, 0.0)
            self.scores[name].clear_set_aside(now, "failing", "mute")
            self._woken.set()
