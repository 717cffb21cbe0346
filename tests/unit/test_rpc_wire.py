"""Answers are read strictly: what is not what it should be raises an error of ours and is asked for again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import Inconsistent, IndexerError, RpcError, Transient
from indexer.rpc import wire
from tests.stubnode import block, log

ADDRESS = "0x" + "0a" * 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_garbage_never_raises_anything_but_our_errors(garbage: Any) -> None:
    for read in (lambda: wire.header(garbage), lambda: wire.logs(garbage, 0, 10, [ADDRESS])):
        try:
            read()
        except RpcError:
            continue


@given(st.sampled_from(sorted(log(5))), JSON)
def test_one_wrong_field_of_a_log_is_noticed_or_read_right(field: str, value: Any) -> None:
    try:
        (read,) = wire.logs([log(5) | {field: value}], 0, 10, [ADDRESS])
    except IndexerError:
        return
    assert read.address == b"\x0a" * 20 and 0 <= read.block_number <= 10


def test_logs_come_back_whole_and_in_order() -> None:
    answer = [log(7, 2), log(5, 9), log(7, 0, blockTimestamp="0x10", topics=[], data="0x")]
    read = wire.logs(answer, 5, 7, [ADDRESS])
    assert [(g.block_number, g.log_index, g.block_timestamp) for g in read] == [(5, 9, None), (7, 0, 16), (7, 2, None)]
    assert read[0].topics == (b"\x01" * 32,) and read[0].data == b"\x12\x34" and read[1].topics == ()


@pytest.mark.parametrize(
    "answer",
    [
        [log(5, removed=True)],
        [log(5), log(5)],
        [log(5), log(5, 1, blockHash="0x" + "77" * 32)],
        [log(4)],
        [log(8)],
        [log(5, address="0x" + "0b" * 20)],
        [log(5, blockHash=None)],
    ],
)
def test_an_answer_that_contradicts_itself_or_the_question_is_inconsistent(answer: list[Any]) -> None:
    with pytest.raises(Inconsistent):
        wire.logs(answer, 5, 7, [ADDRESS])


def test_a_log_index_beyond_what_unique_id_holds_names_its_block() -> None:
    with pytest.raises(IndexerError, match="block 5"):
        wire.logs([log(5, 100_000)], 5, 7, [ADDRESS])


def test_a_header_of_another_block_or_with_json_numbers_is_refused() -> None:
    assert wire.header(block(9), 9).timestamp == 1_700_000_009
    with pytest.raises(Inconsistent):
        wire.header(block(9), 8)
    with pytest.raises(Transient):
        wire.header(block(9) | {"timestamp": 1_700_000_009})
    with pytest.raises(Transient):
        wire.header(None, 9)
