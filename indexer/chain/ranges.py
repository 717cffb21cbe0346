"""Block range arithmetic: what coverage contains, and what it lacks as contract ranges to ingest. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


class BlockRange(NamedTuple):
    """Blocks first..last, both included."""

    first: int
    last: int


class ContractRange(NamedTuple):
    """Blocks first..last of the contracts `addresses` (lower-case 0x): all ingested, or all still to ingest."""

    first: int
    last: int
    addresses: tuple[str, ...]


def count_blocks(ranges: Iterable[BlockRange | ContractRange]) -> int:
    """Return how many blocks the ranges have together; a block of two of them counts twice."""
    return sum(r.last - r.first + 1 for r in ranges)


def merge_ranges(ranges: Iterable[BlockRange]) -> list[BlockRange]:
    """Return the ranges in ascending order, with those that overlap or touch merged into one."""
    merged: list[BlockRange] = []
    for block_range in sorted(ranges):
        if merged and block_range.first <= merged[-1].last + 1:
            merged[-1] = BlockRange(merged[-1].first, max(merged[-1].last, block_range.last))
        else:
            merged.append(block_range)
    return merged


def gaps_in(covered: Iterable[BlockRange], first: int, last: int) -> list[BlockRange]:
    """Return the parts of first..last that `covered` (disjoint, in any order) leaves open."""
    gaps: list[BlockRange] = []
    start = first
    for block_range in sorted(covered):
        if block_range.last < start:
            continue
        if block_range.first > last:
            break
        if block_range.first > start:
            gaps.append(BlockRange(start, block_range.first - 1))
        start = block_range.last + 1
    if start <= last:
        gaps.append(BlockRange(start, last))
    return gaps


def plan_missing(coverage: Mapping[str, Sequence[BlockRange]], first: int, last: int) -> list[ContractRange]:
    """Return the uncovered parts of first..last in chain order.

    Within one contract range every block lacks the same contracts, so one request serves them all. `coverage` has an
    entry for every watched contract; an empty one means that its whole past is uncovered.
    """
    return _contract_ranges({address: gaps_in(ranges, first, last) for address, ranges in coverage.items()})


def covered_ranges(coverage: Mapping[str, Sequence[BlockRange]], first: int, last: int) -> list[ContractRange]:
    """Return the ingested parts of first..last in chain order, each with the contracts it is ingested for."""
    covered = {
        address: [
            BlockRange(max(s.first, first), min(s.last, last)) for s in ranges if s.first <= last and s.last >= first
        ]
        for address, ranges in coverage.items()
    }
    return _contract_ranges(covered)


def _contract_ranges(ranges_by_contract: Mapping[str, Sequence[BlockRange]]) -> list[ContractRange]:
    """Turn ranges by contract into contract ranges in chain order, each with the contracts that have all of it."""
    groups: dict[tuple[BlockRange, ...], list[str]] = defaultdict(list)  # Usually all contracts have the same ranges.
    for address, ranges in ranges_by_contract.items():
        groups[tuple(ranges)].append(address)
    edges = sorted(
        edge
        for ranges, group in groups.items()
        for s in ranges
        for edge in ((s.first, 1, group), (s.last + 1, 0, group))
    )
    merged: list[ContractRange] = []
    addresses: list[str] = []
    for (start, begins, group), (stop, _, _) in pairwise([*edges, (-1, 0, [])]):
        addresses = sorted([*addresses, *group]) if begins else [a for a in addresses if a not in group]
        if not addresses or stop <= start:
            continue
        if merged and merged[-1].addresses == tuple(addresses) and merged[-1].last == start - 1:
            merged[-1] = ContractRange(merged[-1].first, stop - 1, tuple(addresses))
        else:
            merged.append(ContractRange(start, stop - 1, tuple(addresses)))
    return merged


def contiguous_end(coverage: Mapping[str, Sequence[BlockRange]], origin: int) -> int:
    """Return the last block up to which every contract is covered without a gap from the origin; origin - 1 if none.

    The projector never passes it: beyond it, a contract's logs may be unknown.
    """
    ends = []
    for ranges in coverage.values():
        gaps = gaps_in(ranges, origin, max((s.last for s in ranges), default=origin - 1))
        ends.append(
            gaps[0].first - 1 if gaps else max((s.last for s in ranges if s.last >= origin), default=origin - 1)
        )
    return min(ends, default=origin - 1)


def sample_range(ranges: Iterable[ContractRange], offset: int, max_blocks: int) -> ContractRange:
    """Return at most `max_blocks` blocks, starting at the `offset`-th block of all `ranges`, within one of them."""
    for contract_range in ranges:
        size = contract_range.last - contract_range.first + 1
        if offset < size:
            first = contract_range.first + offset
            return contract_range._replace(first=first, last=min(first + max_blocks - 1, contract_range.last))
        offset -= size
    raise AssertionError("the offset must be that of a block in the ranges")


class RangeSet:
    """Block ranges, ascending and disjoint; those that overlap or touch are merged."""

    def __init__(self, ranges: Iterable[BlockRange] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for block_range in ranges:
            if block_range.first > self.end + 1:
                self._firsts.append(block_range.first)
                self._lasts.append(block_range.last)
            else:
                self.add(block_range)

    def __iter__(self) -> Iterator[BlockRange]:
        return map(BlockRange, self._firsts, self._lasts)

    @property
    def end(self) -> int:
        """The highest block; -1 if there is none."""
        return self._lasts[-1] if self._lasts else -1

    def add(self, block_range: BlockRange) -> None:
        """Add the blocks of a range."""
        low, high = bisect_left(self._lasts, block_range.first - 1), bisect_right(self._firsts, block_range.last + 1)
        first, last = block_range
        if low < high:  # The range overlaps or touches these.
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def gaps(self, first: int, last: int) -> Iterator[BlockRange]:
        """Yield the parts of first..last that are not in the set, in order; each is computed on demand."""
        start, index = first, bisect_left(self._lasts, first)
        while start <= last:
            if index == len(self._firsts) or self._firsts[index] > last:
                yield BlockRange(start, last)
                return
            if self._firsts[index] > start:
                yield BlockRange(start, self._firsts[index] - 1)
            start, index = self._lasts[index] + 1, index + 1
