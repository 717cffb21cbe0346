"""A cap on requests a second, and quiet where the node asks for it, on a clock that the test holds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import RateLimitedError
from indexer.rpc import rate_limit, retry
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.rate_limit import MAX_PAUSE_S, MIN_PAUSE_S, Backoff, TokenBucket
from tests.support.stubnode import Say, StubNode
from tests.support.waiting import eventually

SLOW_DOWN = Say(429, '{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Too Many Requests"}}')


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 3), min_size=2, max_size=60))
def test_in_no_stretch_of_time_more_pass_than_are_allowed(rps: float, pauses: list[float]) -> None:
    bucket, now, passed = TokenBucket(rps), 5.0, list[float]()
    for pause in pauses:
        now += pause
        now += bucket.wait(now)
        bucket.take(now)
        passed.append(now)
    for start, first in enumerate(passed):
        for end in range(start, len(passed)):
            assert end - start <= rps * (passed[end] - first) * (1 + 1e-6) + 1e-3


def test_a_pause_does_not_save_up_a_burst() -> None:
    bucket = TokenBucket(10)
    bucket.take(0)
    bucket.take(100)
    assert bucket.wait(100) == pytest.approx(0.1)


@pytest.mark.parametrize("rps", [0, -1, float("nan")])
def test_a_cap_is_positive(rps: float) -> None:
    with pytest.raises(ValueError, match="requests per second"):
        TokenBucket(rps)


def test_a_quiet_without_a_time_doubles_once_for_all_requests_under_way() -> None:
    quiet, now, waits = Backoff(), 0.0, []
    for _ in range(9):
        for _ in range(8):
            quiet.limited(now, now, None) if not quiet.wait(now) else quiet.limited(now, now - 1, None)
        waits.append(quiet.wait(now))
        now += waits[-1]
    assert waits[:3] == pytest.approx([MIN_PAUSE_S, 2 * MIN_PAUSE_S, 4 * MIN_PAUSE_S])
    assert waits[-1] == pytest.approx(MAX_PAUSE_S)
    quiet.answered(now)
    quiet.limited(now, now, None)
    assert quiet.wait(now) == pytest.approx(MIN_PAUSE_S)


def test_the_longest_quiet_that_was_asked_for_counts() -> None:
    quiet = Backoff()
    quiet.limited(10, 9, 4.0)
    quiet.limited(10, 9, 1.0)
    assert quiet.wait(11) == pytest.approx(3.0)


def timed(node: StubNode) -> list[float]:
    """When the node answers, seconds."""
    times: list[float] = []

    def note(answer: Any) -> Any:
        times.append(time.monotonic())
        return answer

    node.mangle = note
    return times


async def asked_at(rps: float | None, calls: int) -> list[float]:
    """When the node got the requests of so many callers at once, seconds."""
    async with StubNode() as node:
        times = timed(node)
        endpoint = Endpoint(node.url, rps=rps)
        await endpoint.call("eth_chainId", [])
        await asyncio.gather(*(endpoint.call("eth_chainId", []) for _ in range(calls)))
        await endpoint.close()
        return times


async def test_every_request_passes_the_cap() -> None:
    times = await asked_at(40, 10)
    assert len(times) == 11 and times[-1] - times[0] >= 0.2


async def test_a_batch_is_one_request_under_the_cap() -> None:
    async with StubNode() as node:
        endpoint = Endpoint(node.url, rps=1)
        endpoint.gate._bucket = counted = Counted(1)
        await endpoint.batch([("eth_chainId", [])] * 100)
        assert len(node.requests) == counted.taken == 1
        await endpoint.close()


class Counted(TokenBucket):
    """Has no token while it is `held`, and counts those that were taken."""

    held, taken = False, 0

    def wait(self, now: float) -> float:
        return 0.01 if self.held else super().wait(now)

    def take(self, now: float, tokens: int = 1) -> None:
        self.taken += tokens
        super().take(now, tokens)


async def test_those_who_wait_are_served_in_turn_and_who_leaves_takes_no_turn() -> None:
    async with StubNode() as node:
        endpoint = Endpoint(node.url, rps=5)
        endpoint.gate._bucket = counted = Counted(5)
        done: list[int] = []

        async def ask(n: int) -> None:
            await endpoint.call("eth_chainId", [])
            done.append(n)

        await ask(0)
        counted.held = True
        tasks = [asyncio.create_task(ask(n)) for n in range(1, 9)]
        await eventually(
            lambda: len(endpoint.gate._lock._waiting) == 7, "seven behind the one who waits for the next token"
        )
        for n in (1, 3, 4, 5, 7):  # 1 is the one that sleeps for it
            tasks[n - 1].cancel()
        counted.held = False
        await asyncio.gather(*tasks, return_exceptions=True)
        assert done == [0, 2, 6, 8]
        assert len(node.requests) == counted.taken == 4
        await endpoint.close()


async def test_one_caller_s_429_quiets_all_callers() -> None:
    async with StubNode() as node:
        endpoint = Endpoint(node.url)
        node.script = [Say(429, "slow down", {"Retry-After": "0.3"})]
        times = timed(node)
        started = time.monotonic()
        first = asyncio.create_task(endpoint.call("eth_chainId", []))
        await eventually(lambda: endpoint.gate.backoff.until > 0, "a quiet")
        await asyncio.gather(first, *(endpoint.call("eth_chainId", []) for _ in range(4)))
        assert len(node.requests) == 6 and min(times) - started >= 0.3
        await endpoint.close()


async def test_a_429_without_a_time_gives_the_node_a_moment_too() -> None:
    async with StubNode() as node:
        endpoint = Endpoint(node.url)
        node.script = [SLOW_DOWN, SLOW_DOWN]
        started = time.monotonic()
        await endpoint.call("eth_chainId", [])
        assert time.monotonic() - started >= 3 * MIN_PAUSE_S
        await endpoint.close()


async def test_a_quiet_too_long_to_wait_for_fails_at_once_for_all() -> None:
    async with StubNode() as node:
        endpoint = Endpoint(node.url)
        data = {"rate": {"allowed_rps": 1, "backoff_seconds": 30, "current_rps": 1.07}, "see": "infura.io"}
        node.script = [Say(429, _error(-32005, "daily request count exceeded, request rate limited", data))]
        for _ in range(3):
            with pytest.raises(RateLimitedError) as caught:
                await endpoint.call("eth_chainId", [])
            assert rate_limit.MAX_WAIT_S < (caught.value.retry_after or 0) <= 30
        assert len(node.requests) == 1
        await endpoint.close()


def _error(code: int, message: str, data: object) -> str:
    return orjson.dumps({"jsonrpc": "2.0", "id": 0, "error": {"code": code, "message": message, "data": data}}).decode()
