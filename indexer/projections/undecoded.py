"""Logs of watched contracts that no decoder reads: counted per (address, topic0), with one open incident each.

A later release can decode them from what is stored (raw logs are kept).
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import Event, StateKey, Transaction
from indexer.projections.write_set import WriteSet

TABLE = "indexer.undecoded"


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the counter of logs of this address, topic0 and reason."""
    yield TABLE, (event.address, event.topic0, event.reason)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Count the log; open an incident with the first one."""
    key = (event.address, event.topic0, event.reason)
    previous = write_set.get(TABLE, key)
    if previous is None:
        kind = "undecodable_log" if event.reason == "does not fit" else "unknown_topic"
        detail = event.detail or f"{event.reason}, first in {event.id}"
        if event.address in write_set.accounting:
            detail += f"; from block {event.block_number} on PnL and positions are unproven until stated again"
        write_set.incident(kind, f"{event.address} {event.topic0}".strip(), detail, event)
    row = {
        "address": event.address,
        "topic0": event.topic0,
        "reason": event.reason,
        "count": (previous["count"] if previous else 0) + 1,
        "first_block": previous["first_block"] if previous else event.block_number,
        "last_block": event.block_number,
    }
    write_set.put(TABLE, key, row, event)
