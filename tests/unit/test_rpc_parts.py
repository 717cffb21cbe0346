"""A block over every limit of a node: by address, then by receipts, and whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.batch import LogBatch
from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header, Log
from indexer.errors import InconsistentResponseError, RangeTooLargeError, RpcError, TransientRpcError
from indexer.ingest.fetch import fetch_batch, fetch_final, fetch_head
from indexer.rpc import retry
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import logs_of_receipts
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.sample import log, tx
from tests.support.simchain.view import NO_RECEIPTS
from tests.support.waiting import guard

BUSY, QUIET, SILENT = "0x" + "a1" * 20, "0x" + "b2" * 20, "0x" + "c3" * 20
UNWATCHED = "0x" + "d4" * 20
ALL = (BUSY, QUIET, SILENT)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda state: 0.0)


def dense(tree: Tree) -> Block:
    """Block 1: 12 logs of BUSY, 2 of QUIET, one that nobody watches; blocks 2 and 3 are empty."""
    txs = [
        tx("one", *(log(BUSY, n) for n in range(7)), log(QUIET, 1)),
        tx("two", log(UNWATCHED, 1), *(log(BUSY, n) for n in range(5)), log(QUIET, 2)),
    ]
    block = tree.extend(tree.genesis.hash, txs)
    tree.extend(tree.extend(block.hash, []).hash, [])
    return block


@asynccontextmanager
async def connected(cap: int | None = 5) -> AsyncIterator[tuple[SimNode, Reader, Block]]:
    tree = Tree()
    block = dense(tree)
    tip = tree.extend(block.hash, [])
    async with SimNode(tree, tip.hash) as node:
        node.max_logs = cap
        reader = Reader(Endpoint(node.url))
        yield node, reader, block
        await reader.endpoint.close()


def complete(unit: LogBatch, block: Block) -> None:
    assert [(g.log_index, "0x" + g.address.hex()) for g in unit.logs] == [
        (index, entry.address) for index, _, _, entry in block if entry.address != UNWATCHED
    ]
    assert {g.block_hash for g in unit.logs} == {block.hash}
    assert unit.blocks[0].hash == block.hash


@pytest.mark.parametrize("fetch", [fetch_final, fetch_head])
@pytest.mark.parametrize("cap", [12, 5, 1])
async def test_a_block_with_more_logs_than_are_served_at_once_is_fetched_whole(fetch: Any, cap: int) -> None:
    async with connected(cap) as (node, reader, block):
        unit = await fetch(reader, 1, 1, ALL, None)
        complete(unit, block)
        assert node.requests["eth_getLogs"] == 1 + len(ALL)
        assert node.requests["eth_getBlockReceipts"] == (0 if cap == 12 else 1)


async def test_with_one_contract_the_receipts_are_asked_for_at_once() -> None:
    async with connected() as (node, reader, block):
        unit = await fetch_final(reader, 1, 1, [BUSY], None)
        assert [g.log_index for g in unit.logs] == [i for i, _, _, entry in block if entry.address == BUSY]
        assert node.requests["eth_getLogs"] == 1 and node.requests["eth_getBlockReceipts"] == 1


async def test_several_blocks_are_not_put_together() -> None:
    async with connected() as (node, reader, _):
        with pytest.raises(RangeTooLargeError):
            await fetch_final(reader, 1, 2, ALL, None)
        assert node.requests["eth_getLogs"] == 1


@pytest.mark.parametrize("calls", range(1, 8))
async def test_a_range_whose_calls_do_not_fit_into_one_batch_is_fetched_in_shorter_ones(calls: int) -> None:
    """Without a request that shrinks the range, the same two blocks would be tried for ever."""
    async with connected(None) as (_, reader, block):
        reader.endpoint.lengths.learn(calls)
        tip = await reader.latest()
        final, read = FinalBlock(tip.number, tip.hash), list[int]()
        async with guard("both blocks"):
            while len(read) < 2:
                batch = await fetch_batch(reader, ContractRange(len(read) + 1, 2, ALL), final, None)
                read += range(batch.blocks[0].number, batch.blocks[-1].number + 1)
                if 1 in {b.number for b in batch.blocks}:
                    complete(batch, block)
        assert read == [1, 2]


async def test_without_receipts_the_block_is_refused() -> None:
    async with connected() as (node, reader, _):
        node.missing_methods = NO_RECEIPTS
        with pytest.raises(RangeTooLargeError, match="block 1 has more logs than are served at once, and its receipts"):
            await fetch_final(reader, 1, 1, ALL, None)


async def test_receipts_that_lack_a_log_that_was_served_or_all_of_a_contract_are_not_believed() -> None:
    for address in (QUIET, BUSY):
        async with connected() as (node, reader, block):
            node.omit = {(block.hash, index) for index, _, _, entry in block if entry.address == address}
            node.omit_receipts, node.omit_mode = True, "ranges"
            with pytest.raises(InconsistentResponseError, match="receipts"):
                await fetch_final(reader, 1, 1, ALL, None)


@pytest.mark.parametrize("at", range(1, 5))
async def test_a_fork_between_the_parts_is_noticed(at: int) -> None:
    async with connected() as (node, reader, block):
        other = node.tree.extend(node.tree.genesis.hash, [tx("else", log(BUSY), log(QUIET))], salt=b"other")
        seen = 0

        def switch(method: str, _: object) -> None:
            nonlocal seen
            if method in ("eth_getLogs", "eth_getBlockReceipts"):
                if seen == at:
                    node.head = other.hash
                seen += 1

        node.on_request = switch
        try:
            unit = await fetch_final(reader, 1, 1, ALL, None)
        except InconsistentResponseError as error:
            assert "changed" in str(error) or "disagree" in str(error)
        else:  # every part was of the other block
            assert {g.block_hash for g in unit.logs} == {other.hash} and len(unit.logs) == 2
        del block


async def test_a_node_that_refuses_addresses_for_their_bytes_is_read_by_receipts_too() -> None:
    async with connected(None) as (node, reader, block):

        def refuse(method: str, params: list[Any]) -> None:
            if method == "eth_getLogs" and (len(params[0]["address"]) > 1 or params[0]["address"] == [BUSY]):
                raise Refusal(-32008, "Response is too big", "Exceeded max limit of 4000")

        node.on_request = refuse
        complete(await fetch_final(reader, 1, 1, ALL, None), block)
        assert reader.ranges.max_bytes == 4000


def header_of(block: Block) -> Header:
    return Header(block.number, block.hash, block.parent, block.timestamp, block.logs_bloom)


def receipts() -> tuple[list[Any], Header]:
    block = dense(Tree())
    return block.receipts(), header_of(block)


def read(change: Any) -> list[Log]:
    answer, header = receipts()
    changed = change(answer)
    return logs_of_receipts(answer if changed is None else changed, header, ALL)


def test_receipts_give_the_watched_logs_in_order() -> None:
    logs = read(lambda answer: answer[::-1])
    assert [g.log_index for g in logs] == [*range(8), *range(9, 15)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: [], "no receipts"),
        (lambda a: {"logs": []}, "no receipts"),
        (lambda a: [*a, a[0]], "duplicate receipt for transaction 0 of block 1"),
        (lambda a: a[0].update(blockHash="0x" + "00" * 32), "different block"),
        (lambda a: a[0]["logs"][0].update(blockHash="0x" + "00" * 32), "two hashes"),
        (lambda a: a[0]["logs"][0].update(blockNumber="0x2"), "a log of block 2"),
        (lambda a: a[0]["logs"][0].update(transactionIndex="0x1"), "another transaction"),
        (lambda a: a[0]["logs"][0].update(logIndex="0x9"), "duplicate log"),
        (lambda a: a[0]["logs"][0].update(removed=True), "removed"),
    ],
)
def test_receipts_that_contradict_themselves_are_inconsistent(change: Any, said: str) -> None:
    with pytest.raises(InconsistentResponseError, match=said):
        read(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: [None],
        lambda a: a[0].pop("logs") and None,
        lambda a: a[0].pop("transactionIndex") and None,
        lambda a: a[0]["logs"].append(None),
        lambda a: a[0]["logs"][0].pop("address") and None,
        lambda a: a[0]["logs"][0].update(topics=7),
    ],
)
def test_unreadable_receipts_are_transient(change: Any) -> None:
    with pytest.raises(TransientRpcError):
        read(change)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["logs", "blockHash"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_garbage_is_an_error_of_ours(value: Any) -> None:
    with pytest.raises(RpcError):
        logs_of_receipts(value, Header(1, bytes(32), bytes(32), 0), ALL)
