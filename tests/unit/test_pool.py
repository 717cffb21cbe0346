"""Several endpoints: checked before use, one for a unit of work, the next when one fails."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from indexer.chain.types import BlockRef, Header
from indexer.errors import (
    EndpointUnreachableError,
    InconsistentResponseError,
    RangeTooLargeError,
    RpcCallError,
    TransientRpcError,
    WrongChainError,
)
from indexer.rpc import retry
from indexer.rpc.health_check import HealthChecker
from indexer.rpc.pool import CHECK_INTERVAL_S, Pool, display_names
from indexer.rpc.reader import Reader
from tests.support.stubnode import ADDRESS, BAD_GATEWAY, HTML, Say, StubNode, hash_of


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)


@asynccontextmanager
async def pooled(*chain_ids: int) -> AsyncIterator[tuple[Pool, list[StubNode]]]:
    """Not opened yet."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(StubNode(c)) for c in chain_ids]
        pool = Pool([n.url for n in nodes], 1729)
        stack.push_async_callback(pool.close)
        yield pool, nodes


async def name_of(reader: Reader) -> str:
    await reader.heads()
    return reader.name


@pytest.mark.parametrize("chain_ids", [(1,), (1729, 1), (1, 1729), (1729, 1729, 10)])
async def test_one_endpoint_of_another_chain_is_wrong_whatever_the_others_are(chain_ids: tuple[int, ...]) -> None:
    async with pooled(*chain_ids) as (pool, _):
        with pytest.raises(WrongChainError, match=r"serves chain 10?, the deployment is chain 1729"):
            await pool.open()


async def test_no_endpoint_that_answers_is_unreachable_and_each_is_named() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[0].stop()
        nodes[1].script = [HTML] * 9
        with pytest.raises(EndpointUnreachableError) as caught:
            await pool.open()
        for node in nodes:
            assert node.url in str(caught.value)
        await nodes[0].start()


async def test_an_endpoint_that_fails_is_left_and_the_next_is_kept() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        assert await pool.with_failover(name_of) == nodes[0].url
        nodes[0].script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        assert await pool.with_failover(name_of) == nodes[1].url
        before = len(nodes[0].requests)
        for _ in range(3):
            assert await pool.with_failover(name_of) == nodes[1].url
        assert len(nodes[0].requests) == before
        nodes[1].script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        assert await pool.with_failover(name_of) == nodes[0].url


async def test_a_unit_that_failed_half_way_is_done_whole_on_the_next_endpoint() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        readers = []

        async def unit(reader: Reader) -> str:
            readers.append(reader)
            await reader.header(5)
            if reader.name == nodes[0].url:
                raise InconsistentResponseError("torn", reader.name)
            await reader.header(6)
            return reader.name

        assert await pool.with_failover(unit) == nodes[1].url
        assert [r.name for r in readers] == [n.url for n in nodes]
        asked = [r["params"][0] for r in nodes[1].requests if r["method"] == "eth_getBlockByNumber"]
        assert asked == ["0x5", "0x6"]


async def test_an_endpoint_down_at_open_is_checked_before_its_first_use() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[1].stop()
        await pool.open()
        await nodes[1].start()
        nodes[0].script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        assert await pool.with_failover(name_of) == nodes[1].url
        assert nodes[1].requests[0]["method"] == "eth_chainId"
        assert sum(isinstance(r, dict) and r["method"] == "eth_chainId" for r in nodes[1].requests) == 1


async def test_an_endpoint_down_at_open_that_comes_back_as_another_chain_is_never_read() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[1].stop()
        await pool.open()
        nodes[1].chain_id = 5
        await nodes[1].start()
        nodes[0].script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        with pytest.raises(TransientRpcError):  # the right one's trouble; the other is passed over
            await pool.with_failover(name_of)
        assert [r["method"] for r in nodes[1].requests] == ["eth_chainId"]


async def test_the_first_endpoint_down_at_open_does_not_keep_the_second_from_serving() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[0].stop()
        await pool.open()
        assert await pool.with_failover(name_of) == nodes[1].url
        await nodes[0].start()


async def test_when_all_fail_the_last_error_is_raised_and_the_pool_recovers() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        for node in nodes:
            node.script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        with pytest.raises(TransientRpcError) as caught:
            await pool.with_failover(name_of)
        assert caught.value.endpoint == nodes[1].url
        assert await pool.with_failover(name_of) == nodes[0].url


async def test_with_one_endpoint_its_refusals_reach_the_caller() -> None:
    async with pooled(1729) as (pool, nodes):
        await pool.open()
        nodes[0].cap = 10
        with pytest.raises(RangeTooLargeError):
            await pool.with_failover(lambda reader: reader.logs_with_headers(0, 50, [ADDRESS], []))
        nodes[0].script = [Say(403, "Forbidden")]
        with pytest.raises(RpcCallError, match="Forbidden"):
            await pool.with_failover(lambda reader: reader.header(5))


async def test_another_error_is_not_taken_for_the_endpoint_s() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()

        async def broken(reader: Reader) -> None:
            raise KeyError("ours")

        with pytest.raises(KeyError):
            await pool.with_failover(broken)
        assert await pool.with_failover(name_of) == nodes[0].url


async def test_requests_are_counted_over_all_endpoints() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        await pool.with_failover(name_of)
        assert pool.requests == sum(len(n.requests) for n in nodes) == 3


# -- set aside, and tried again


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def timed(*chain_ids: int) -> AsyncIterator[tuple[Pool, list[StubNode], Clock]]:
    """Opened, by a clock that the test holds."""
    async with AsyncExitStack() as stack:
        nodes, clock = [await stack.enter_async_context(StubNode(c)) for c in chain_ids], Clock()
        pool = Pool([n.url for n in nodes], 1729, clock=clock)
        stack.push_async_callback(pool.close)
        await pool.open()
        yield pool, nodes, clock


def asked_for_chain(node: StubNode) -> int:
    return sum(isinstance(r, dict) and r["method"] == "eth_chainId" for r in node.requests)


async def test_the_chain_id_is_asked_for_again_after_a_while_and_not_at_every_unit() -> None:
    async with timed(1729) as (pool, nodes, clock):
        for _ in range(5):
            await pool.with_failover(name_of)
        assert asked_for_chain(nodes[0]) == 1
        clock.now += CHECK_INTERVAL_S + 1
        await pool.with_failover(name_of)
        await pool.with_failover(name_of)
        assert asked_for_chain(nodes[0]) == 2


async def test_the_chain_id_is_asked_for_again_over_a_new_connection() -> None:
    async with timed(1729) as (pool, nodes, _):
        await pool.with_failover(name_of)
        await nodes[0].stop()
        nodes[0].chain_id = 5
        await nodes[0].start()
        with pytest.raises(TransientRpcError, match="serves chain 5, not 1729"):
            for _ in range(2):  # what the old connection broke off is tried again over a new one
                await pool.with_failover(name_of)
        after = [r["method"] for r in nodes[0].requests if isinstance(r, dict)]
        assert after[-1] == "eth_chainId"


async def test_an_endpoint_that_becomes_another_chain_is_set_aside_and_comes_back_with_the_right_one() -> None:
    async with timed(1729, 1729) as (pool, nodes, clock):
        assert await pool.with_failover(name_of) == nodes[0].url
        nodes[0].chain_id = 5
        clock.now += CHECK_INTERVAL_S + 1
        read = len(nodes[0].requests)
        assert await pool.with_failover(name_of) == nodes[1].url
        assert [r["method"] for r in nodes[0].requests[read:]] == ["eth_chainId"]
        score = pool.readers[0].endpoint.health
        assert (score.state(clock.now), score.chain_id, score.counts["disagreements"]) == ("wrong chain", 5, 1)
        nodes[0].chain_id = 1729
        clock.now += 1000
        nodes[1].script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        assert await pool.with_failover(name_of) == nodes[0].url
        assert score.state(clock.now) == "well"


async def test_one_that_lags_is_asked_last_until_it_has_caught_up() -> None:
    async with timed(1729, 1729) as (pool, nodes, clock):
        nodes[1].length += 40
        for node in (nodes[1], nodes[0]):
            reader = next(r for r in pool.readers if r.name == node.url)
            pool.observe_head(node.url, (await reader.heads()).latest)
        assert await pool.with_failover(name_of) == nodes[1].url
        score = pool.readers[0].endpoint.health
        assert (score.state(clock.now), score.lag) == ("lagging", 40)
        nodes[0].length += 39
        pool.observe_head(nodes[0].url, (await pool.readers[0].heads()).latest)
        assert score.state(clock.now) == "well"


async def test_a_head_from_the_future_does_not_make_the_others_lag() -> None:
    async with timed(1729, 1729) as (pool, nodes, clock):
        future = int(time.time()) + 10_000
        pool.observe_head(nodes[1].url, Header(2**60, bytes(32), bytes(32), future))
        pool.observe_head(nodes[0].url, Header(100, bytes(32), bytes(32), future - 9_990))
        assert pool.readers[0].endpoint.health.state(clock.now) == "well"


async def test_a_node_that_lacks_history_is_set_aside_for_what_needs_it_only() -> None:
    async with timed(1729, 1729) as (pool, nodes, _):

        async def old(reader: Reader) -> str:
            if reader.name == nodes[0].url:
                raise RpcCallError("pruned history unavailable", reader.name, 4444)
            return reader.name

        assert await pool.with_failover(old, purpose="backfill") == nodes[1].url
        assert [r.name for r in pool.ordered("backfill")] == [n.url for n in (nodes[1], nodes[0])]
        assert pool.readers[0].endpoint.health.severity(pool.clock(), "follow") == 0


async def test_what_blames_an_endpoint_counts_in_its_score() -> None:
    async with timed(1729, 1729) as (pool, nodes, clock):
        pool.set_aside(nodes[0].url, "left out log 3 of block 7", "omitting")
        score = pool.readers[0].endpoint.health
        assert (score.counts["omissions"], score.counts["set_aside"]) == (1, 1)
        assert await pool.with_failover(name_of) == nodes[1].url
        clock.now += 61
        nodes[1].script = [BAD_GATEWAY] * retry.MAX_ATTEMPTS
        assert await pool.with_failover(name_of) == nodes[0].url


async def test_of_endpoints_that_are_all_set_aside_the_least_bad_is_asked() -> None:
    async with timed(1729, 1729, 1729) as (pool, nodes, _):
        for node, reason in zip(nodes, ("contradicting", "lagging", "omitting"), strict=True):
            pool.set_aside(node.url, "", reason)  # type: ignore[arg-type]
        assert [r.name for r in pool.ordered()] == [nodes[n].url for n in (1, 2, 0)]


def test_two_keys_at_one_provider_have_two_names_without_keys() -> None:
    assert display_names(["https://a/v2/ONE", "https://a/v2/TWO", "https://b"]) == [
        "https://a/…", "https://a/… #2", "https://b"
    ]  # fmt: skip


# -- the sentinel


def anchored(number: int, fork: str = "a") -> BlockRef:
    return BlockRef(number, bytes.fromhex(hash_of(number, fork)[2:]), 0)


async def test_a_standby_that_denies_a_stored_final_block_is_set_aside_before_it_is_needed() -> None:
    async with timed(1729, 1729) as (pool, nodes, clock):
        nodes[1].fork = "b"
        await HealthChecker(pool, lambda: anchored(50)).check_all()
        states = [r.endpoint.health.state(clock.now) for r in pool.readers]
        assert states == ["well", "contradicting"]


async def test_when_all_deny_it_the_follower_must_judge() -> None:
    async with timed(1729, 1729) as (pool, nodes, clock):
        nodes[0].fork = nodes[1].fork = "b"
        await HealthChecker(pool, lambda: anchored(50)).check_all()
        assert [r.endpoint.health.state(clock.now) for r in pool.readers] == ["well", "well"]


async def test_lag_lost_history_another_chain_and_silence_are_seen_in_endpoints_that_nobody_asks() -> None:
    async with timed(1729, 1729, 1729, 1729, 1729) as (pool, nodes, clock):
        nodes[1].length -= 30
        nodes[2].mangle = without_block(20)
        nodes[3].chain_id = 9
        nodes[4].script = [HTML] * retry.MAX_ATTEMPTS
        sentinel = HealthChecker(pool, lambda: anchored(20))
        await sentinel.check_all()
        states = [r.endpoint.health.state(clock.now) for r in pool.readers]
        assert states == ["well", "lagging", "pruned", "wrong chain", "failing"]
        assert (pool.budgets.spent["follow"], pool.budgets.spent["probe"] > 5) == (5, True)  # 5: when it was opened
        nodes[1].length += 30
        nodes[3].chain_id = 1729
        clock.now += 10
        await sentinel.check_all()
        states = [r.endpoint.health.state(clock.now) for r in pool.readers]
        assert states == ["well", "well", "pruned", "well", "well"]


def without_block(number: int) -> Callable[[Any], Any]:
    def forget(answer: Any) -> Any:
        if isinstance(answer, list):
            return [forget(one) for one in answer]
        block = answer.get("result")
        return answer | {"result": None} if isinstance(block, dict) and block.get("number") == hex(number) else answer

    return forget
