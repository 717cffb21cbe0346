"""Upgrades of the watched proxies: the last one of each is stored where an alert can see it.

A new implementation may emit events that no ABI of this release reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import Event, StateKey, Transaction
from indexer.projections.write_set import WriteSet

EVENTS = ("Upgraded",)
TABLE = "indexer.proxy_upgrade"


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the row of the proxy."""
    yield TABLE, (event.address,)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Store the new implementation and count the upgrade."""
    previous = write_set.get(TABLE, (event.address,))
    row = {
        "address": event.address,
        "implementation": event.args["implementation"],
        "count": (previous["count"] if previous else 0) + 1,
        "block_number": event.block_number,
        "block_time": event.block_time,
    }
    write_set.put(TABLE, (event.address,), row, event)
