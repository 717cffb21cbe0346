"""JSON of any shape becomes headers and logs, or an error of ours; nothing else leaves the parser."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.types import Header, Log
from indexer.errors import InconsistentResponseError, IndexerError, RpcError, TransientRpcError
from indexer.rpc import wire
from tests.support.stubnode import ADDRESS, hash_of, log_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text("0123456789abcdefx", max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BLOCK = {
    "number": "0x5", "hash": hash_of(5), "parentHash": hash_of(4), "timestamp": "0x64", "logsBloom": "0x" + "00" * 256
}  # fmt: skip


def hexed(raw: bytes) -> str:
    return "0x" + raw.hex()


@given(JSON)
def test_garbage_is_an_error_of_ours(value: Any) -> None:
    for parse in (
        lambda: wire.header(value),
        lambda: wire.logs(value, 0, 10, [ADDRESS]),
        lambda: wire.logs([value], 0, 10, [ADDRESS]),
    ):
        try:
            parse()
        except RpcError:
            continue
        assert value == []  # what is not refused is an empty answer


@given(st.sampled_from(sorted(log_of(5))), JSON)
def test_a_log_with_one_wrong_field_is_read_or_an_error_of_ours(field: str, value: Any) -> None:
    try:
        (log,) = wire.logs([{**log_of(5), field: value}], 0, 10, [ADDRESS])
    except IndexerError:
        return
    assert isinstance(log, Log)


@given(st.sampled_from(sorted(BLOCK)), JSON)
def test_a_header_with_one_wrong_field_is_read_or_an_error_of_ours(field: str, value: Any) -> None:
    try:
        header = wire.header({**BLOCK, field: value})
    except RpcError:
        return
    assert isinstance(header, Header) and 0 <= header.timestamp < 2**63


@st.composite
def answers(draw: st.DrawFn) -> list[Log]:
    positions = draw(st.sets(st.tuples(st.integers(0, 2**62), st.integers(0, 99_999)), max_size=6))
    raw = st.binary(min_size=32, max_size=32)
    stamp = draw(st.none() | st.integers(0, 2**37))
    hashes = {block: draw(raw) for block, _ in positions}
    return [
        Log(
            block, index, bytes.fromhex(ADDRESS[2:]), draw(raw), draw(st.integers(0, 9)),
            tuple(draw(st.lists(raw, max_size=4))), draw(st.binary(max_size=70)), hashes[block], stamp,
        )
        for block, index in positions
    ]  # fmt: skip


@given(answers(), st.randoms())
def test_well_formed_logs_come_back_whole_and_in_chain_order(logs: list[Log], random: Any) -> None:
    sent = [
        {
            "address": hexed(log.address).replace("a", "A"),
            "topics": [hexed(t) for t in log.topics],
            "data": hexed(log.data),
            "blockNumber": hex(log.block_number),
            "blockHash": hexed(log.block_hash),
            "transactionHash": hexed(log.transaction_hash),
            "transactionIndex": hex(log.transaction_index),
            "logIndex": hex(log.log_index),
            **({} if log.block_timestamp is None else {"blockTimestamp": hex(log.block_timestamp)}),
        }
        for log in logs
    ]
    random.shuffle(sent)
    assert wire.logs(sent, 0, 2**62, [ADDRESS]) == sorted(logs, key=lambda g: (g.block_number, g.log_index))


@pytest.mark.parametrize(
    "stamp", ["1740000500", "0xe677d21fdbff", "0x" + "f" * 64, "0x", "", "0x1_0", 1740000500, ["0x1"], {"s": 1}, None]
)
def test_a_time_of_a_log_that_cannot_be_read_is_as_good_as_none(stamp: Any) -> None:
    first, second = wire.logs([{**log_of(5), "blockTimestamp": stamp}, log_of(5, 1)], 0, 10, [ADDRESS])
    assert first.block_timestamp is second.block_timestamp is None


def test_quantities_and_data_with_zeros_in_front_and_in_upper_case_are_read() -> None:
    spelled = {key: v.replace("0x", "0X") if isinstance(v, str) else v for key, v in log_of(5).items()}
    spelled |= {"blockNumber": "0X0005", "logIndex": "0x00", "transactionIndex": "0x0000"}
    assert wire.logs([spelled], 0, 10, [ADDRESS]) == wire.logs([log_of(5)], 0, 10, [ADDRESS])
    assert wire.header({**BLOCK, "number": "0X05"}) == wire.header(BLOCK)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([{**log_of(5), "removed": True}], "removed"),
        ([log_of(5), log_of(5)], "duplicate log"),
        ([log_of(5), log_of(5, 1, fork="b")], "two hashes for block 5"),
        ([log_of(11)], "in an answer for blocks 0 to 10"),
        ([log_of(5, address="0x" + "b2" * 20)], "not requested"),
        ([{**log_of(5), "blockHash": None}], "pending"),
        ([{**log_of(5), "blockNumber": None}], "pending"),
        ([{**log_of(5), "blockHash": None, "blockNumber": None}], "pending"),
    ],
)
def test_an_answer_that_contradicts_itself_or_the_question_is_inconsistent(answer: list[Any], said: str) -> None:
    with pytest.raises(InconsistentResponseError, match=said):
        wire.logs(answer, 0, 10, [ADDRESS])


NEEDED = ("address", "topics", "data", "blockNumber", "blockHash", "transactionHash", "transactionIndex", "logIndex")


@pytest.mark.parametrize("value", ["absent", None, 7, True, [], ["0x"], {}])
def test_a_log_that_lacks_any_of_its_fields_is_refused_first_or_later(value: Any) -> None:
    for picked in range(1, 1 << len(NEEDED)):
        lacking = [name for n, name in enumerate(NEEDED) if picked >> n & 1]
        log = log_of(6) | {name: value for name in lacking}
        if value == "absent":
            log = {name: field for name, field in log.items() if name not in lacking}
        if value == [] and lacking == ["topics"]:
            continue  # an anonymous event
        for answer in ([log], [log_of(5), log], [log, log]):
            with pytest.raises((TransientRpcError, InconsistentResponseError)):
                wire.logs(answer, 0, 10, [ADDRESS])


@pytest.mark.parametrize(
    "value", ["", "0x", "5", 5, 5.0, None, True, "0x-5", "-0x5", "0x 5", "0x5 ", "0x1_0", "0xg", "0x٣", "0x0x5"]
)
def test_what_is_no_hex_quantity_is_refused(value: Any) -> None:
    with pytest.raises(TransientRpcError, match="not a hex quantity"):
        wire.quantity(value, "it")


def test_a_quantity_fits_a_bigint() -> None:
    assert wire.quantity("0x7fffffffffffffff", "it") == 2**63 - 1
    assert wire.quantity("0x0005", "it") == 5
    for value in ("0x8000000000000000", "0x" + "f" * 10_000):
        with pytest.raises(TransientRpcError):
            wire.quantity(value, "it")


@pytest.mark.parametrize("value", ["", "aa", "0xa", "0xaa bb", "0x aa", "0xzz", None, 7, ["0xaa"]])
def test_what_is_no_hex_of_whole_bytes_is_refused(value: Any) -> None:
    with pytest.raises(TransientRpcError, match="not 0x hex"):
        wire.data(value, "it")


def test_bytes_of_the_wrong_length_are_refused() -> None:
    assert wire.data("0x", "it") == b""
    with pytest.raises(TransientRpcError, match="1 bytes, not 32"):
        wire.data("0xaa", "it", 32)


def test_another_block_than_the_one_asked_for_is_inconsistent() -> None:
    assert wire.header(BLOCK, 5).number == 5
    with pytest.raises(InconsistentResponseError, match="asked for block 6, got block 5"):
        wire.header(BLOCK, 6)


@pytest.mark.parametrize("bloom", [None, "0x", "0x" + "00" * 255, "0xzz", 7, ["0x00"]])
def test_a_header_whose_bloom_cannot_be_read_is_read_without_it(bloom: Any) -> None:
    """It only raises suspicion here: a block must not be lost for it. A proof needs it, and all other fields."""
    assert wire.header({**BLOCK, "logsBloom": bloom}).logs_bloom == b""
    assert wire.header({k: v for k, v in BLOCK.items() if k != "logsBloom"}).logs_bloom == b""


def test_a_log_index_without_room_in_the_unique_id_is_named() -> None:
    with pytest.raises(IndexerError, match="log index of 100000"):
        wire.logs([log_of(5, 100_000)], 0, 10, [ADDRESS])
