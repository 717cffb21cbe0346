"""Log batches: the logs of one block range from one endpoint, the unit of trust (one unit, one endpoint). Pure."""

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
    """The confirmed logs of blocks first..last, ingested for `addresses`.

    `blocks` are the rows to store: the first and last block, blocks with logs, and every block above finalized. A
    block's `parent_hash` is empty if no header was read for it. `sources` says which endpoint served which blocks,
    where that is to be stored. `final` is the block up to which the chain that was read is final; -1 if nothing shows
    it.
    """

    first: int
    last: int
    addresses: tuple[str, ...]
    logs: list[Log]
    blocks: list[Header]
    sources: tuple[ServedRange, ...] = ()
    final: int = -1

    @property
    def times(self) -> dict[int, int]:
        """Block timestamps (s), for every block that has logs."""
        return {b.number: b.timestamp for b in self.blocks}


def merge_batches(batches: Sequence[LogBatch]) -> LogBatch:
    """Merge consecutive log batches of the same contracts into one. Raises ParentMismatchError if they do not join."""
    for below, above in pairwise(batches):
        if above.blocks[0].parent_hash != below.blocks[-1].hash:
            raise ParentMismatchError(above.first)
    if len(batches) == 1:
        return batches[0]
    logs = [log for batch in batches for log in batch.logs]
    blocks = [block for batch in batches for block in batch.blocks]
    sources = tuple(
        ServedRange(parts[0].first, parts[-1].last, endpoint)
        for endpoint, group in groupby((s for batch in batches for s in batch.sources), lambda s: s.endpoint)
        if (parts := list(group))
    )
    return LogBatch(batches[0].first, batches[-1].last, batches[0].addresses, logs, blocks, sources)
