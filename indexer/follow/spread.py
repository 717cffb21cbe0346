"""How values are spread over ranges: what a Prometheus histogram is made of. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

BLOCKS = (1, 2, 5, 10, 50, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DEPTHS = (1, 2, 4, 8, 16, 32, 64, 256, 1_024, 16_384)


class Spread:
    """`bounds` ascending; a value counts in the first range whose bound it does not exceed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, int]]:
        """(bound, how many values did not exceed it), the last one "+Inf"."""
        found, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found
