"""A unit of work: the logs of one block range from one endpoint, and how we come to believe it (one unit, one
endpoint). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from indexer.chain.types import Header, Log
from indexer.errors import ParentMismatchError


class ServedRange(NamedTuple):
    """Blocks first..last were read from `endpoint`."""

    first: int
    last: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Blocks first..last, ingested for `addresses`. `blocks` are the rows to keep: ends, blocks with logs, and above
    finalized every block. `parent_hash` is empty where no header was read. `sources`: who served them, where that is
    to be stored. `final`: up to which block the chain that they were read from is final, -1 where nothing shows it."""

    first: int
    last: int
    addresses: tuple[str, ...]
    logs: list[Log]
    blocks: list[Header]
    sources: tuple[ServedRange, ...] = ()
    final: int = -1

    @property
    def times(self) -> dict[int, int]:
        """Block timestamps in seconds, for every block that has logs."""
        return {b.number: b.timestamp for b in self.blocks}


def merge_batches(units: Sequence[LogBatch]) -> LogBatch:
    """Units that follow one another, for the same contracts, as one. Raises ParentMismatchError where they do not
    join."""
    for below, above in pairwise(units):
        if above.blocks[0].parent_hash != below.blocks[-1].hash:
            raise ParentMismatchError(above.first)
    if len(units) == 1:
        return units[0]
    logs = [log for unit in units for log in unit.logs]
    blocks = [block for unit in units for block in unit.blocks]
    sources = tuple(
        ServedRange(parts[0].first, parts[-1].last, endpoint)
        for endpoint, same in groupby((s for unit in units for s in unit.sources), lambda s: s.endpoint)
        if (parts := list(same))
    )
    return LogBatch(units[0].first, units[-1].last, units[0].addresses, logs, blocks, sources)
