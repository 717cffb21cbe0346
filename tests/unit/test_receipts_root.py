"""RLP, tries, header hashes and receipts roots: against real blocks, and against the simulated chain's own encoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.chain import bloom, rlp, trie
from indexer.chain.receipts_root import Receipt, ReceiptLog, encoded, receipts_root
from indexer.errors import InconsistentResponseError, RpcError, TransientRpcError
from indexer.rpc import receipts
from tests.support.simchain import encoding
from tests.support.simchain.chain import SimLog, SimTx, Tree

DATA = Path(__file__).parents[1] / "data" / "consensus.jsonl"
ADDRESS = "0x" + "ab" * 20
# Ethereum's, and what Arbitrum adds: deposit, unsigned, contract, retry, submit retryable, internal, classic.
KINDS = [0, 1, 2, 3, 4, 0x64, 0x65, 0x66, 0x68, 0x69, 0x6A, 0x78]

words, addresses = st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20)
logs = st.builds(
    ReceiptLog, addresses, st.lists(words, max_size=4).map(tuple), st.binary(max_size=100) | st.binary(min_size=300)
)
outcomes = st.integers(0, 1) | words
gas = st.integers(0, 2**62)
receipt_strategies = st.builds(
    Receipt, st.sampled_from(KINDS), outcomes, gas, st.binary(min_size=256, max_size=256), st.lists(logs, max_size=4)
)


def block(line: dict[str, Any]) -> dict[str, Any]:
    """The receipts' blooms, which are left out of the file, come from the oracle."""
    for receipt in line["receipts"] or []:
        items = [v for g in receipt["logs"] for v in (g["address"], *g["topics"])]
        receipt["blockHash"] = line["header"]["hash"]
        receipt["logsBloom"] = "0x" + encoding.bloom(bytes.fromhex(v[2:]) for v in items).hex()
    return line


BLOCKS = [block(json.loads(line)) for line in DATA.read_text().splitlines()]
PROVABLE = [b for b in BLOCKS if b["receipts"] and not b.get("classic")]


def number(one: dict[str, Any]) -> int:
    return int(one["header"]["number"], 16)


@pytest.mark.parametrize("one", BLOCKS, ids=lambda b: f"{b['chain']} {number(b)}")
def test_real_headers_hash_to_their_hash_and_only_so(one: dict[str, Any]) -> None:
    found = receipts.sealed_header(one["header"], number(one))
    assert found.computed == found.header.hash
    for name in one["header"].keys() - {"hash"}:
        text = one["header"][name]
        other = one["header"] | {name: text[:-1] + ("1" if text[-1] != "1" else "2") if text != "0x" else "0x01"}
        changed = receipts.sealed_header(other, int(other["number"], 16))
        assert changed.computed != changed.header.hash, name


@pytest.mark.parametrize("one", PROVABLE, ids=lambda b: f"{b['chain']} {number(b)}")
def test_real_receipts_have_the_root_of_their_header_and_only_all_of_them_as_they_are(one: dict[str, Any]) -> None:
    block = receipts.sealed_header(one["header"], number(one))
    found = receipts.receipts(one["receipts"][::-1], block.header, [ADDRESS])
    assert receipts_root(found.receipts) == block.header.receipts_root and found.in_place
    for position, receipt in enumerate(found.receipts):
        for other in (receipt._replace(cumulative_gas=receipt.cumulative_gas + 1), receipt._replace(logs=[])):
            if other != receipt:
                changed = [*found.receipts[:position], other, *found.receipts[position + 1 :]]
                assert receipts_root(changed) != block.header.receipts_root
    assert receipts_root(found.receipts[:-1]) != block.header.receipts_root


def test_types_and_forks_of_the_real_blocks() -> None:
    """What the file is there to show: both chains, the forks that changed the forms, Arbitrum's own types."""
    last = {max(b["header"], key=list(b["header"]).index) for b in BLOCKS}
    assert {"nonce", "baseFeePerGas", "withdrawalsRoot", "requestsHash"} <= last
    kinds = {r.get("type", "0x0") for b in PROVABLE for r in b["receipts"]}
    assert {"0x0", "0x2", "0x64", "0x6a"} <= kinds
    assert any("root" in r for b in PROVABLE for r in b["receipts"])


def test_classic_blocks_of_arbitrum_one_have_roots_of_another_kind() -> None:
    """Before Nitro the receipts root was none over these receipts: such blocks cannot be proven, and are not."""
    for one in (b for b in BLOCKS if b.get("classic")):
        block = receipts.sealed_header(one["header"], number(one))
        assert (
            receipts_root(receipts.receipts(one["receipts"], block.header, []).receipts) != block.header.receipts_root
        )


# -- against the simulated chain's encoding, which was written apart


@given(st.binary(max_size=70) | st.binary(min_size=250, max_size=300) | st.binary(min_size=65530, max_size=65540))
def test_rlp_of_bytes(data: bytes) -> None:
    assert rlp.string(data) == encoding.rlp(data)


@given(st.integers(0, 2**300))
def test_rlp_of_numbers(value: int) -> None:
    assert rlp.integer(value) == encoding.rlp(value)


@given(st.lists(st.binary(max_size=60), max_size=12))
def test_rlp_of_lists(items: list[bytes]) -> None:
    assert rlp.array(b"".join(map(rlp.string, items))) == encoding.rlp(items)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20) | st.integers(0, 700).map(lambda n: [b"v"] * n))
@settings(deadline=None)
def test_roots_of_lists_short_and_long(values: list[bytes]) -> None:
    assert trie.trie_root(values) == encoding.list_root(values)


@given(receipt_strategies)
def test_receipts_of_every_type(one: Receipt) -> None:
    body: Any = [one.outcome, one.cumulative_gas, one.bloom, [[a, list(t), d] for a, t, d in one.logs]]
    assert encoded(one) == (bytes((one.kind,)) if one.kind else b"") + encoding.rlp(body)


@given(st.lists(addresses | words, max_size=30), addresses)
def test_blooms_announce_what_is_in_them(inside: list[bytes], other: bytes) -> None:
    made = encoding.bloom(inside)
    assert all(bloom.may_contain(made, item) for item in inside)
    bits = int.from_bytes(made, "big")
    assert bloom.may_contain(made, other) is (bits & encoding.bloom_bits(other) == encoding.bloom_bits(other))


simlogs = st.builds(SimLog, st.just(ADDRESS), st.lists(words, max_size=4).map(tuple), st.binary(max_size=80))
transactions = st.lists(
    st.builds(SimTx, words, st.lists(simlogs, max_size=3).map(tuple), st.sampled_from(KINDS)),
    max_size=8, unique_by=lambda tx: tx.hash,
)  # fmt: skip


@given(transactions, st.binary(max_size=40))
@settings(deadline=None)
def test_blocks_of_the_simulated_chain_prove_their_logs(txs: list[SimTx], salt: bytes) -> None:
    tree = Tree()
    made = tree.extend(tree.genesis.hash, txs, salt=salt)
    found = receipts.sealed_header(made.header(), 1)
    assert found.computed == found.header.hash == made.hash
    read = receipts.receipts(made.receipts(), found.header, [ADDRESS])
    assert receipts_root(read.receipts) == found.header.receipts_root and read.in_place
    assert [(g.log_index, g.transaction_index, g.transaction_hash, g.topics, g.data) for g in read.logs] == [
        (index, position, tx.hash, log.topics, log.data) for index, position, tx, log in made
    ]


# -- answers that are not what they should be


@given(st.data())
@settings(deadline=None)
def test_nonsense_in_any_field_is_an_error_of_the_endpoint(data: st.DataObject) -> None:
    one = json.loads(json.dumps(PROVABLE[1]))
    junk: Any = data.draw(st.sampled_from([None, 7, 1.5, "", "0x", "zz", "0x-1", [], {}, True, "0x" + "f" * 65]))
    spoilt = data.draw(st.sampled_from(one["receipts"]))
    places: list[Any] = [one["header"], spoilt, *spoilt["logs"]]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = junk
    try:
        block = receipts.sealed_header(one["header"], number(PROVABLE[1]))
        receipts.receipts(one["receipts"], block.header, [ADDRESS])
    except RpcError:
        pass


@pytest.mark.parametrize("result", [None, {}, "0x", [None], [[]], [{"logs": None}]])
def test_receipts_that_are_none(result: Any) -> None:
    header = receipts.sealed_header(PROVABLE[0]["header"], number(PROVABLE[0])).header
    with pytest.raises((InconsistentResponseError, TransientRpcError)):
        receipts.receipts(result, header, [])


def test_receipts_of_another_block_doubled_or_missing_ones_are_inconsistent() -> None:
    one = PROVABLE[1]
    header, all_ = receipts.sealed_header(one["header"], number(one)).header, one["receipts"]
    for wrong in ([{**all_[0], "blockHash": "0x" + "00" * 32}], [all_[0], all_[0]], all_[1:], [all_[0], *all_[2:]]):
        with pytest.raises(InconsistentResponseError):
            receipts.receipts(wrong, header, [])
    assert receipts.receipts([], header, []).receipts == []


def test_an_index_that_is_not_the_place_is_told() -> None:
    one = json.loads(json.dumps(PROVABLE[1]))
    header = receipts.sealed_header(one["header"], number(one)).header
    log = next(g for r in one["receipts"] for g in r["logs"] if g["logIndex"] == "0x3")
    log["logIndex"] = "0x35"
    found = receipts.receipts(one["receipts"], header, [log["address"]])
    assert not found.in_place and 0x35 in {g.log_index for g in found.logs}
