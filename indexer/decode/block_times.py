"""Block times that events carry: contracts of the exchange put block.timestamp into most of theirs.

The time that a node adds to a log is not believed by itself, so this saves most headers of a backfill. Only where the
configuration says that a contract's stamps are its blocks' times, and the fetcher compares some of a range with headers
where nothing else confirms them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from indexer.chain.types import Log
from indexer.decode.registry import Contract

FIELD = "blockTimestamp"
_DYNAMIC = re.compile(r"\[\]|string|bytes(?!\d)")
_YEAR_10000 = 253_402_300_800  # seconds

TimeFields = Mapping[bytes, int]  # address + topic0 -> where in the data the time stands, bytes


def time_fields_of(contracts: Iterable[Contract]) -> dict[bytes, int]:
    """Every event of stamping contracts that has the time in the head of its data."""
    found: dict[bytes, int] = {}
    for contract in contracts:
        for event in contract.events if contract.stamps else ():
            at = 0
            for param in (p for p in event.params if not p.indexed):
                if param.name == FIELD and param.type == "uint256":
                    found[bytes.fromhex(contract.address[2:]) + event.topic0] = 32 * at
                words = _head_words(param.type)
                if words is None:
                    break
                at += words
    return found


def _head_words(kind: str) -> int | None:
    """Words of a canonical ABI type in the head; None for fixed arrays, whose events simply tell no time."""
    if _DYNAMIC.search(kind):
        return 1
    return None if "[" in kind else kind.count(",") + 1


def block_times(logs: Iterable[Log], stamps: TimeFields) -> dict[int, int]:
    """Block -> time in seconds, as the first log that tells one says."""
    told: dict[int, int] = {}
    for log in logs:
        if log.block_number in told or not log.topics:
            continue
        at = stamps.get(log.address + log.topics[0])
        if at is not None and len(log.data) >= at + 32:
            time = int.from_bytes(log.data[at : at + 32])
            if time < _YEAR_10000:
                told[log.block_number] = time
    return told
