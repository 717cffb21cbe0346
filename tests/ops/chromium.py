"""A headless Chromium of Debian's, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.ops.conftest import program
from tests.support.waiting import PATIENCE, eventually

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip


class Tab:
    """One page. `problems`: errors of the console and of the log, violations of the policy among them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self.requested: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            params = told.get("params", {})
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                self.problems.append(params["entry"]["text"])
            elif told["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            elif told["method"] == "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        told = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def shape(self, width: int, height: int, scheme: str = "light") -> None:
        """The window, in CSS pixels; below 500 a phone's."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What JavaScript says, as JSON."""
        told = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Waits for a true value."""
        says = ""

        async def value() -> Any:
            nonlocal says
            try:
                says = await self.value("document.body.innerText")
                return await self.value(expression)
            except AssertionError as error:  # a page that is still loading has no body, and none of its elements
                says = str(error)
                return None

        return await eventually(value, lambda: f"{expression}; the page says {says}")

    async def screenshot(self, path: Path) -> bytes:
        told = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        png = base64.b64decode(told["data"])
        path.write_bytes(png)
        return png


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = await asyncio.create_subprocess_exec(
            program("chromium"), f"--user-data-dir={profile}", *FLAGS,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session:
                at = await _debugging(Path(profile), browser)
                (page,) = await eventually(lambda: _pages(session, at), "a page of Chromium")
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=1 << 26) as socket:
                    tab = Tab(socket)
                    listening = asyncio.create_task(tab.listen())
                    yield tab
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                browser.terminate()
            await browser.wait()


async def _pages(session: aiohttp.ClientSession, at: str) -> list[dict[str, Any]]:
    """The open pages; none for a moment after the start."""
    async with session.get(f"http://{at}/json/list") as answer:
        return [target for target in await answer.json() if target["type"] == "page"]


async def _debugging(profile: Path, browser: asyncio.subprocess.Process) -> str:
    """host:port, which Chromium writes into its profile."""

    def told() -> str:
        assert browser.returncode is None, f"chromium ended with {browser.returncode}"
        with contextlib.suppress(OSError):
            port, *rest = (profile / "DevToolsActivePort").read_text().splitlines() or [""]  # empty for a moment
            if rest:
                return f"127.0.0.1:{port}"
        return ""

    return await eventually(told, "a chromium that listens")
