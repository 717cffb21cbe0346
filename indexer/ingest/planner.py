"""What coverage lacks, as segments to ingest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """Blocks first..last, both included."""

    first: int
    last: int


class Segment(NamedTuple):
    """Blocks first..last that the contracts `addresses` (lower-case 0x) have not been ingested for."""

    first: int
    last: int
    addresses: tuple[str, ...]


def missing(covered: Iterable[Span], first: int, last: int) -> list[Span]:
    """The parts of first..last that `covered` (sorted or not, disjoint) leaves open."""
    gaps: list[Span] = []
    at = first
    for span in sorted(covered):
        if span.last < at:
            continue
        if span.first > last:
            break
        if span.first > at:
            gaps.append(Span(at, span.first - 1))
        at = span.last + 1
    if at <= last:
        gaps.append(Span(at, last))
    return gaps


def plan(coverage: Mapping[str, Sequence[Span]], first: int, last: int) -> list[Segment]:
    """Segments in chain order; within one, every block lacks the same contracts, so one request serves them all.

    `coverage` has an entry for every watched contract; an empty one means its whole past is uncovered.
    """
    return _segments({address: missing(spans, first, last) for address, spans in coverage.items()})


def covered(coverage: Mapping[str, Sequence[Span]], first: int, last: int) -> list[Segment]:
    """The opposite: what of first..last is ingested, and for which contracts."""
    held = {
        address: [Span(max(s.first, first), min(s.last, last)) for s in spans if s.first <= last and s.last >= first]
        for address, spans in coverage.items()
    }
    return _segments(held)


def _segments(gaps: Mapping[str, Sequence[Span]]) -> list[Segment]:
    """Spans by contract as segments in chain order, each with the contracts that have all of it."""
    cuts = sorted({edge for spans in gaps.values() for s in spans for edge in (s.first, s.last + 1)})
    segments: list[Segment] = []
    for start, stop in pairwise(cuts):
        lacking = tuple(
            sorted(a for a, spans in gaps.items() if any(s.first <= start and stop - 1 <= s.last for s in spans))
        )
        if not lacking:
            continue
        if segments and segments[-1].addresses == lacking and segments[-1].last == start - 1:
            segments[-1] = Segment(segments[-1].first, stop - 1, lacking)
        else:
            segments.append(Segment(start, stop - 1, lacking))
    return segments


def front(coverage: Mapping[str, Sequence[Span]], origin: int) -> int:
    """The last block up to which every contract is covered without a gap, counted from the origin; origin - 1 if none.

    The projector never passes it: beyond it a contract's logs may be unknown.
    """
    ends = []
    for spans in coverage.values():
        gaps = missing(spans, origin, max((s.last for s in spans), default=origin - 1))
        ends.append(gaps[0].first - 1 if gaps else max((s.last for s in spans if s.last >= origin), default=origin - 1))
    return min(ends, default=origin - 1)
