"""Upgrades of the watched proxies: a new implementation may emit events that no ABI of this release reads, so the last
one of each is kept where an alarm can see it."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import Event, StateKey, Transaction
from indexer.projections.write_set import WriteSet

EVENTS = ("Upgraded",)
TABLE = "indexer.proxy_upgrade"


def keys(event: Event) -> Iterable[StateKey]:
    yield TABLE, (event.address,)


def apply(ledger: WriteSet, tx: Transaction, event: Event) -> None:
    known = ledger.get(TABLE, (event.address,))
    row = {
        "address": event.address,
        "implementation": event.args["implementation"],
        "count": (known["count"] if known else 0) + 1,
        "block_number": event.block_number,
        "block_time": event.block_time,
    }
    ledger.put(TABLE, (event.address,), row, event)
