"""The planner against brute force over sets of blocks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.ranges import (
    BlockRange,
    ContractRange,
    RangeSet,
    contiguous_end,
    gaps_in,
    merge_ranges,
    plan_missing,
    sample_range,
)

BLOCKS = 30


@st.composite
def disjoint_spans(draw: st.DrawFn) -> list[BlockRange]:
    cuts = sorted(draw(st.sets(st.integers(0, BLOCKS), max_size=8)))
    spans = [BlockRange(a, b - 1) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    return draw(st.permutations(spans))


def blocks(spans: list[BlockRange]) -> set[int]:
    return {n for s in spans for n in range(s.first, s.last + 1)}


@given(disjoint_spans(), st.integers(0, BLOCKS), st.integers(-1, BLOCKS))
def test_missing_is_the_range_without_what_is_covered(spans: list[BlockRange], first: int, last: int) -> None:
    assert blocks(gaps_in(spans, first, last)) == set(range(first, last + 1)) - blocks(spans)


@given(st.lists(st.builds(lambda a, n: BlockRange(a, a + n), st.integers(0, BLOCKS), st.integers(0, 9))))
def test_joined_spans_are_the_same_blocks_ascending_and_apart(spans: list[BlockRange]) -> None:
    found = merge_ranges(spans)
    assert blocks(found) == blocks(spans)
    assert all(left.last + 1 < right.first for left, right in pairwise(found))


@given(disjoint_spans(), st.integers(1, 9))
def test_a_sample_begins_at_any_block_that_is_left_and_stays_within_its_segment(
    spans: list[BlockRange], most: int
) -> None:
    segments = [ContractRange(*span, ("a",)) for span in spans]
    left = [(n, s.last) for s in segments for n in range(s.first, s.last + 1)]
    for offset, (first, end) in enumerate(left):
        assert sample_range(segments, offset, most) == ContractRange(first, min(first + most - 1, end), ("a",))


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), disjoint_spans(), min_size=1), st.integers(0, 10))
def test_a_plan_asks_for_each_missing_block_of_each_contract_exactly_once(
    coverage: dict[str, list[BlockRange]], first: int
) -> None:
    asked: dict[str, list[int]] = {a: [] for a in coverage}
    segments = plan_missing(coverage, first, BLOCKS)
    for segment in segments:
        for address in segment.addresses:
            asked[address] += range(segment.first, segment.last + 1)
    for address, spans in coverage.items():
        assert asked[address] == sorted(set(range(first, BLOCKS + 1)) - blocks(spans))
    assert segments == sorted(segments, key=lambda s: s.first)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), disjoint_spans(), min_size=1), st.integers(0, BLOCKS))
def test_the_front_is_the_last_block_before_any_contract_has_a_gap(
    coverage: dict[str, list[BlockRange]], origin: int
) -> None:
    expected = origin - 1
    while all(expected + 1 in blocks(spans) for spans in coverage.values()):
        expected += 1
    assert contiguous_end(coverage, origin) == expected


@given(disjoint_spans(), disjoint_spans(), st.integers(0, BLOCKS), st.integers(-1, BLOCKS))
def test_a_growing_set_of_blocks_has_the_gaps_that_are_left(
    some: list[BlockRange], more: list[BlockRange], first: int, last: int
) -> None:
    grown = RangeSet(some)
    for span in more:
        grown.add(span)
    have = blocks(some) | blocks(more)
    assert blocks(list(grown)) == have and grown.end == max(have, default=-1)
    assert all(below.last + 1 < above.first for below, above in pairwise(grown))
    assert list(grown.gaps(first, last)) == gaps_in(grown, first, last)
