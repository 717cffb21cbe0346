"""A socket only wakes; polling is what is relied upon, and the state says which it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from indexer.rpc import head_feed
from indexer.rpc.head_feed import HeadFeed
from tests.support.stubnode import StubNode
from tests.support.waiting import PATIENCE, eventually, guard

INTERVAL = 0.05
NEVER = 10 * PATIENCE  # seconds: whoever waits for the next look fails first
POLLING = "polling: the WebSocket is closed or mute"


@pytest.fixture(autouse=True)
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_feed, "RECONNECT_PAUSE_S", 0.02)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long each wait for a head was meant to be at most, seconds."""
    meant, wait = list[float](), asyncio.wait

    async def noted(tasks: Any, *, timeout: float | None = None, return_when: str = asyncio.ALL_COMPLETED) -> Any:
        if timeout is not None:
            meant.append(timeout)
        return await wait(tasks, timeout=timeout, return_when=return_when)

    monkeypatch.setattr(asyncio, "wait", noted)
    return meant


@asynccontextmanager
async def following(
    node: StubNode, interval: float = INTERVAL, mute_after: float = NEVER, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[HeadFeed]:
    before = asyncio.all_tasks()
    feed = HeadFeed([node.ws_url], interval, mute_after, clock)
    feed.start()
    try:
        yield feed
    finally:
        await feed.close()
        assert not [t for t in asyncio.all_tasks() - before if "HeadFeed" in repr(t)]


async def test_without_a_socket_the_interval_is_kept(pauses: list[float]) -> None:
    feed, stop = HeadFeed([], INTERVAL), asyncio.Event()
    feed.start()
    started = time.monotonic()
    assert await feed.wait(stop) == "polled"
    assert time.monotonic() - started >= INTERVAL * 0.9 and pauses == [INTERVAL]
    assert feed.state == "polling"
    await feed.close()


async def test_a_stop_ends_the_wait_at_once() -> None:
    feed, stop = HeadFeed([], NEVER), asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, stop.set)
    async with guard("the stop"):
        assert await feed.wait(stop) == "stopped"
        assert await feed.wait(stop) == "stopped"


async def test_an_announced_head_wakes_at_once() -> None:
    async with StubNode() as node, following(node, NEVER) as feed, guard("the announced head"):
        await node.subscribed()
        waiting = asyncio.create_task(feed.wait(asyncio.Event()))
        await asyncio.sleep(0.02)
        await node.mine()
        assert await waiting == "notified"
        assert feed.state == "websocket"


async def test_a_head_announced_between_two_waits_is_not_missed() -> None:
    async with StubNode() as node, following(node, NEVER) as feed, guard("the announced head"):
        await node.subscribed()
        await node.mine(3)
        await asyncio.sleep(0.05)
        assert await feed.wait(asyncio.Event()) == "notified"


async def test_the_answer_to_the_subscription_is_no_head() -> None:
    async with StubNode() as node, following(node) as feed:
        await node.subscribed()
        assert await feed.wait(asyncio.Event()) == "polled"
        assert feed.state == POLLING


async def test_while_the_socket_speaks_it_is_looked_less_often(pauses: list[float]) -> None:
    async with StubNode() as node, following(node) as feed, guard("the announced head"):
        await node.subscribed()
        await node.mine()
        await eventually(lambda: feed.state == "websocket", "the announced head")
        assert await feed.wait(asyncio.Event()) == "notified"
        feed.observe_polled_head(1)
        assert await feed.wait(asyncio.Event()) == "polled"
        assert pauses[-1] == INTERVAL * head_feed.RELAXED_POLL_S


async def test_a_mute_socket_is_noticed_and_polling_takes_over_until_it_speaks_again(pauses: list[float]) -> None:
    now = 0.0
    async with (
        StubNode() as node, following(node, mute_after=NEVER, clock=lambda: now) as feed, guard("the announced head")
    ):  # fmt: skip
        stop = asyncio.Event()
        await node.subscribed()
        await node.mine()
        await eventually(lambda: feed.state == "websocket", "the announced head")
        assert await feed.wait(stop) == "notified"
        feed.observe_polled_head(node.length)
        assert feed.state == "websocket"
        node.mute, now = True, NEVER
        await node.mine()
        feed.observe_polled_head(node.length)
        assert feed.state == POLLING
        assert await feed.wait(stop) == "polled" and pauses[-1] == INTERVAL
        node.mute = False
        await node.mine()
        await eventually(lambda: feed.state == "websocket", "the announced head")
        assert await feed.wait(stop) == "notified"


def test_a_silent_chain_does_not_make_a_socket_mute() -> None:
    now = 0.0
    feed = HeadFeed(["ws://x"], 1, 10, clock=lambda: now)
    feed._spoke_at = 0.0
    feed.observe_polled_head(7)
    now = 5000.0
    feed.observe_polled_head(7)
    assert feed.state == "websocket"
    feed.observe_polled_head(8)
    assert feed.state == POLLING


async def test_a_socket_that_stays_silent_is_opened_anew() -> None:
    async with StubNode() as node, following(node, mute_after=0.02):
        await eventually(lambda: node.connections >= 2, "a second socket")


async def test_a_closed_socket_is_opened_again() -> None:
    async with StubNode() as node, following(node, NEVER) as feed, guard("an announced head"):
        stop = asyncio.Event()
        for turn in range(3):
            await node.subscribed()
            await node.mine()
            assert await feed.wait(stop) == "notified"
            assert node.connections == turn + 1
            await node.drop_sockets()
        await node.subscribed()
        assert feed.state == POLLING


async def test_a_node_that_restarts_is_found_again() -> None:
    async with StubNode() as node, following(node, NEVER) as feed, guard("an announced head"):
        await node.subscribed()
        await node.mine()
        assert await feed.wait(asyncio.Event()) == "notified"
        assert feed.state == "websocket"
        await node.stop()
        await eventually(lambda: feed.state == POLLING, POLLING)
        await node.start()
        await node.subscribed()
        await node.mine()
        assert await feed.wait(asyncio.Event()) == "notified"


async def test_sockets_that_say_nothing_are_tried_less_and_less_often() -> None:
    async with StubNode() as node, following(node) as feed:
        node.refuses_subscriptions = True
        await eventually(lambda: node.connections >= 1, "a socket")
        started = time.monotonic()
        await eventually(lambda: node.connections >= 5, "a fifth socket")
        assert time.monotonic() - started >= 0.9 * (0.04 + 0.08 + 0.16)
        assert feed.state == POLLING
        assert await feed.wait(asyncio.Event()) == "polled"


@pytest.mark.parametrize("message", ["{", "[]", "null", '{"method":"eth_subscription"', '"x"', '{"error":"gone"}'])
async def test_garbage_on_the_socket_does_not_end_the_feed(message: str) -> None:
    async with StubNode() as node, following(node, NEVER) as feed, guard("an announced head"):
        await node.subscribed()
        await node.send(message)
        waiting = asyncio.create_task(feed.wait(asyncio.Event()))
        while not waiting.done():
            await asyncio.sleep(0.02)
            await node.mine()
        assert await waiting == "notified"


async def test_a_socket_that_cannot_be_opened_leaves_polling() -> None:
    feed = HeadFeed(["ws://127.0.0.1:1/", "nonsense"], INTERVAL)
    feed.start()
    for _ in range(3):
        assert await feed.wait(asyncio.Event()) == "polled"
    assert feed.state == POLLING
    await feed.close()
    await feed.close()


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    feed, before = HeadFeed([], NEVER), asyncio.all_tasks()
    waiting = asyncio.create_task(feed.wait(asyncio.Event()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == before


async def test_the_second_url_is_used_when_the_first_is_gone() -> None:
    async with StubNode() as node, guard("an announced head"):
        feed = HeadFeed(["ws://127.0.0.1:1/", node.ws_url], NEVER)
        feed.start()
        await node.subscribed()
        await node.mine()
        assert await feed.wait(asyncio.Event()) == "notified"
        await feed.close()


def mute_after(*steps: tuple[float, str]) -> str:
    """Which socket is found mute by what happens when: the socket says, polling sees a head, the watchdog looks."""
    now, head = 0.0, 0
    feed = HeadFeed(["ws://x"], 1, 10, clock=lambda: now)
    feed._connected = "ws://x"

    async def play() -> str:
        nonlocal now, head
        for at, what in steps:
            now = at
            if what == "says":
                feed._handle_message({"method": "eth_subscription"}, "ws://x")
            elif what == "head":
                head += 1
                feed.observe_polled_head(head)
            else:
                await feed.check_mute()
        return feed.mute

    return asyncio.run(play())


def test_a_socket_is_mute_when_the_head_moved_and_it_said_nothing_for_its_time() -> None:
    moving = [(at, "head") for at in range(1, 40)]
    assert mute_after((0, "says"), *moving, (40, "look")) == "ws://x"
    assert mute_after(*moving[:12], (14, "look")) == "ws://x"  # it never said a word
    assert mute_after((0, "says"), *moving, (39.5, "says"), (40, "look")) == ""


def test_a_socket_of_a_chain_with_slow_blocks_is_not_mute_between_them() -> None:
    slow = [(at + wait, what) for at in range(0, 200, 12)
            for wait, what in ((0, "says"), (0.1, "head"), (6, "look"), (11.9, "look"))]  # fmt: skip
    assert mute_after(*slow) == ""
    late = [(at + wait, what) for at in range(0, 200, 12)
            for wait, what in ((0, "head"), (0.5, "says"), (11.9, "look"))]  # fmt: skip
    assert mute_after(*late) == ""


def test_a_socket_that_is_mute_is_no_news_for_ever() -> None:
    moving = [(at, "head") for at in range(1, 30)]
    assert mute_after(*moving, (30, "look"), (30 + head_feed.MUTE_AFTER_S - 1, "head")) == "ws://x"
    assert mute_after(*moving, (30, "look"), (30 + head_feed.MUTE_AFTER_S + 1, "head")) == ""


@pytest.mark.parametrize("chain_id", ["0x6c1", "0x6C1", "0x06c1", 1729, {"code": -32601, "message": "not here"}])
@pytest.mark.parametrize("number", [0, "0"])
def test_a_chain_id_is_the_same_however_it_is_spelled_and_needed_for_nothing(chain_id: Any, number: Any) -> None:
    feed = HeadFeed(["ws://a"], INTERVAL, chain_id=1729)
    key = "error" if isinstance(chain_id, dict) else "result"
    feed._handle_message({"id": number, key: chain_id}, feed.names[0])
    feed._handle_message({"method": "eth_subscription"}, feed.names[0])
    assert feed._woken.is_set()


@pytest.mark.parametrize("answer", ["0x6c2", "0x1729", None, [], 1728])
def test_a_socket_of_another_chain_is_dropped(answer: Any) -> None:
    with pytest.raises(ValueError, match="the deployment is chain 1729"):
        HeadFeed(["ws://a"], INTERVAL, chain_id=1729)._handle_message({"id": 0, "result": answer}, "ws://a")
