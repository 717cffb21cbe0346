"""When to look at the head: a WebSocket's newHeads only wakes, polling is what is relied upon.

A socket may go mute without closing; then polling at the configured interval goes on until it speaks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal

import aiohttp
import orjson
import structlog

from indexer.config import redact
from indexer.rpc.transport import scrub

log = structlog.get_logger()
Woken = Literal["notified", "polled", "stopped"]
RELAXED = 5.0  # times the poll interval: how often is looked while a socket speaks
RECONNECT_AFTER = 0.5  # seconds; doubled, up to 30, while a socket says nothing


class HeadFeed:
    """`poll_interval` and `mute_after` in seconds. Never raises: no socket means polling."""

    def __init__(
        self, urls: Sequence[str], poll_interval: float, mute_after: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.urls, self.poll_interval, self.mute_after, self.clock = tuple(urls), poll_interval, mute_after, clock
        self._woken = asyncio.Event()
        self._spoke_at: float | None = None
        self._moved_at: float | None = None
        self._head = -1
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """websocket, polling, or polling because the socket is mute."""
        if not self.urls:
            return "polling"
        return "websocket" if self._alive() else "polling: the WebSocket is closed or mute"

    def _alive(self) -> bool:
        """The socket announced a head since, or shortly before, polling last saw the head move."""
        if self._spoke_at is None:
            return False
        return self._moved_at is None or self._moved_at - self._spoke_at < self.mute_after

    def start(self) -> None:
        if self.urls:
            self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def saw_head(self, number: int) -> None:
        """Tells what polling saw, so that a mute socket is noticed."""
        if number > self._head:
            self._head, self._moved_at = number, self.clock()

    async def wait(self, stop: asyncio.Event) -> Woken:
        """Until a head is announced, the interval is over, or `stop` is set."""
        pause = self.poll_interval * (RELAXED if self._alive() else 1)
        waits = {asyncio.create_task(self._woken.wait()), asyncio.create_task(stop.wait())}
        try:
            await asyncio.wait(waits, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if stop.is_set():
            return "stopped"
        notified = self._woken.is_set()
        self._woken.clear()
        return "notified" if notified else "polled"

    async def _listen(self) -> None:
        pause, turn = RECONNECT_AFTER, 0
        async with aiohttp.ClientSession() as session:
            while True:
                url = self.urls[turn % len(self.urls)]
                turn += 1
                try:
                    await self._subscribe(session, url)
                    reason = "closed by the node"
                except Exception as error:  # whatever a socket does, polling goes on
                    reason = scrub(" ".join(f"{type(error).__name__}: {error}".split())[:200], url)
                log.info("websocket_lost", endpoint=redact(url), error=reason)
                if self._spoke_at is not None:
                    pause = RECONNECT_AFTER
                self._spoke_at = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30.0)

    async def _subscribe(self, session: aiohttp.ClientSession, url: str) -> None:
        async with session.ws_connect(url, heartbeat=20, max_msg_size=2**20) as socket:
            await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
            while True:
                message = await socket.receive(timeout=self.mute_after * 6)
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return
                told = orjson.loads(message.data)
                if isinstance(told, dict) and told.get("error"):
                    raise ValueError(f"eth_subscribe refused: {str(told['error'])[:100]}")
                if isinstance(told, dict) and told.get("method") == "eth_subscription":
                    self._spoke_at = self.clock()
                    self._woken.set()
