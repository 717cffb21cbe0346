"""positions and position_raw: per (market, account) what the chain states and what follows from the executions.

PositionDataUpdated states a position; PassivePerpOrderAndPositionUpdate both sides after the execution, V3 both sides
before and after; PassivePerpMatchOrder none. Contracts emit PositionDataUpdated around an order, up to date and then
after it, before the order's own event: these belong to the order (`Transaction.statements`) and write nothing alone.

A match order does not name its counterparty. It is the market's pool account, which mirrors every AMM trade
(`name_pools`); where neither its transaction nor the deployment names that, only the taker's position moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from indexer.projections.accounting import (
    NO_TRACKERS,
    Position,
    Stated,
    Tracker,
    Trackers,
    TradeResult,
    apply_execution,
    apply_statement,
)
from indexer.projections.events import LOGS_PER_BLOCK, ORIGIN_COLUMNS, Event, StateKey, Transaction
from indexer.projections.row_encoder import NUMERIC_LIMIT, RowLayout
from indexer.projections.write_set import WriteSet

EVENTS = ("PositionDataUpdated",)
_LAST_BLOCK = 2**63 // LOGS_PER_BLOCK  # above it unique_id is no bigint
_STATED = ("realized_pnl", "last_price", "last_price_timestamp", "funding_value", "base_multiplier", "adl_unwind_price")
# Values in the order that `_put` makes them in. Both tables have most of them, some under other names.
_BOTH = (
    "market_id",
    "account_id",
    "base",
    *_STATED,
    *ORIGIN_COLUMNS,
    "average_entry_price",
    "average_entry_funding_value",
)
_NAMED_OTHERWISE = {
    "last_price_timestamp": "position_data_last_price_data_timestamp",
    "average_entry_price": "average_entry_price_off_chain_tracker",
    "average_entry_funding_value": "funding_value_off_chain_tracker",
}
ROWS = RowLayout({
    "positions": {name: name for name in (*_BOTH, "session", "last_trade_sequence_number")},
    "position_raw": {_NAMED_OTHERWISE.get(name, name): name for name in (*_BOTH, "realized_pnl_latest_snapshot")},
})  # fmt: skip
_BASE, _ENTRY = ROWS.names.index("base"), ROWS.names.index("average_entry_price")


def keys(event: Event) -> Iterable[StateKey]:
    return keys_of(event.args["marketId"], event.args["accountId"])


def keys_of(market: int, account: int) -> tuple[StateKey]:
    return (("positions", (market, account)),)


def apply(ledger: WriteSet, tx: Transaction, event: Event) -> None:
    if event.log_index not in tx.statements.consumed:
        record_statement(ledger, event, event.args["accountId"], event.args["positionData"])


def record_statement(ledger: WriteSet, event: Event, account: int, stated: Stated) -> None:
    """The position as the event states it."""
    known = _read(ledger, event, account)
    _write(ledger, known, event, account, apply_statement(known.position if known else None, stated))


def record_trade(
    ledger: WriteSet, tx: Transaction, event: Event, account: int, size: int, price: int,
    before: Stated | None, after: Stated | None,
) -> TradeResult:  # fmt: skip
    """One side of an execution. `before`, `after`: what the event itself states of the position."""
    stated = tx.statements.by_execution
    pending = stated.get((event.log_index, account)) if stated else None
    if pending:
        before = before if before is not None else _first(pending, size, after)
        after = after if after is not None else pending[-1]
    known = _read(ledger, event, account, size)
    position, outcome = apply_execution(
        known.position if known else None, size, price, before, after, _trackers(tx, event)
    )
    _write(ledger, known, event, account, position, event.args.get("eventSequenceNumber"))
    return outcome


def _first(pending: Sequence[Stated], size: int, after: Stated | None) -> Stated | None:
    """The statement that brings the position up to date. A single one is that after the execution, unless the event
    itself tells that one and the two differ by the execution."""
    if len(pending) > 1:
        return pending[0]
    single = pending[0]
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
    """A position after `event`, not a row yet. `sequence`: its last trade's sequence number."""

    event: Event
    account: int
    position: Position
    sequence: int | None


def flush_drafts(ledger: WriteSet) -> None:
    """Makes rows of the drafts. A position that a step changes many times is made a row once."""
    for draft in ledger.drafts.values():
        _put(ledger, draft)
    ledger.drafts.clear()


def _read(ledger: WriteSet, event: Event, account: int, size: int = 0) -> Draft | None:
    """The position, which the event is about to change by `size`."""
    place = event.args["marketId"], account
    draft: Draft | None = ledger.drafts.get(place)
    if draft is not None:
        if _may_draft(ledger, event, draft.position.base, size):
            return draft
        # The row as it is now is kept, as a before-image or because the next one does not fit.
        _put(ledger, ledger.drafts.pop(place))
    values = ledger.get("positions", place)
    if values is None:
        return None
    price, funding, session, sequence, snapshot = values[_ENTRY:]
    position = Position(values[_BASE], price, funding, session, snapshot, values[_BASE + 1 : _BASE + 1 + len(_STATED)])
    return Draft(event, account, position, sequence)


def _may_draft(ledger: WriteSet, event: Event, base: int, size: int = 0) -> bool:
    """Whether nobody wants the rows in between and they are sure to fit: of a position only the base is a sum, all else
    is bounded by the words of events."""
    fits = abs(base) + abs(size) < NUMERIC_LIMIT and event.block_number < _LAST_BLOCK
    return fits and event.block_number <= ledger.floor


def _write(
    ledger: WriteSet, draft: Draft | None, event: Event, account: int, position: Position, sequence: int | None = None
) -> None:  # fmt: skip
    """The position after the event; `draft` is what was read of it. `sequence`: None keeps that."""
    if draft is None:
        draft = Draft(event, account, position, sequence)
    else:
        draft.event, draft.position = event, position
        if sequence is not None:
            draft.sequence = sequence
    place = event.args["marketId"], account
    if _may_draft(ledger, event, position.base):
        ledger.drafts[place] = draft
    else:
        ledger.drafts.pop(place, None)
        _put(ledger, draft)


def _put(ledger: WriteSet, draft: Draft) -> None:
    event, account, position = draft.event, draft.account, draft.position
    market = event.args["marketId"]
    values = (
        market, account, position.base, *position.stated, *event.origin_values, position.price, position.funding,
        position.session, draft.sequence, position.snapshot,
    )  # fmt: skip
    ledger.put_values(ROWS, (market, account), values, event)
