"""What coverage lacks, as segments to ingest. Pure."""

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
    """Blocks first..last that the contracts `addresses` (lower-case 0x) have not been ingested for."""

    first: int
    last: int
    addresses: tuple[str, ...]


def merge_ranges(spans: Iterable[BlockRange]) -> list[BlockRange]:
    """Ascending, those that overlap or touch as one."""
    found: list[BlockRange] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].last + 1:
            found[-1] = BlockRange(found[-1].first, max(found[-1].last, span.last))
        else:
            found.append(span)
    return found


def gaps_in(covered: Iterable[BlockRange], first: int, last: int) -> list[BlockRange]:
    """The parts of first..last that `covered` (sorted or not, disjoint) leaves open."""
    gaps: list[BlockRange] = []
    at = first
    for span in sorted(covered):
        if span.last < at:
            continue
        if span.first > last:
            break
        if span.first > at:
            gaps.append(BlockRange(at, span.first - 1))
        at = span.last + 1
    if at <= last:
        gaps.append(BlockRange(at, last))
    return gaps


def plan_missing(coverage: Mapping[str, Sequence[BlockRange]], first: int, last: int) -> list[ContractRange]:
    """Segments in chain order; within one, every block lacks the same contracts, so one request serves them all.

    `coverage` has an entry for every watched contract; an empty one means its whole past is uncovered.
    """
    return _contract_ranges({address: gaps_in(spans, first, last) for address, spans in coverage.items()})


def covered_ranges(coverage: Mapping[str, Sequence[BlockRange]], first: int, last: int) -> list[ContractRange]:
    """The opposite: what of first..last is ingested, and for which contracts."""
    held = {
        address: [
            BlockRange(max(s.first, first), min(s.last, last)) for s in spans if s.first <= last and s.last >= first
        ]
        for address, spans in coverage.items()
    }
    return _contract_ranges(held)


def _contract_ranges(gaps: Mapping[str, Sequence[BlockRange]]) -> list[ContractRange]:
    """Spans by contract as segments in chain order, each with the contracts that have all of it."""
    alike: dict[tuple[BlockRange, ...], list[str]] = defaultdict(list)  # mostly all contracts have the same spans
    for address, spans in gaps.items():
        alike[tuple(spans)].append(address)
    edges = sorted(
        edge for spans, group in alike.items() for s in spans for edge in ((s.first, 1, group), (s.last + 1, 0, group))
    )
    segments: list[ContractRange] = []
    lacking: list[str] = []
    for (start, begins, group), (stop, _, _) in pairwise([*edges, (-1, 0, [])]):
        lacking = sorted([*lacking, *group]) if begins else [a for a in lacking if a not in group]
        if not lacking or stop <= start:
            continue
        if segments and segments[-1].addresses == tuple(lacking) and segments[-1].last == start - 1:
            segments[-1] = ContractRange(segments[-1].first, stop - 1, tuple(lacking))
        else:
            segments.append(ContractRange(start, stop - 1, tuple(lacking)))
    return segments


def contiguous_end(coverage: Mapping[str, Sequence[BlockRange]], origin: int) -> int:
    """The last block up to which every contract is covered without a gap, counted from the origin; origin - 1 if none.

    The projector never passes it: beyond it a contract's logs may be unknown.
    """
    ends = []
    for spans in coverage.values():
        gaps = gaps_in(spans, origin, max((s.last for s in spans), default=origin - 1))
        ends.append(gaps[0].first - 1 if gaps else max((s.last for s in spans if s.last >= origin), default=origin - 1))
    return min(ends, default=origin - 1)


def sample_range(segments: Iterable[ContractRange], offset: int, most: int) -> ContractRange:
    """At most that many blocks from the `offset`-th block on of all that the segments hold, within one of them."""
    for segment in segments:
        size = segment.last - segment.first + 1
        if offset < size:
            first = segment.first + offset
            return segment._replace(first=first, last=min(first + most - 1, segment.last))
        offset -= size
    raise AssertionError("the offset is that of a block they hold")


class RangeSet:
    """Ascending and disjoint; those that overlap or touch are one."""

    def __init__(self, spans: Iterable[BlockRange] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for span in spans:
            if span.first > self.end + 1:
                self._firsts.append(span.first)
                self._lasts.append(span.last)
            else:
                self.add(span)

    def __iter__(self) -> Iterator[BlockRange]:
        return map(BlockRange, self._firsts, self._lasts)

    @property
    def end(self) -> int:
        """The highest block; -1 when there is none."""
        return self._lasts[-1] if self._lasts else -1

    def add(self, span: BlockRange) -> None:
        low, high = bisect_left(self._lasts, span.first - 1), bisect_right(self._firsts, span.last + 1)
        first, last = span
        if low < high:  # it overlaps or touches these
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def gaps(self, first: int, last: int) -> Iterator[BlockRange]:
        """The parts of first..last that are not in it, in order; each is found when it is asked for."""
        at, index = first, bisect_left(self._lasts, first)
        while at <= last:
            if index == len(self._firsts) or self._firsts[index] > last:
                yield BlockRange(at, last)
                return
            if self._firsts[index] > at:
                yield BlockRange(at, self._firsts[index] - 1)
            at, index = self._lasts[index] + 1, index + 1
