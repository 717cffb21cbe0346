"""A growing set of blocks as spans. Pure. Adding to it and finding its gaps take no longer for many spans than for few:
where an endpoint keeps no receipts, every block with logs of ours leaves a gap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from indexer.ingest.planner import Span


class Spans:
    """Ascending and disjoint; those that overlap or touch are one."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for span in spans:
            if span.first > self.end + 1:
                self._firsts.append(span.first)
                self._lasts.append(span.last)
            else:
                self.add(span)

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._firsts, self._lasts)

    @property
    def end(self) -> int:
        """The highest block; -1 when there is none."""
        return self._lasts[-1] if self._lasts else -1

    def add(self, span: Span) -> None:
        low, high = bisect_left(self._lasts, span.first - 1), bisect_right(self._firsts, span.last + 1)
        first, last = span
        if low < high:  # it overlaps or touches these
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def gaps(self, first: int, last: int) -> Iterator[Span]:
        """The parts of first..last that are not in it, in order; each is found when it is asked for."""
        at, index = first, bisect_left(self._lasts, first)
        while at <= last:
            if index == len(self._firsts) or self._firsts[index] > last:
                yield Span(at, last)
                return
            if self._firsts[index] > at:
                yield Span(at, self._firsts[index] - 1)
            at, index = self._lasts[index] + 1, index + 1
