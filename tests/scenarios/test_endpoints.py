"""S3, S18, S19, S21 and S23: endpoints at their limits, in trouble, of another chain, or silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from indexer.db.connection import connect, connection
from indexer.errors import RangeTooLargeError
from indexer.follow import stall_detector, watchdog
from indexer.follow.endpoint_monitor import EndpointMonitor
from indexer.ops.http import application
from indexer.ops.live_status import LiveStatus
from indexer.rpc import head_feed, transport
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.health_check import HealthChecker
from indexer.runtime.tasks import background_task
from tests.scenarios.harness import CHAIN_ID, Daemon, Stage
from tests.support.daemon import wait_row
from tests.support.simchain.node import Fault, Say
from tests.support.simchain.refusals import Refusal
from tests.support.waiting import PATIENCE, eventually

# -- S3


async def test_s03_who_serves_a_lower_head_is_marked_and_the_other_one_serves(stage: Stage) -> None:
    """The endpoint in use falls 25 blocks behind: the look after the other one's head was seen goes there."""
    daemon, lagging = await stage.start(0, 1), stage.nodes[0]
    lagging.lag = 25
    tip = stage.grow(stage.main, 8)
    stage.nodes[1].head = tip.hash
    await daemon.poll(3)
    await stage.stands_at(stage.main)
    await HealthChecker(daemon.pool, lambda: daemon.runner.engine.final_ref).check_all()
    score = daemon.pool.readers[0].endpoint.health
    assert (score.state(daemon.pool.clock()), score.lag) == ("lagging", 33)
    await daemon.settle()
    await stage.untouched(tip)
    assert daemon.progress.regressions == 1
    lagging.lag, lagging.head = 0, tip.hash
    await HealthChecker(daemon.pool, lambda: daemon.runner.engine.final_ref).check_all()
    assert score.state(daemon.pool.clock()) == "well"


# -- S13


async def test_s13_what_a_replacement_waits_for_comes_from_an_endpoint_that_was_set_aside(stage: Stage) -> None:
    """The only one that serves the replacement had been blamed: it is asked last, not never."""
    daemon, node = await stage.start(0, 1), stage.nodes[0]
    b = stage.busy("b", 97, 6)
    node.pruned_below, node.pruned_mode = 1000, "error"
    daemon.pool.set_aside(stage.nodes[1].url, "left out a log", "omitting")
    stage.show(b)
    await daemon.settle()
    await stage.equals(b, [(97, 3)])
    assert daemon.pool.readers[0].endpoint.health.state(daemon.pool.clock()) == "pruned"


async def test_who_was_set_aside_for_a_lie_is_asked_last_after_a_restart_too(stage: Stage) -> None:
    """With its reason, for the time that was left; what a start looks at itself, and what is over, is not recalled."""
    before, (liar, other) = await stage.start(0, 1), stage.nodes
    before.pool.set_aside(liar.url, "left out log 3 of block 7", "omitting")
    before.pool.set_aside(other.url, "at block 1, another endpoint at 90", "lagging")
    await keeper(before, stage.url).save_once_more()
    await before.stop()

    async def restarted() -> tuple[Daemon, list[str]]:
        daemon = await stage.start(0, 1)
        await keeper(daemon, stage.url).restore()
        now = daemon.pool.clock()
        return daemon, [reader.endpoint.health.state(now) for reader in daemon.pool.readers]

    daemon, states = await restarted()
    score = daemon.pool.readers[0].endpoint.health
    assert score.aside is not None and states[0] == "omitting" and states[1] != "lagging"
    assert score.aside.detail == "left out log 3 of block 7" and 50 < daemon.pool.aside(liar.url) <= 60
    assert [reader.name for reader in daemon.pool.ordered()] == [other.url, liar.url]
    await keeper(daemon, stage.url).save()
    async with connection(stage.url) as conn:
        query = "UPDATE indexer.endpoint_score SET aside_until = now() WHERE endpoint = $1 RETURNING set_aside, state"
        assert [tuple(row) for row in await conn.fetch(query, liar.url)] == [(1, "omitting")]
    await daemon.stop()
    daemon, states = await restarted()
    assert "omitting" not in states and daemon.pool.aside(liar.url) == 0


def keeper(daemon: Daemon, url: str) -> EndpointMonitor:
    """As `run` makes it."""
    return EndpointMonitor(daemon.pool, HeadFeed([], 1), partial(connect, url), lambda: daemon.runner.engine.final_ref)


# -- S18


@pytest.mark.parametrize(("refusal", "final"), [("by words", True), ("by the size of the answer", False)])
async def test_s18_one_block_over_every_limit(
    refusal: str, final: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block holds more than any answer may: by address, then by receipts, it is whole in the end, once."""
    base = stage.at(stage.main, 60)
    huge = stage.chain(base, stage.filler(base, 12))
    tip = stage.grow(huge, 10)
    for node in stage.nodes:
        node.finalized = node.safe = tip.number if final else 60
        if refusal == "by words":
            node.max_logs = 5
    stage.show(tip)
    if refusal != "by words":
        size = len(json.dumps(huge.logs())) // 4
        monkeypatch.setattr(transport.HttpTransport, "_read", limited(size))
    await stage.start(0, 1)
    await stage.untouched(tip)


def limited(most: int) -> Any:
    """As HttpTransport._read, but no eth_getLogs may be longer; receipts may."""
    whole = transport.HttpTransport._read

    async def read(self: transport.HttpTransport, answer: Any) -> bytes:
        body = await whole(self, answer)
        if len(body) > most and b'"topics"' in body and b"cumulativeGasUsed" not in body:
            raise RangeTooLargeError(f"the answer exceeds {most} bytes", self.name, results=True)
        return body

    return read


# -- S19


NONSENSE: list[Fault] = [
    "html", "{}", "null", "no id", "shuffled", "short", "cut", "drop", "500", "429",
    Say(200, ""), Say(200, "null"), Say(200, "[]"), Say(200, "[" * 3000), Say(200, '{"jsonrpc":"2.0","id":0}'),
    Say(200, '[{"id":0,"result":{}},{"id":0,"result":{}}]'), Say(200, '{"error":"\x1b[2J\\u0000gone"}'),
    Say(503, "<html>", {"Retry-After": "0"}),
]  # fmt: skip


async def test_s19_nonsense_of_every_kind_between_the_answers(stage: Stage) -> None:
    """Each answer comes after one piece of nonsense; nothing is written that the chain does not have."""
    daemon, node = await stage.start(), stage.nodes[0]
    tip = stage.main
    for fault in NONSENSE:
        tip = stage.grow(tip, 2)
        stage.show(tip)
        node.fail_next = [fault]
        await daemon.settle()
        await stage.stands_at(tip)
    await stage.untouched(tip)


async def test_s19_a_storm_of_429_on_one_endpoint_is_left_for_the_other(stage: Stage) -> None:
    daemon = await stage.start(0, 1)
    tip = stage.grow(stage.main, 5)
    stage.show(tip)
    stage.nodes[0].fail_next = [Say(429, "Too Many Requests", {"Retry-After": "30"})] * 50
    await daemon.settle()
    await stage.untouched(tip)
    assert len(stage.nodes[0].fail_next) >= 48  # asked once or twice, then left in peace
    assert daemon.pool.current.name == stage.nodes[1].url
    assert daemon.pool.readers[0].endpoint.health.counts["limited"]


async def test_s19_an_endpoint_that_only_hangs_costs_its_time_out_once(stage: Stage) -> None:
    daemon = await stage.start(0, 1)
    daemon.pool.readers[0].endpoint.batches.timeout = 0.3
    tip = stage.grow(stage.main, 5)
    stage.show(tip)
    stage.nodes[0].fail_next = ["hang"] * 100
    await daemon.settle()
    asked, now = stage.nodes[0].http_requests, daemon.pool.clock()
    daemon.pool.clock = lambda: now  # a few seconds later it may be asked again
    for _ in range(5):
        tip = stage.grow(tip, 1)
        stage.show(tip)
        await daemon.settle()
    await stage.untouched(tip)
    assert stage.nodes[0].http_requests == asked


async def test_s19_words_of_a_node_reach_the_lease_s_state_without_what_postgresql_refuses(stage: Stage) -> None:
    """A zero byte in a refusal, quoted in the reason of a wait, once made every write of that reason fail."""
    daemon = await stage.start(0, 1)
    b = stage.busy("b", 97, 6)

    def refuse(method: str, params: list[Any]) -> None:
        if method == "eth_getLogs":
            raise Refusal(-32000, "no\x00logs\x1b[2J'; DROP TABLE indexer.lease; --")

    for node in stage.nodes:
        node.on_request = refuse
    stage.show(b)
    stage.nodes[1].head = stage.at(b, 99).hash  # both fork, neither serves
    for _ in range(3):
        await daemon.poll()
    assert "an endpoint" in daemon.progress.waiting and daemon.progress.waiting.isprintable()
    assert "database" not in daemon.progress.waiting
    for node in stage.nodes:
        node.on_request = None
    stage.show(b)
    await daemon.settle()
    await stage.equals(b, [(97, 3)])


# -- S21


async def test_s21_an_endpoint_of_another_chain_joins_after_the_start(stage: Stage) -> None:
    """It was down at the start, has a higher head, and other blocks at the same heights: nothing of it is read."""
    await stage.nodes[1].stop()
    daemon = await stage.start(0, 1)
    other = stage.fork("testnet", 30, 200)
    stage.nodes[1].chain_id, stage.nodes[1].head = 1, other.hash
    await stage.nodes[1].start()
    await HealthChecker(daemon.pool, lambda: daemon.runner.engine.final_ref).check_all()
    score = daemon.pool.readers[1].endpoint.health
    assert (score.state(daemon.pool.clock()), score.chain_id) == ("wrong chain", 1)
    stage.nodes[0].offline = True
    for _ in range(5):
        await daemon.poll()
        assert daemon.progress.waiting
    assert stage.nodes[1].requests["eth_getLogs"] == 0
    stage.nodes[0].offline = False
    await daemon.settle()
    await stage.untouched(stage.main)


async def test_s21_an_endpoint_that_turns_into_another_chain_behind_its_name(stage: Stage) -> None:
    """The same URL, another chain behind it after a restart, at the same height: found at the first connection."""
    daemon, node = await stage.start(), stage.nodes[0]
    read = node.requests["eth_getLogs"]
    await node.stop()
    node.chain_id, node.head = 1, stage.fork("testnet", 30, 80).hash
    await node.start()
    for _ in range(5):
        await daemon.poll()
        assert daemon.progress.waiting.startswith("an endpoint that answers: ")
    assert node.requests["eth_getLogs"] == read
    await stage.stands_at(stage.main)
    await node.stop()
    node.chain_id, node.head = CHAIN_ID, stage.main.hash
    await node.start()
    await daemon.settle()
    await stage.untouched(stage.main)


# -- S23


@asynccontextmanager
async def watched(daemon: Daemon, feed: HeadFeed) -> AsyncIterator[TestClient[Any, Any]]:
    """The daemon's own loop with its watchdog; a client of its HTTP port."""
    async with (
        TestClient(
            TestServer(application(LiveStatus(daemon.runner.deployment, daemon.progress, daemon.pool)))
        ) as client,
        background_task(daemon.runner.watchdog(feed).run()),
        background_task(daemon.runner.follow(feed)),
    ):
        yield client


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog's seconds shortened; that they are less than 60 is tested on a clock of its own."""
    monkeypatch.setattr(watchdog, "CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(head_feed, "RECONNECT_PAUSE_S", 0.05)


def once(daemon: Daemon, name: stall_detector.Name, seconds: float) -> Callable[[object], float]:
    """A limit that is short until this was found stuck once: what is well and only slow must not be found after it."""
    return lambda _: PATIENCE if daemon.progress.found_stuck[name] else seconds


async def until(client: TestClient[Any, Any], status: int, words: str = "") -> str:
    """Until /ready answers so; its body."""
    last = ""

    async def answered() -> bool:
        nonlocal last
        async with client.get("/ready") as answer:
            last = await answer.text()
            return answer.status == status and words in last

    await eventually(answered, lambda: f"/ready: {status} {words}; it says {last}")
    return last


async def stood(stage: Stage, number: int) -> None:
    await wait_row(stage.url, "SELECT FROM indexer.checkpoint WHERE number = $1", number)


async def test_s23_stuck_poll(stage: Stage, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node takes requests and never answers, with a time-out too long to wait for: the watchdog names it, /ready is
    503, and the other one serves, which is slow until that was seen."""
    daemon = await stage.start(0, 1)
    tip = stage.grow(stage.main, 5)
    for reader in daemon.pool.readers:
        reader.endpoint.batches.timeout = 10 * PATIENCE
    async with watched(daemon, HeadFeed([], 0.05)) as client:
        await until(client, 200)
        stage.nodes[0].fail_next = ["hang"] * 100
        stage.nodes[1].gate = asyncio.Event()
        monkeypatch.setattr(stall_detector.StallDetector, "limit", property(once(daemon, "poll", 1.0)))
        stage.show(tip)
        body = await until(client, 503, "poll")
        assert f"{stage.nodes[0].url} has not answered eth_getBlockByNumber" in body
        stage.nodes[1].gate.set()
        await stood(stage, tip.number)
        await until(client, 200)
        assert daemon.progress.found_stuck["poll"] == 1
        assert daemon.pool.current.name == stage.nodes[1].url
    await stage.untouched(tip)


async def test_s23_mute_websocket(stage: Stage, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket stays open and says nothing while the head moves: named, /ready is 503, the socket is opened anew at the
    next endpoint, and what it would have announced was polled meanwhile."""
    daemon, mute, other = await stage.start(0, 1), *stage.nodes
    feed = HeadFeed([mute.ws_url, other.ws_url], 0.05, PATIENCE, chain_id=CHAIN_ID)
    feed.start()
    async with watched(daemon, feed) as client:
        await mute.subscribed()
        await until(client, 200)
        mute.mute = other.mute = True
        monkeypatch.setattr(HeadFeed, "mute_after", property(once(daemon, "websocket", 0.5)), raising=False)
        growing = asyncio.create_task(grow(stage))
        body = await until(client, 503, "websocket")
        assert mute.ws_url.rsplit("/", 1)[0] in body
        other.mute = False
        await other.subscribed()
        await until(client, 200)
        await eventually(lambda: feed.state == "websocket", "a socket that speaks")
        assert daemon.progress.found_stuck["websocket"] == 1
        growing.cancel()
        await asyncio.gather(growing, return_exceptions=True)
        await stood(stage, mute.top.number)
    await feed.close()
    assert not daemon.errors


async def grow(stage: Stage) -> None:
    """Ten blocks a second, until it is cancelled."""
    tip = stage.main
    while True:
        tip = stage.grow(tip, 1)
        stage.show(tip)
        await asyncio.sleep(0.1)
