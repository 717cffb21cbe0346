"""The status page in a browser: what it shows, on a screen and on a phone; nothing of the chain becomes markup."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from indexer import config
from indexer.ops import http
from indexer.ops.live_status import LiveStatus
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from tests.ops.chromium import Tab, chromium
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import Daemon, wait_synced

pytestmark = pytest.mark.ops
EVIL = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
ADDRESS = "0x" + "ab" * 20


def document() -> dict[str, Any]:
    """A status with something of everything; what the chain or a node words is hostile."""
    incident: dict[str, Any] = {
        "id": 7, "kind": "unknown_topic", "subject": f"{ADDRESS} {EVIL}", "detail": EVIL, "count": 3, "first_block": 5,
        "last_block": 9, "opened_at": "2026-01-01T00:00:00+00:00", "resolved_at": None,
    }  # fmt: skip
    reorg = {"id": 1, "at": "2026-01-01T00:00:00+00:00", "depth": 3, "fork_point": 880, "endpoint": EVIL, "cause": EVIL}
    upgrade: dict[str, Any] = {
        "contract": "core", "address": ADDRESS, "implementation": EVIL, "count": 2, "block_number": 70, "block_time": 9,
    }  # fmt: skip
    covered = [[0, 399], [450, 999]]
    return {
        "chain": "devnet", "bound": True, "head": 1_000, "safe": 990, "finalized": 980, "origin": 0, "ingested": 399,
        "projected": 399, "attested": {
            "cross-checked": {"up_to": 300, "newest": [600, 650], "blocks": 351},
            "proven": {"up_to": 200, "newest": [200, 200], "blocks": 201},
        }, "epoch": 4, "reorgs": 1, "last_reorgs": [reorg], "projector": EVIL,
        "coverage": [{"contract": EVIL, "address": ADDRESS, "covered": covered, "gaps": [[400, 449], [1_000, 1_000]]}],
        "rows": {EVIL: {"rows": 12_345, "estimated": True}}, "upgrades": [upgrade], "undecoded_logs": {EVIL: 2},
        "incidents_open": {EVIL: 1, "unknown_topic": 1}, "incidents": [incident], "as_of": time.time(),
    }  # fmt: skip


class Served:
    def __init__(self, live: LiveStatus, url: str, runner: web.AppRunner) -> None:
        self.live, self.url, self.runner = live, url, runner


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    progress = DaemonProgress(head=1_000, safe=990, finalized=980, projected=399, holder=True)
    progress.head_time, progress.projected_time = 5_000, 4_000
    progress.set_wait("")
    progress.mode = "following"
    live = LiveStatus(config.load("devnet"), progress, Pool(("http://one.example/KEY", "http://two.example"), 1))
    live.stored |= document()
    runner = await http.serve("127.0.0.1", 0, live)
    live.start()
    try:
        yield Served(live, f"http://127.0.0.1:{runner.addresses[0][1]}/", runner)
    finally:
        await live.close()
        await runner.cleanup()


async def opened(tab: Tab, url: str) -> None:
    await tab.open(url)
    await tab.until("document.readyState === 'complete' && document.getElementById('ready').textContent !== 'loading'")


WORDS = (
    "601 blocks", "not ready", "catching up: 601 blocks", "cross-checked up to 300", "proven up to 200",
    "gap 400 to 449", "1 gap", "3 blocks",
    "http://one.example/…", "in use", "in reserve", "unknown_topic", "core",
)  # fmt: skip


async def test_it_shows_where_it_stands_and_runs_nothing_of_the_chain(tmp_path: Path) -> None:
    async with served() as page, chromium() as tab:
        await tab.shape(1280, 900)
        await opened(tab, page.url)
        shown = await tab.value("document.body.innerText")
        for words in WORDS:
            assert words in shown, words
        assert EVIL in shown, "what the chain says is shown, as text"
        assert await tab.value("document.images.length") == 0 and await tab.value("window.pwned") is None
        assert await tab.value("document.scripts.length") == 1
        for kind, count in (("gap", 1), ("checked", 2), ("proven", 2), ("projected", 1), ("none", 1)):
            assert await tab.value(f"document.querySelectorAll('#bar rect.c-{kind}').length") == count, kind
        assert all(url.startswith((page.url, "data:")) for url in tab.requested), tab.requested
        assert tab.problems == []
        assert len(await tab.screenshot(tmp_path / "page.png")) > 30_000


async def test_it_is_live_and_says_when_nobody_answers(tmp_path: Path) -> None:
    async with served() as page, chromium() as tab:
        await opened(tab, page.url)
        progress = page.live.progress
        progress.projected, progress.projected_time = 1_000, 5_000
        await tab.until("document.getElementById('ready').textContent === 'ready'")
        assert await tab.value("document.getElementById('trouble').hidden")
        progress.mode = "halted"
        progress.set_wait("halted: a person must decide")
        await tab.until("document.getElementById('trouble').innerText.includes('a person must decide')")
        page.live.pool.set_aside("http://two.example", "alone")
        await tab.until("document.getElementById('endpoints').innerText.includes('set aside')")
        await page.runner.cleanup()
        await tab.until("document.getElementById('ready').textContent === 'no answer'")
        assert "1,000 blocks" not in await tab.value("document.title")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_readable_on_a_phone(scheme: str, tmp_path: Path) -> None:
    async with served() as page, chromium() as tab:
        await tab.shape(360, 740, scheme)
        await opened(tab, page.url)
        assert await tab.value("document.documentElement.scrollWidth") <= 360, "nothing to scroll sideways"
        background = await tab.value("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, background[4:-1].split(","))) > 384
        assert light is (scheme == "light")
        sizes = (
            "[...document.querySelectorAll('main *')].filter(e => e.innerText).map(e => getComputedStyle(e).fontSize)"
        )
        smallest = f"Math.min(...{sizes}.map(parseFloat))"
        assert await tab.value(smallest) >= 12
        assert len(await tab.screenshot(tmp_path / f"phone-{scheme}.png")) > 20_000


async def test_a_real_daemon_shows_the_head_as_it_moves(tmp_path: Path, fresh_database: Callable[[], str]) -> None:
    url, port = fresh_database(), free_port()
    with AnvilNode() as node:
        driver = Driver(node, seed=11)
        driver.install()
        driver.play(20)
        daemon = Daemon(["--rpc-url", node.url, "--http-port", str(port)], {"DATABASE_URL": url}, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            async with chromium() as tab:
                await opened(tab, f"http://127.0.0.1:{port}/")
                await tab.until(f"document.getElementById('projected').textContent === '{node.head()[0]}'")
                driver.play(3)
                await tab.until(f"document.getElementById('projected').textContent === '{node.head()[0]}'")
                await tab.until("document.getElementById('ready').textContent === 'ready'")
                assert tab.problems == []
        finally:
            assert daemon.terminate()[0] == 0
