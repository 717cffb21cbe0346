"""A notification only wakes; a mute or missing socket means polling at the configured interval."""

from __future__ import annotations

import asyncio

from indexer.rpc.headfeed import HeadFeed
from tests.anvil.node import free_port
from tests.stubnode import StubNode


async def test_a_notification_wakes_before_the_interval_is_over() -> None:
    async with StubNode() as node:
        feed = HeadFeed([node.ws_url], poll_interval=5)
        feed.start()
        await node.subscribed()
        waiting = asyncio.create_task(feed.wait(asyncio.Event()))
        await asyncio.sleep(0.05)
        await node.announce(101)
        assert await asyncio.wait_for(waiting, 2) == "notified"
        assert feed.state == "websocket"
        await feed.close()


async def test_a_socket_that_goes_mute_is_noticed_and_polling_goes_on_at_the_interval() -> None:
    now = 0.0
    async with StubNode() as node:
        feed = HeadFeed([node.ws_url], poll_interval=0.05, mute_after=10, clock=lambda: now)
        feed.start()
        await node.subscribed()
        await asyncio.sleep(0.05)
        await node.announce(101)
        assert await feed.wait(asyncio.Event()) == "notified"
        feed.saw_head(101)
        assert feed.state == "websocket"
        now = 30.0
        feed.saw_head(102)  # polling saw a head that the socket did not tell
        assert "mute" in feed.state
        assert await asyncio.wait_for(feed.wait(asyncio.Event()), 1) == "polled"
        await node.announce(103)
        assert await feed.wait(asyncio.Event()) == "notified"
        assert feed.state == "websocket"
        await feed.close()


async def test_a_silent_chain_does_not_make_the_socket_mute() -> None:
    now = 0.0
    async with StubNode() as node:
        feed = HeadFeed([node.ws_url], poll_interval=0.05, mute_after=10, clock=lambda: now)
        feed.start()
        await node.subscribed()
        await asyncio.sleep(0.05)
        await node.announce(101)
        await feed.wait(asyncio.Event())
        feed.saw_head(101)
        now = 1000.0
        feed.saw_head(101)
        assert feed.state == "websocket"
        await feed.close()


async def test_without_a_socket_it_polls_and_a_lost_one_is_connected_again() -> None:
    plain = HeadFeed([], poll_interval=0.02)
    plain.start()
    assert plain.state == "polling" and await plain.wait(asyncio.Event()) == "polled"
    await plain.close()
    async with StubNode() as node:
        feed = HeadFeed([f"ws://127.0.0.1:{free_port()}", node.ws_url], poll_interval=0.02)
        feed.start()
        await node.subscribed()  # the second URL, after the first refused
        await node.sockets.pop().close()
        assert await feed.wait(asyncio.Event()) == "polled"
        await node.subscribed()
        await feed.close()


async def test_stop_ends_a_wait_at_once() -> None:
    feed, stop = HeadFeed([], poll_interval=60), asyncio.Event()
    waiting = asyncio.create_task(feed.wait(stop))
    await asyncio.sleep(0.02)
    stop.set()
    assert await asyncio.wait_for(waiting, 1) == "stopped"
