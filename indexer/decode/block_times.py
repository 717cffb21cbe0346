"""Block times from event data: contracts of the exchange put block.timestamp into most of their events.

The timestamp that a node adds to a log is not trusted by itself, so times from events save most of the headers of a
backfill. They are used only for contracts whose configuration says `stamps`, and where nothing else confirms them the
fetcher compares some in a range with headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from indexer.chain.types import Log, address_bytes
from indexer.decode.registry import Contract

FIELD = "blockTimestamp"
_DYNAMIC = re.compile(r"\[\]|string|bytes(?!\d)")
_YEAR_10000 = 253_402_300_800  # Unix time (s).

TimeFields = Mapping[bytes, int]  # Address + topic0 -> offset of the time in the data (bytes).


def time_fields_of(contracts: Iterable[Contract]) -> dict[bytes, int]:
    """Return the time field of every event of a stamping contract that has one in the head of its data."""
    fields: dict[bytes, int] = {}
    for contract in contracts:
        for event in contract.events if contract.stamps else ():
            word = 0
            for param in (p for p in event.params if not p.indexed):
                if param.name == FIELD and param.type == "uint256":
                    fields[address_bytes(contract.address) + event.topic0] = 32 * word
                words = _head_words(param.type)
                if words is None:
                    break
                word += words
    return fields


def _head_words(kind: str) -> int | None:
    """Return how many words a canonical ABI type takes in the head.

    None for fixed arrays: a time field behind one is not used.
    """
    if _DYNAMIC.search(kind):
        return 1
    return None if "[" in kind else kind.count(",") + 1


def block_times(logs: Iterable[Log], stamps: TimeFields) -> dict[int, int]:
    """Return block -> time (s), taken from the first log of the block that carries a time."""
    times: dict[int, int] = {}
    for log in logs:
        if log.block_number in times or not log.topics:
            continue
        offset = stamps.get(log.address + log.topics[0])
        if offset is not None and len(log.data) >= offset + 32:
            time = int.from_bytes(log.data[offset : offset + 32])
            if time < _YEAR_10000:
                times[log.block_number] = time
    return times
