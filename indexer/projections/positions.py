"""positions and position_raw: per (market, account), what the chain states and what follows from the executions.

PositionDataUpdated states a position, PassivePerpOrderAndPositionUpdate both sides after the execution, V3 both sides
before and after, PassivePerpMatchOrder none. Contracts emit PositionDataUpdated around an order, first brought up to
date and then after it, ahead of the order's own event: these belong to the order (`Transaction.statements`) and write
nothing by themselves. A row carries the place of the event that stated it last, or, where none did, of the execution.

A match order does not name its counterparty. The PositionDataUpdated events of its transaction do; where they are not
there, it is the market's pool account, which mirrors every AMM trade (`assign_counterparties`). Where neither its
transaction nor the deployment names an account, only the taker's position moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from indexer.chain.types import LOGS_PER_BLOCK
from indexer.projections.accounting import (
    NO_TRACKERS,
    Position,
    Stated,
    StatedPosition,
    Tracker,
    Trackers,
    TradeResult,
    apply_execution,
    apply_statement,
)
from indexer.projections.events import ORIGIN_COLUMNS, Event, StateKey, Transaction
from indexer.projections.row_encoder import NUMERIC_LIMIT, RowLayout
from indexer.projections.write_set import WriteSet

EVENTS = ("PositionDataUpdated",)
_LAST_BLOCK = 2**63 // LOGS_PER_BLOCK  # Above it unique_id does not fit a bigint.
_STATED = ("realized_pnl", "last_price", "last_price_timestamp", "funding_value", "base_multiplier", "adl_unwind_price")
# Names of values, in the order in which `_put` builds them. Both tables have these, position_raw some of them renamed.
_SHARED = (
    "market_id",
    "account_id",
    "base",
    *_STATED,
    *ORIGIN_COLUMNS,
    "average_entry_price",
    "average_entry_funding_value",
)
_RAW_NAMES = {
    "last_price_timestamp": "position_data_last_price_data_timestamp",
    "average_entry_price": "average_entry_price_off_chain_tracker",
    "average_entry_funding_value": "funding_value_off_chain_tracker",
}
ROWS = RowLayout({
    "positions": {name: name for name in (*_SHARED, "session", "last_trade_sequence_number")},
    "position_raw": {_RAW_NAMES.get(name, name): name for name in (*_SHARED, "realized_pnl_latest_snapshot")},
})  # fmt: skip
_BASE, _ENTRY = ROWS.names.index("base"), ROWS.names.index("average_entry_price")


def keys(event: Event) -> Iterable[StateKey]:
    """Return the position that the event states."""
    return keys_of(event.args["marketId"], event.args["accountId"])


def keys_of(market: int, account: int) -> tuple[StateKey]:
    """Return the state key of a position."""
    return (("positions", (market, account)),)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Write the stated position, unless the statement belongs to an execution."""
    if event.log_index not in tx.statements.consumed:
        record_statement(write_set, event, event.args["accountId"], event.args["positionData"])


def record_statement(write_set: WriteSet, event: Event, account: int, stated: Stated) -> None:
    """Set the position to what the event states.

    Args:
        write_set: holds the position's row, and takes the new one.
        event: the event that states it.
        account: the position's account.
        stated: the position as stated.
    """
    draft = _read(write_set, event, account)
    _write(write_set, draft, event, account, apply_statement(draft.position if draft else None, stated))


def record_trade(
    write_set: WriteSet, tx: Transaction, event: Event, account: int, size: int, price: int,
    before: Stated | None, after: Stated | None,
) -> TradeResult:  # fmt: skip
    """Move the position on one side of an execution.

    Args:
        write_set: holds the position's row, and takes the new one.
        tx: the transaction of the execution.
        event: the execution.
        account: the account on this side.
        size: signed base, as seen from this side (1e18).
        price: price of the execution (1e18).
        before: the position before the execution, where the event itself states it.
        after: the position after the execution, where the event itself states it.
    """
    stated = tx.statements.by_execution
    pending = stated.get((event.log_index, account)) if stated else None
    last = event
    if pending:
        before = before if before is not None else _first(pending, size, after)
        if after is None:
            last = pending[-1]
            after = last.args["positionData"]
    draft = _read(write_set, event, account, size)
    position, result = apply_execution(
        draft.position if draft else None, size, price, before, after, _trackers(tx, event)
    )
    _write(write_set, draft, last, account, position, event.args.get("eventSequenceNumber"))
    return result


def _first(pending: Sequence[Event], size: int, after: Stated | None) -> Stated | None:
    """Return the statement that brings the position up to date.

    A single statement is the one after the execution, unless the event itself states that one and the two differ by
    the execution.
    """
    single: Stated = pending[0].args["positionData"]
    if len(pending) > 1:
        return single
    return single if after is not None and size and single["base"] + size == after["base"] else None


def _trackers(tx: Transaction, event: Event) -> Trackers:
    data = tx.market_data(event.args["marketId"], event.log_index)
    if data is None:
        return NO_TRACKERS
    long, short = (
        Tracker(data[k]["fundingValue"], data[k]["baseMultiplier"], data[k]["adlUnwindPrice"])
        for k in ("longTrackers", "shortTrackers")
    )
    return Trackers(long, short)


@dataclass(slots=True)
class Draft:
    """A position after `event` that is not a row yet. `sequence`: the sequence number of its last trade."""

    event: Event
    account: int
    position: Position
    sequence: int | None


def flush_drafts(write_set: WriteSet) -> None:
    """Turn the drafts into rows. A position that a step changes many times becomes a row once."""
    for draft in write_set.drafts.values():
        _put(write_set, draft)
    write_set.drafts.clear()


def _read(write_set: WriteSet, event: Event, account: int, size: int = 0) -> Draft | None:
    """Return the position, which the event is about to change by `size`."""
    key = event.args["marketId"], account
    draft: Draft | None = write_set.drafts.get(key)
    if draft is not None:
        if _may_draft(write_set, event, draft.position.base, size):
            return draft
        # The row as it is now must be written: as a before-image, or because the next one does not fit.
        _put(write_set, write_set.drafts.pop(key))
    values = write_set.get_values(ROWS, key)
    if values is None:
        return None
    price, funding, session, sequence, snapshot = values[_ENTRY:]
    stated = StatedPosition._make(values[_BASE + 1 : _BASE + 1 + len(_STATED)])
    position = Position(values[_BASE], price, funding, session, snapshot, stated)
    return Draft(event, account, position, sequence)


def _may_draft(write_set: WriteSet, event: Event, base: int, size: int = 0) -> bool:
    """Return whether nobody needs the rows in between and they are sure to fit.

    Only a position's base is a sum; everything else is bounded by the word size of events.
    """
    fits = abs(base) + abs(size) < NUMERIC_LIMIT and event.block_number < _LAST_BLOCK
    return fits and event.block_number <= write_set.floor


def _write(
    write_set: WriteSet, draft: Draft | None, event: Event, account: int, position: Position,
    sequence: int | None = None,
) -> None:  # fmt: skip
    """Set the position after the event, whose place its row carries.

    `draft`: what `_read` returned. `sequence`: None leaves it as it was.
    """
    if draft is None:
        draft = Draft(event, account, position, sequence)
    else:
        draft.event, draft.position = event, position
        if sequence is not None:
            draft.sequence = sequence
    key = event.args["marketId"], account
    if _may_draft(write_set, event, position.base):
        write_set.drafts[key] = draft
    else:
        write_set.drafts.pop(key, None)
        _put(write_set, draft)


def _put(write_set: WriteSet, draft: Draft) -> None:
    event, account, position = draft.event, draft.account, draft.position
    market = event.args["marketId"]
    values = (
        market, account, position.base, *position.stated, *event.origin_values, position.price, position.funding,
        position.session, draft.sequence, position.snapshot,
    )  # fmt: skip
    write_set.put_values(ROWS, (market, account), values, event)
