"""Several endpoints: checked before use, one for a unit of work, the next when one fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from indexer.errors import EndpointUnreachable, Inconsistent, RangeTooLarge, RpcRefused, Transient, WrongChain
from indexer.rpc import transport
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from tests.stubnode import ADDRESS, BAD_GATEWAY, HTML, Say, StubNode


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_backoff", lambda state: 0.0)


@asynccontextmanager
async def pooled(*chain_ids: int) -> AsyncIterator[tuple[Pool, list[StubNode]]]:
    """Not opened yet."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(StubNode(c)) for c in chain_ids]
        pool = Pool([n.url for n in nodes], 1729, timeout=2)
        stack.push_async_callback(pool.close)
        yield pool, nodes


async def name_of(reader: Reader) -> str:
    await reader.heads()
    return reader.name


@pytest.mark.parametrize("chain_ids", [(1,), (1729, 1), (1, 1729), (1729, 1729, 10)])
async def test_one_endpoint_of_another_chain_is_wrong_whatever_the_others_are(chain_ids: tuple[int, ...]) -> None:
    async with pooled(*chain_ids) as (pool, _):
        with pytest.raises(WrongChain, match=r"serves chain 10?, the deployment is chain 1729"):
            await pool.open()


async def test_no_endpoint_that_answers_is_unreachable_and_each_is_named() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[0].stop()
        nodes[1].script = [HTML] * 9
        with pytest.raises(EndpointUnreachable) as caught:
            await pool.open()
        for node in nodes:
            assert node.url in str(caught.value)
        await nodes[0].start()


async def test_an_endpoint_that_fails_is_left_and_the_next_is_kept() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        assert await pool.run(name_of) == nodes[0].url
        nodes[0].script = [BAD_GATEWAY] * transport.ATTEMPTS
        assert await pool.run(name_of) == nodes[1].url
        before = len(nodes[0].requests)
        for _ in range(3):
            assert await pool.run(name_of) == nodes[1].url
        assert len(nodes[0].requests) == before
        nodes[1].script = [BAD_GATEWAY] * transport.ATTEMPTS
        assert await pool.run(name_of) == nodes[0].url


async def test_a_unit_that_failed_half_way_is_done_whole_on_the_next_endpoint() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        readers = []

        async def unit(reader: Reader) -> str:
            readers.append(reader)
            await reader.header(5)
            if reader.name == nodes[0].url:
                raise Inconsistent("torn", reader.name)
            await reader.header(6)
            return reader.name

        assert await pool.run(unit) == nodes[1].url
        assert [r.name for r in readers] == [n.url for n in nodes]
        asked = [r["params"][0] for r in nodes[1].requests if r["method"] == "eth_getBlockByNumber"]
        assert asked == ["0x5", "0x6"]


async def test_an_endpoint_down_at_open_is_checked_before_its_first_use() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[1].stop()
        await pool.open()
        await nodes[1].start()
        nodes[0].script = [BAD_GATEWAY] * transport.ATTEMPTS
        assert await pool.run(name_of) == nodes[1].url
        assert nodes[1].requests[0]["method"] == "eth_chainId"
        assert sum(isinstance(r, dict) and r["method"] == "eth_chainId" for r in nodes[1].requests) == 1


async def test_an_endpoint_down_at_open_that_comes_back_as_another_chain_is_never_read() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[1].stop()
        await pool.open()
        nodes[1].chain_id = 5
        await nodes[1].start()
        nodes[0].script = [BAD_GATEWAY] * transport.ATTEMPTS
        with pytest.raises(Transient):  # the right one's trouble; the other is passed over
            await pool.run(name_of)
        assert [r["method"] for r in nodes[1].requests] == ["eth_chainId"]


async def test_the_first_endpoint_down_at_open_does_not_keep_the_second_from_serving() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await nodes[0].stop()
        await pool.open()
        assert await pool.run(name_of) == nodes[1].url
        await nodes[0].start()


async def test_when_all_fail_the_last_error_is_raised_and_the_pool_recovers() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        for node in nodes:
            node.script = [BAD_GATEWAY] * transport.ATTEMPTS
        with pytest.raises(Transient) as caught:
            await pool.run(name_of)
        assert caught.value.endpoint == nodes[1].url
        assert await pool.run(name_of) == nodes[0].url


async def test_with_one_endpoint_its_refusals_reach_the_caller() -> None:
    async with pooled(1729) as (pool, nodes):
        await pool.open()
        nodes[0].cap = 10
        with pytest.raises(RangeTooLarge):
            await pool.run(lambda reader: reader.logs_with_headers(0, 50, [ADDRESS], []))
        nodes[0].script = [Say(403, "Forbidden")]
        with pytest.raises(RpcRefused, match="Forbidden"):
            await pool.run(lambda reader: reader.header(5))


async def test_another_error_is_not_taken_for_the_endpoint_s() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()

        async def broken(reader: Reader) -> None:
            raise KeyError("ours")

        with pytest.raises(KeyError):
            await pool.run(broken)
        assert await pool.run(name_of) == nodes[0].url


async def test_requests_are_counted_over_all_endpoints() -> None:
    async with pooled(1729, 1729) as (pool, nodes):
        await pool.open()
        await pool.run(name_of)
        assert pool.requests == sum(len(n.requests) for n in nodes) == 3
