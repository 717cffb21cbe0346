"""Logs of watched contracts that no decoder reads: counted per (address, topic0), one open incident each.

The raw log is kept, so a later release can decode it from what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import Event, StateKey, Transaction
from indexer.projections.write_set import WriteSet

TABLE = "indexer.undecoded"


def keys(event: Event) -> Iterable[StateKey]:
    yield TABLE, (event.address, event.topic0, event.reason)


def apply(ledger: WriteSet, tx: Transaction, event: Event) -> None:
    key = (event.address, event.topic0, event.reason)
    known = ledger.get(TABLE, key)
    if known is None:
        kind = "undecodable_log" if event.reason == "does not fit" else "unknown_topic"
        detail = event.detail or f"{event.reason}, first in {event.id}"
        if event.address in ledger.accounting:
            detail += f"; from block {event.block_number} on PnL and positions are unproven until stated again"
        ledger.incident(kind, f"{event.address} {event.topic0}".strip(), detail, event)
    row = {
        "address": event.address,
        "topic0": event.topic0,
        "reason": event.reason,
        "count": (known["count"] if known else 0) + 1,
        "first_block": known["first_block"] if known else event.block_number,
        "last_block": event.block_number,
    }
    ledger.put(TABLE, key, row, event)
