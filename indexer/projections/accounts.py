"""Owners of accounts: account_owner_updated_history and its snapshot.

History has one row per AccountOwnerUpdated log, repetitions included (the contracts emit it twice in one call).
AccountCreated fills the snapshot only where the account has no row yet, and never writes history.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import Event, StateKey, Transaction
from indexer.projections.write_set import WriteSet

EVENTS = ("AccountOwnerUpdated", "AccountCreated")
SNAPSHOT = "account_owner_updated_snapshot"


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the snapshot row of the account."""
    yield SNAPSHOT, (event.args["accountId"],)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Write the snapshot row of the account, and its history row unless the account was just created."""
    account = event.args["accountId"]
    if event.name == "AccountCreated":
        if write_set.get(SNAPSHOT, (account,)) is None:
            row = {"account_id": account, "new_owner": event.args["owner"]} | event.origin_columns()
            write_set.put(SNAPSHOT, (account,), row, event)
        return
    row = {"account_id": account, "new_owner": event.args["newOwner"]} | event.origin_columns()
    write_set.append("account_owner_updated_history", {"id": event.id} | row, event)
    write_set.put(SNAPSHOT, (account,), row, event)
