"""A unit of work: the logs of one block range from one endpoint, and how we come to believe it (rule 7). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import NamedTuple

from indexer.chain.bloom import may_contain
from indexer.chain.types import Header, Log
from indexer.errors import Inconsistent, IndexerError


class Source(NamedTuple):
    """Blocks first..last were read from `endpoint`."""

    first: int
    last: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class Unit:
    """Blocks first..last, ingested for `addresses`. `blocks` are the rows to keep: ends, blocks with logs, and above
    finalized every block. `parent_hash` is empty where no header was read. `sources`: who served them, where that is
    to be stored. `final`: up to which block the chain that they were read from is final, -1 where nothing shows it."""

    first: int
    last: int
    addresses: tuple[str, ...]
    logs: list[Log]
    blocks: list[Header]
    sources: tuple[Source, ...] = ()
    final: int = -1

    @property
    def times(self) -> dict[int, int]:
        """Block timestamps in seconds, for every block that has logs."""
        return {b.number: b.timestamp for b in self.blocks}


class SeamBroken(IndexerError):
    """The range does not join the stored block before it: a reorg in between, or a lying node. Nothing concluded."""

    def __init__(self, number: int) -> None:
        super().__init__(f"block {number} does not follow the stored block {number - 1}")
        self.number = number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.number,)  # it crosses from worker processes


def confirm_plain(
    first: int,
    last: int,
    addresses: Sequence[str],
    logs: Sequence[Log],
    headers: Iterable[Header],
    before: bytes | None,
    times: Mapping[int, int] = MappingProxyType({}),
) -> Unit:
    """A range at or below finalized: `headers` hold at least the first and the last block, and those of all blocks with
    logs that are not in `times` (seconds, confirmed). `before` is the stored hash of block first - 1.

    What logs say of their block's time is not looked at: it would be stored for good, and nothing here confirms it.

    Raises Inconsistent when logs and headers disagree, SeamBroken when the range does not join what is stored.
    """
    known = {h.number: h for h in headers}
    if before is not None and known[first].parent_hash != before:
        raise SeamBroken(first)
    _agree(known, logs)
    for log in logs:
        if log.block_number not in known:
            time = times.get(log.block_number)
            if time is None:
                raise Inconsistent(f"no time is known for block {log.block_number}")
            known[log.block_number] = Header(log.block_number, log.block_hash, b"", time)
    numbers = {g.block_number for g in logs} | {first, last}
    return Unit(first, last, tuple(addresses), list(logs), [known[n] for n in sorted(numbers)])


def confirm_chained(
    first: int,
    last: int,
    addresses: Sequence[str],
    logs: Sequence[Log],
    headers: Sequence[Header],
    before: bytes | None,
) -> Unit:
    """A range above finalized: `headers` are those of first..last, every one. Raises as confirm_plain does."""
    if [h.number for h in headers] != list(range(first, last + 1)):
        raise Inconsistent(f"headers of blocks {first} to {last} are not complete")
    for parent, child in pairwise(headers):
        if child.parent_hash != parent.hash:
            raise Inconsistent(f"block {child.number} is not a child of block {parent.number} in the same answer")
    if before is not None and headers[0].parent_hash != before:
        raise SeamBroken(first)
    _agree({h.number: h for h in headers}, logs)
    return Unit(first, last, tuple(addresses), list(logs), list(headers))


def joined(units: Sequence[Unit]) -> Unit:
    """Units that follow one another, for the same contracts, as one. Raises SeamBroken where they do not join."""
    for below, above in pairwise(units):
        if above.blocks[0].parent_hash != below.blocks[-1].hash:
            raise SeamBroken(above.first)
    if len(units) == 1:
        return units[0]
    logs = [log for unit in units for log in unit.logs]
    blocks = [block for unit in units for block in unit.blocks]
    sources = tuple(
        Source(parts[0].first, parts[-1].last, endpoint)
        for endpoint, same in groupby((s for unit in units for s in unit.sources), lambda s: s.endpoint)
        if (parts := list(same))
    )
    return Unit(units[0].first, units[-1].last, units[0].addresses, logs, blocks, sources)


def _agree(headers: dict[int, Header], logs: Iterable[Log]) -> None:
    for log in logs:
        header = headers.get(log.block_number)
        if header and header.hash != log.block_hash:
            raise Inconsistent(f"log {log.log_index} of block {log.block_number} names another block hash")


def without_logs_though_announced(unit: Unit) -> list[Header]:
    """Blocks whose bloom announces a watched address but which came without any log of ours.

    Nodes answer eth_getLogs for the newest block from an index that may lag behind its header; such an empty answer
    must be asked again. A bloom may also be wrong in this direction, so this is a reason to look twice, not a proof.
    """
    have = {log.block_number for log in unit.logs}
    watched = [bytes.fromhex(a[2:]) for a in unit.addresses]
    return [
        b
        for b in unit.blocks
        if b.number not in have and b.logs_bloom and any(may_contain(b.logs_bloom, a) for a in watched)
    ]
