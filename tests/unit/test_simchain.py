"""The simulated chain: it hashes as real chains do, and its traffic is what the oracle reads."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import rlp as reference  # type: ignore[import-untyped]
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import Block, SimTx, Tree
from tests.support.simchain.encoding import (
    EMPTY_BLOOM,
    EMPTY_ROOT,
    EMPTY_UNCLES,
    bloom,
    bloom_bits,
    header_hash,
    list_root,
    receipt,
    rlp,
    trie_root,
)
from tests.support.simchain.sample import EVERY, Chain, log, places, tx
from tests.support.simchain.world import Exchange, exchange, grow, traffic

ROOT = Path(__file__).parents[2]
# Arbitrum One, block 116,686,799: two transactions, of the types 0x6a and 0x64, without gas or logs.
ARBITRUM = {
    "hash": "0x332983e612ad662cde8fcdc6d0c209b2e1ac345d237a29f8c564fd56b2af3a1d",
    "parentHash": "0xb41992b787d35ceceb39a468245da737aec92221b07dc41d0acd074012d3d3d4",
    "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
    "miner": "0x5f8ef0fda2d203f5dfbaa34b9fb64dde51332a7f",
    "stateRoot": "0x2d6630e3c5284851abf1177ef64f662bbda5042dc79fdc44f87eb5a8b314a16b",
    "transactionsRoot": "0xcb74cbd7b0d72c28bae11b8bd46bacb72117f783840809a8322388aa8731a480",
    "receiptsRoot": "0xd7a92f3697d06225df2a55e920d2f7a04a4b78f19a42e774c4a3993e342c61bb",
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x1",
    "number": "0x6f47fcf",
    "gasLimit": "0x4000000000000",
    "gasUsed": "0x0",
    "timestamp": "0x64c76767",
    "extraData": "0xd87645bfd50007e47b9070aa3a065d7e17b2f9254b15590a1859041fbb98fe87",
    "mixHash": "0x0000000000014ea900000000010fc88f000000000000000a0000000000000000",
    "nonce": "0x00000000000f4d31",
    "baseFeePerGas": "0x5f5e100",
}


# -- hashing


@given(st.recursive(st.binary(max_size=70) | st.integers(0, 2**70), lambda inner: st.lists(inner, max_size=20)))
def test_rlp_is_that_of_the_reference_library(item: Any) -> None:
    assert rlp(item) == reference.encode(item)


def test_a_real_header_and_its_receipts_root_are_recomputed() -> None:
    assert "0x" + header_hash(ARBITRUM).hex() == ARBITRUM["hash"]
    receipts = [receipt(kind, 1, 0, EMPTY_BLOOM, []) for kind in (0x6A, 0x64)]
    assert "0x" + list_root(receipts).hex() == ARBITRUM["receiptsRoot"]


def test_the_constants_are_what_they_stand_for() -> None:
    assert EMPTY_ROOT == keccak(rlp(b"")) == trie_root({})
    assert keccak(rlp([])) == EMPTY_UNCLES


@pytest.mark.parametrize(
    ("pairs", "root"),
    [
        # The "dogs", "puppy" and "foo" cases of the Ethereum test suite.
        (
            {"doe": "reindeer", "dog": "puppy", "dogglesworth": "cat"},
            "8aad789dff2f538bca5d8ea56e8abe10f4c7ba3a5dea95fea4cd6e7c3a1168d3",
        ),
        (
            {"do": "verb", "horse": "stallion", "doge": "coin", "dog": "puppy"},
            "5991bb8c6514148a29db676a14ac506cd2cd5775ace63c30a4fe457715e9ac84",
        ),
        (
            {"do": "verb", "ether": "", "horse": "stallion", "shaman": "", "doge": "coin", "dog": "puppy"},
            "5991bb8c6514148a29db676a14ac506cd2cd5775ace63c30a4fe457715e9ac84",
        ),
        ({"foo": "bar", "food": "bass"}, "17beaa1648bafa633cda809c90c04af50fc8aed3cb40d16efbddee6fdf63c4c3"),
        ({"A": "a" * 50}, "d23786fb4a010da3ce639d66d5e904a11dbc02746d1ce25029e53290cabf28ab"),
    ],
)
def test_trie_roots_of_the_ethereum_tests(pairs: dict[str, str], root: str) -> None:
    assert trie_root({k.encode(): v.encode() for k, v in pairs.items()}).hex() == root


@given(st.lists(st.binary(min_size=20, max_size=32), max_size=30), st.binary(min_size=32, max_size=32))
def test_a_bloom_knows_all_that_is_in_it_and_nothing_else_by_bits(values: list[bytes], other: bytes) -> None:
    bits = int.from_bytes(bloom(values), "big")
    assert all(bits & bloom_bits(v) == bloom_bits(v) for v in values)
    assert 1 <= bloom_bits(other).bit_count() <= 3
    rest = bits & ~bloom_bits(values[0]) if values else 0
    assert rest.bit_count() <= 3 * max(0, len(values) - 1)


def test_a_bloom_bit_counts_from_the_end() -> None:
    # keccak("") starts c5d2 4601 86f7: bits 0x5d2, 0x601, 0x6f7.
    assert bloom_bits(b"") == 1 << 0x5D2 | 1 << 0x601 | 1 << 0x6F7
    assert bloom([b""])[255 - 0x5D2 // 8] == 1 << 0x5D2 % 8


# -- the tree


@pytest.fixture
def chain() -> Chain:
    return Chain()


def test_each_header_hashes_to_its_hash_and_its_roots_to_its_content() -> None:
    tree = Tree()
    tip = Exchange(tree).grow(tree.genesis.hash, 12, random.Random(3), 3.0)
    for block in tree.path(tip.hash):
        header = block.header()
        assert "0x" + header_hash(header).hex() == header["hash"]
        receipts = block.receipts()
        encoded = [
            receipt(
                int(r["type"], 16), int(r["status"], 16), int(r["cumulativeGasUsed"], 16), raw(r["logsBloom"]),
                [(raw(g["address"]), [raw(t) for t in g["topics"]], raw(g["data"])) for g in r["logs"]],
            )
            for r in receipts
        ]  # fmt: skip
        assert "0x" + list_root(encoded).hex() == header["receiptsRoot"]
        assert [g for r in receipts for g in r["logs"]] == block.logs()
        expected = bloom(v for g in block.logs() for v in (raw(g["address"]), *map(raw, g["topics"])))
        assert "0x" + expected.hex() == header["logsBloom"]
        assert header["gasUsed"] == (receipts[-1]["cumulativeGasUsed"] if receipts else "0x0")


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_a_transaction_stands_elsewhere_with_other_logs_on_another_fork(chain: Chain) -> None:
    blocks = chain.tree.of_tx[keccak(b"t9")]
    assert [(b.number, len(b.logs())) for b in blocks] == [(9, 2), (8, 1)]
    assert chain.tree.fork_point(chain.tip, chain.side_tip) is chain.main[7]
    assert places(chain.tree.logs(chain.tip)) == EVERY
    assert places(chain.tree.logs(chain.side_tip, 6)) == [(7, 0), (7, 1), (8, 0)]


def test_a_salt_tells_equal_blocks_apart_and_nothing_else_does(chain: Chain) -> None:
    tree, parent = chain.tree, chain.tip
    assert tree.extend(parent) is tree.extend(parent)
    salts = (b"", b"a", b"b", b"x" * 40)
    blocks = [tree.extend(parent, salt=s) for s in salts]
    assert len({b.hash for b in blocks}) == len(salts)
    assert len({b.hash for b in (blocks[0], tree.extend(parent, timestamp=blocks[0].timestamp + 1))}) == 2


def test_what_no_chain_has_is_refused(chain: Chain) -> None:
    with pytest.raises(ValueError, match="older than its parent"):
        chain.tree.extend(chain.tip, timestamp=chain.main[-1].timestamp - 1)
    with pytest.raises(ValueError, match="twice"):
        chain.tree.extend(chain.tip, [tx("a"), tx("a")])
    with pytest.raises(ValueError, match="failed"):
        chain.tree.extend(chain.tip, [SimTx(b"\1" * 32, (log(),), status=0)])


def test_four_blocks_share_a_second_and_a_recorded_hash_is_kept() -> None:
    tree = Tree(genesis_time=1000, genesis_hash=b"\1" * 32)
    tip = tree.grow(tree.genesis.hash, 8)
    assert [b.timestamp for b in tree.path(tip.hash)] == [1000, 1000, 1000, 1000, 1001, 1001, 1001, 1001, 1002]
    assert tree.extend(tip.hash, block_hash=b"\2" * 32).hash == b"\2" * 32
    assert tree.ancestor(tip.hash, 0).hash == b"\1" * 32


# -- traffic


def test_traffic_is_what_the_oracle_reads() -> None:
    tree, rng = Tree(), random.Random(5)
    tip = grow(tree, tree.genesis.hash, 300, rng, 3.0)
    rows = recompute(tree.logs(tip.hash), ROOT / "config/devnet.toml")
    assert all(rows.values()), [name for name, found in rows.items() if not found]
    assert traffic(rng, tree, tip.hash, 3)


def test_a_fork_continues_from_its_fork_point_and_replays_transactions() -> None:
    tree, rng = Tree(), random.Random(6)
    tip = grow(tree, tree.genesis.hash, 40, rng, 3.0)
    fork = exchange(tree).fork(tip.hash, 10, 12, rng)
    assert (tree.fork_point(tip.hash, fork.hash).number, fork.number) == (30, 42)
    both = [blocks for blocks in tree.of_tx.values() if len(blocks) == 2]
    contents = [
        [next(t for t in b.txs if t.hash in one) for b in blocks] for blocks in both for one in [common(blocks)]
    ]
    assert any(a.logs == b.logs for a, b in contents)
    assert any(a.logs != b.logs for a, b in contents)
    assert any(a.number != b.number for a, b in both)
    assert recompute(tree.logs(fork.hash), ROOT / "config/devnet.toml")


def common(blocks: list[Block]) -> set[bytes]:
    return {t.hash for t in blocks[0].txs} & {t.hash for t in blocks[1].txs}


def test_the_same_seed_gives_the_same_chain() -> None:
    def tip() -> bytes:
        tree, rng = Tree(), random.Random(7)
        head = grow(tree, tree.genesis.hash, 20, rng)
        return exchange(tree).fork(head.hash, 5, 6, rng, 1.5).hash

    assert tip() == tip()


def test_it_shares_no_code_with_the_program() -> None:
    for path in set((ROOT / "tests/support/simchain").glob("*.py")) - set(
        (ROOT / "tests/support/simchain").glob("test_*.py")
    ):
        assert not re.search(r"^\s*(from|import) indexer\b", path.read_text(), re.MULTILINE), path.name
