"""Conformance chains of other implementations, block by block in the order of import: the follower ends as they do."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from indexer.chain.forks import ForkSearch, ForkSearchOutcome
from indexer.chain.types import BlockRef
from indexer.config import load
from tests.chaos.databases import Databases
from tests.chaos.network import CHAIN_ID
from tests.chaos.process import Process, small_and_impatient
from tests.chaos.truth import CONFIG, Truth
from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.world import exchange

RECORDS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "forks.jsonl").read_text().splitlines()
]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


class Imported:
    """A record's blocks, one after the other; what happens in them is ours, a recorded hash each."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        blocks = record["blocksInImportOrder"]
        self.tree = Tree(
            genesis_time=min(b["timestamp"] for b in blocks) - 1, genesis_hash=_bytes(record["genesis"]["hash"])
        )

    def heads(self) -> Iterator[Block]:
        """The canonical head after each import."""
        rng, world = random.Random(self.record["test"]), exchange(self.tree)
        heads = iter(map(_bytes, self.record["canonicalHeadSequenceDerived"]))
        head, following = self.tree.genesis, next(heads, None)
        for one in self.record["blocksInImportOrder"]:
            parent, time = _bytes(one["parentHash"]), one["timestamp"]
            txs = world.traffic(rng, parent, rng.randrange(3), time)
            block = self.tree.extend(parent, txs, timestamp=time, block_hash=_bytes(one["hash"]))
            assert block.number == one["number"]
            if block.hash == following:
                head, following = block, next(heads, None)
            yield head
        assert following is None and head.hash == _bytes(self.record["head"])


@pytest.mark.parametrize("record", RECORDS, ids=[r["test"] for r in RECORDS])
def test_the_fork_search_finds_where_each_import_forked(record: dict[str, Any]) -> None:
    imported = Imported(record)
    tree, stored, forked = imported.tree, imported.tree.genesis, 0
    for head in imported.heads():
        anchors = [BlockRef(b.number, b.hash, b.timestamp) for b in tree.path(stored.hash)[: head.number + 1]]
        search = ForkSearch(anchors)
        while wanted := search.ask():
            search.tell({n: tree.ancestor(head.hash, n).hash for n in wanted})
        assert search.outcome is ForkSearchOutcome.COMMON
        fork = tree.fork_point(stored.hash, head.hash)
        assert (search.fork.number, search.fork.hash) == (fork.number, fork.hash)
        forked += fork is not stored
        stored = head
    assert stored.hash == _bytes(record["head"])
    assert forked or record["forkedHeights"] == 0 or _never_left(record)


def _never_left(record: dict[str, Any]) -> bool:
    """Whether every head is a child of the one before: side chains were imported but never canonical."""
    parents = {b["hash"]: b["parentHash"] for b in record["blocksInImportOrder"]}
    heads = [record["genesis"]["hash"], *record["canonicalHeadSequenceDerived"]]
    return all(parents[child] == parent for parent, child in pairwise(heads))


@pytest.mark.parametrize("record", RECORDS, ids=[r["test"] for r in RECORDS])
async def test_the_follower_ends_on_the_stated_head(record: dict[str, Any], databases: Databases) -> None:
    imported = Imported(record)
    url, deployment = await databases.make(), load(str(CONFIG))
    async with SimNode(imported.tree, chain_id=CHAIN_ID) as node:
        process = Process(url, [node.url], deployment)
        try:
            with small_and_impatient():
                before = imported.tree.genesis
                for head in imported.heads():
                    node.head = head.hash
                    while await process.cycle():
                        pass
                    if head is not before:
                        at = await process.checkpoint()
                        assert at is not None and (at.number, at.hash) == (head.number, head.hash)
                    before = head
            truth = Truth(imported.tree, head, 0, {c.address for c in deployment.contracts})
            assert not await truth.everything(url)
        finally:
            await process.stop()
    await databases.drop(url)
