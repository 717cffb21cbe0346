"""How a unit of work is believed: hand-made answers, right and contradictory."""

from __future__ import annotations

import pytest

from indexer.chain.bloom import mask, may_contain
from indexer.chain.forks import HeadRelation, compare_head
from indexer.chain.types import BlockRef, Header, Log
from indexer.errors import InconsistentResponseError, ParentMismatchError
from indexer.ingest.confirm import blocks_with_unmet_bloom, confirm_final_range, confirm_head_range

ADDRESS = bytes.fromhex("27e5cb712334e101b3c232eb0be198baaa595f5f")
WATCHED = ["0x" + ADDRESS.hex()]


def digest(number: int, branch: str = "a") -> bytes:
    return f"{branch}{number}".encode().rjust(32, b"\0")


def header(number: int, branch: str = "a", bloom: bytes = b"") -> Header:
    return Header(number, digest(number, branch), digest(number - 1, branch), 1000 + number, bloom)


def log(number: int, index: int = 0, branch: str = "a", time: int | None = None) -> Log:
    return Log(number, index, ADDRESS, b"\1" * 32, 0, (b"\2" * 32,), b"", digest(number, branch), time)


def test_a_plain_range_keeps_its_ends_and_the_blocks_with_logs() -> None:
    unit = confirm_final_range(10, 20, WATCHED, [log(15, time=1015)], [header(10), header(20)], digest(9), {15: 1015})
    assert [b.number for b in unit.blocks] == [10, 15, 20]
    assert unit.times[15] == 1015


def test_a_plain_range_that_does_not_join_the_stored_block_is_a_broken_seam() -> None:
    with pytest.raises(ParentMismatchError):
        confirm_final_range(10, 20, WATCHED, [], [header(10), header(20)], digest(9, "b"))


@pytest.mark.parametrize("number", [10, 20])
def test_a_log_that_names_another_hash_than_its_header_is_inconsistent(number: int) -> None:
    with pytest.raises(InconsistentResponseError):
        confirm_final_range(10, 20, WATCHED, [log(number, branch="b", time=1)], [header(10), header(20)], None)
    with pytest.raises(InconsistentResponseError):
        confirm_head_range(10, 20, WATCHED, [log(number, branch="b")], [header(n) for n in range(10, 21)], None)


@pytest.mark.parametrize("said", [None, 1015])
def test_a_block_with_logs_needs_a_confirmed_time_whatever_its_logs_say(said: int | None) -> None:
    with pytest.raises(InconsistentResponseError, match="no timestamp is known for block 15"):
        confirm_final_range(10, 20, WATCHED, [log(15, time=said)], [header(10), header(20)], None)


def test_a_chained_range_needs_every_header_and_every_parent() -> None:
    headers = [header(n) for n in range(10, 15)]
    assert confirm_head_range(10, 14, WATCHED, [log(12)], headers, digest(9)).times[12] == 1012
    with pytest.raises(InconsistentResponseError, match="not complete"):
        confirm_head_range(10, 14, WATCHED, [], headers[:2] + headers[3:], None)
    with pytest.raises(InconsistentResponseError, match="not a child"):
        confirm_head_range(10, 14, WATCHED, [], [*headers[:3], header(13, "b"), header(14, "b")], None)
    with pytest.raises(ParentMismatchError):
        confirm_head_range(10, 14, WATCHED, [], headers, digest(9, "b"))


def test_a_bloom_that_announces_a_watched_contract_makes_an_empty_answer_suspicious() -> None:
    bloom = mask(ADDRESS).to_bytes(256, "big")
    assert may_contain(bloom, ADDRESS) and not may_contain(bytes(256), ADDRESS)
    unit = confirm_head_range(10, 11, WATCHED, [], [header(10, bloom=bloom), header(11, bloom=bytes(256))], None)
    assert [b.number for b in blocks_with_unmet_bloom(unit)] == [10]
    unit = confirm_head_range(10, 11, WATCHED, [log(10)], [header(10, bloom=bloom), header(11)], None)
    assert blocks_with_unmet_bloom(unit) == []


def test_only_a_differing_hash_makes_a_fork() -> None:
    tip = BlockRef(20, digest(20), 1020)
    assert compare_head(None, header(5), None) is HeadRelation.AHEAD
    assert compare_head(tip, header(21, "b"), None) is HeadRelation.AHEAD
    assert compare_head(tip, header(20), digest(20)) is HeadRelation.EVEN
    assert compare_head(tip, header(18), digest(18)) is HeadRelation.BEHIND
    assert compare_head(tip, header(18), None) is HeadRelation.BEHIND
    assert compare_head(tip, header(18, "b"), digest(18)) is HeadRelation.FORK
    assert compare_head(tip, header(20, "b"), digest(20)) is HeadRelation.FORK
