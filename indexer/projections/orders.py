"""Orders and liquidations: order_history, orders, liquidation_history_details, rebate_fee_history.

Three generations of events describe an execution: PassivePerpMatchOrder (two ABIs), PassivePerpOrderAndPositionUpdate
(describes the same order in full) and PassivePerpExecutionV3 (two ABIs). Each execution is one row in `orders` and one
in `order_history`. Fees are in rUSD (1e6), base and price (1e18).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from indexer.projections import positions
from indexer.projections.accounting import Stated, TradeResult
from indexer.projections.events import ORIGIN_COLUMNS, Event, Row, StateKey, Transaction, parties
from indexer.projections.row_encoder import RowLayout
from indexer.projections.write_set import WriteSet

# Core's LiquidationType. Backstop = 2 is published; 0 and 1 follow V3's order, 3 is what V3's ADL maps to.
MATCH_ORDER, DUTCH, RANKED, BACKSTOP, ADL = -1, 0, 1, 2, 3
V3_KINDS = {0: MATCH_ORDER, 1: DUTCH, 2: RANKED, 3: BACKSTOP, 4: ADL}
V3_TYPES = {0: "order", 1: "liquidation", 2: "liquidation", 3: "liquidation", 4: "adl", 5: "market_close"}

EVENTS = ("PassivePerpMatchOrder", "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3")

# Names of values, in the order in which `_write` builds them. Every generation has those of COMMON. The columns of
# `orders` have the same names; `order_history` has some of them, one under another name.
COMMON = (
    "id", "market_id", "account_id", "created_at", *ORIGIN_COLUMNS, "executed_base", "price", "fee", "is_match_order",
    "liquidation_type", "protocol_fee_credit", "referrer_fee_credit", "referrer_account_id", "position_session",
)  # fmt: skip
AMM = ("exchange_fee_credit", "pool_fee_credit", "counterparty_account_id")
UPDATE = (*AMM, "position_base")
V3 = (
    "taker_rebate_credit", "pool_fee_credit", "counterparty_account_id", "position_base", "execution_type",
    "counterparty_exchange_id", "account_order_id", "counterparty_order_id", "me_nonce", "event_sequence_number",
)  # fmt: skip
_HISTORY = {
    **{n: n for n in ("id", "market_id", "account_id", "created_at", *ORIGIN_COLUMNS)},
    "order_base": "executed_base", "price": "price", "fee": "fee",
    **{n: n for n in ("type", "processed", "r_pnl", "price_variation_pnl", "funding_pnl", "average_entry_price")},
}  # fmt: skip


def _layout(own: tuple[str, ...]) -> RowLayout:
    return RowLayout({"orders": {name: name for name in (*COMMON, *own)}, "order_history": _HISTORY})


_AMM_LAYOUT, _UPDATE_LAYOUT, _V3_LAYOUT = _layout(AMM), _layout(UPDATE), _layout(V3)


class Order(NamedTuple):
    """One side's execution as its event describes it.

    `kind`: the type in order_history. `own`: the values of the columns that only this generation has, as `layout` names
    them.
    """

    layout: RowLayout
    kind: str
    base: int
    price: int
    fee: int
    is_match_order: bool
    liquidation_type: int | None
    protocol_fee: int
    referrer_fee: int | None
    referrer: int | None
    own: tuple[Any, ...]


def keys(event: Event) -> Iterable[StateKey]:
    """Return the taker's or liquidated account's owner row, and the positions of all parties."""
    state_keys: list[StateKey] = [("account_owner_updated_snapshot", (event.args["accountId"],))]
    for account in parties(event):
        state_keys += positions.keys_of(event.args["marketId"], account)
    return state_keys


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Write the rows of one execution, unless a later event of the transaction describes it in full."""
    if event.name == "PassivePerpMatchOrder":
        if event.log_index not in tx.superseded:
            _write(write_set, tx, event, _match_order(tx, event), {})
    elif event.name == "PassivePerpOrderAndPositionUpdate":
        arguments = {"after": "positionData", "other_after": "counterpartyPositionData"}
        stated = {side: event.args[name] for side, name in arguments.items()}
        _write(write_set, tx, event, _update(write_set, tx, event), stated)
    else:
        arguments = {
            "before": "accountPositionBefore", "after": "accountPositionAfter",
            "other_before": "counterpartyPositionBefore", "other_after": "counterpartyPositionAfter",
        }  # fmt: skip
        stated = {side: event.args["payload"][name] for side, name in arguments.items()}
        _write(write_set, tx, event, _execution_v3(write_set, event), stated)


def _match_order(tx: Transaction, event: Event) -> Order:
    args, fees = event.args, event.args["matchOrderFees"]
    ranked = args["accountId"] in tx.liquidated_by_bid
    counterparty = event.counterparty if event.sides else None  # The pool is assumed, not stated.
    return Order(
        _AMM_LAYOUT, "liquidation" if ranked else "order", args["orderBase"], args["executedOrderPrice"],
        fees["takerFeeDebit"], not ranked, RANKED if ranked else MATCH_ORDER, fees["protocolFeeCredit"],
        fees.get("referrerFeeCredit"), args.get("referrerAccountId"), (*_amm_credits(fees), counterparty),
    )  # fmt: skip


def _amm_credits(fees: Row) -> tuple[int, int | None]:
    payments = fees["makerPayments"]
    return fees["exchangeFeeCredit"], payments[0] if payments else None


def _update(write_set: WriteSet, tx: Transaction, event: Event) -> Order:
    args, fees = event.args, event.args["matchOrderFees"]
    kind = MATCH_ORDER if args["isMatchOrder"] else args["liquidationType"]
    if kind == DUTCH and args["accountId"] in tx.liquidated_by_bid:
        kind = RANKED
    elif kind == DUTCH and _is_backstop(write_set, args["counterpartyAccountId"]):
        kind = BACKSTOP
    return Order(
        _UPDATE_LAYOUT, {MATCH_ORDER: "order", ADL: "adl"}.get(kind, "liquidation"), args["executedBase"],
        args["executedPrice"], fees["takerFeeDebit"], args["isMatchOrder"], kind, fees["protocolFeeCredit"],
        fees.get("referrerFeeCredit"), args["referrerAccountId"],
        (*_amm_credits(fees), args["counterpartyAccountId"], args["positionData"]["base"]),
    )  # fmt: skip


def _execution_v3(write_set: WriteSet, event: Event) -> Order:
    args, payload = event.args, event.args["payload"]
    fees, execution_type = payload["fees"], payload["executionType"]
    before, after = payload["accountPositionBefore"]["base"], payload["accountPositionAfter"]["base"]
    if execution_type not in V3_TYPES:
        detail = f"execution type {execution_type} is not known to this release"
        write_set.incident("unknown_execution_type", f"{event.address} {execution_type}", detail, event)
    if after - before != payload["executedBase"]:
        # The roles of the four positions are our reading of the ABI; this check would show that it is wrong.
        detail = f"base {before} + {payload['executedBase']} is not {after} in {event.id}"
        write_set.incident("v3_position_mismatch", event.address, detail, event)
    own = (
        fees["takerRebateCredit"], fees["poolFeeCredit"], args["counterpartyAccountId"], after, execution_type,
        payload["counterpartyExchangeId"], payload["accountOrderId"], payload["counterpartyOrderId"],
        payload["meNonce"], args["eventSequenceNumber"],
    )  # fmt: skip
    return Order(
        _V3_LAYOUT, V3_TYPES.get(execution_type, f"execution_{execution_type}"), payload["executedBase"],
        payload["price"], sum(fees.values()), execution_type == 0, V3_KINDS.get(execution_type),
        fees["protocolFeeCredit"], fees["referrerFeeCredit"], payload["referrerAccountId"], own,
    )  # fmt: skip


def _is_backstop(write_set: WriteSet, account_id: int) -> bool:
    return any(row and row["account_id"] == account_id for row in write_set.table("indexer.backstop_account"))


def _trade(
    write_set: WriteSet, tx: Transaction, event: Event, order: Order, stated: Mapping[str, Stated]
) -> TradeResult:
    """Move both positions of the execution. Return the result of the taker's or liquidated account's."""
    account, *others = parties(event)
    size, price = order.base, order.price
    result = positions.record_trade(
        write_set, tx, event, account, size, price, stated.get("before"), stated.get("after")
    )
    for other in others:
        before, after = stated.get("other_before"), stated.get("other_after")
        positions.record_trade(write_set, tx, event, other, -size, price, before, after)
    if "other_after" in stated and event.args["counterpartyAccountId"] == account:  # One account is on both sides.
        positions.record_statement(write_set, event, account, stated["other_after"])
    return result


def _write(write_set: WriteSet, tx: Transaction, event: Event, order: Order, stated: Mapping[str, Stated]) -> None:
    market, account = event.args["marketId"], event.args["accountId"]
    result = _trade(write_set, tx, event, order, stated)
    values = (
        event.id, market, account, event.created_at, *event.origin_values, order.base, order.price, order.fee,
        order.is_match_order, order.liquidation_type, order.protocol_fee, order.referrer_fee, order.referrer,
        result.session, *order.own, order.kind, result.proven, result.realized, result.price_variation,
        result.funding, result.average_entry_price,
    )  # fmt: skip
    write_set.append_values(order.layout, values, event)
    owner = (write_set.get("account_owner_updated_snapshot", (account,)) or {}).get("new_owner")
    if order.kind == "liquidation":
        _liquidation(write_set, event, order, owner)
    if order.referrer_fee and order.referrer:
        _rebate(write_set, event, order, owner)


def _liquidation(write_set: WriteSet, event: Event, order: Order, owner: str | None) -> None:
    row = {
        "id": event.id,
        "account_id": event.args["accountId"],
        "owner_address": owner,
        "market_id": event.args["marketId"],
        "base": order.base,
        "execution_price": order.price,
        "fees": order.fee,
        "block_timestamp": event.time,
        "transaction_hash": event.transaction_hash,
        "unique_id": event.unique_id,
    }
    write_set.append("liquidation_history_details", row, event)


def _rebate(write_set: WriteSet, event: Event, order: Order, owner: str | None) -> None:
    row = {
        "id": event.id,
        "referrer_account_id": order.referrer,
        "referee_wallet_address": owner,
        "referee_account_id": event.args["accountId"],
        "token": write_set.rusd,
        "amount": order.referrer_fee,
        "market_id": event.args["marketId"],
    } | event.origin_columns()
    write_set.append("rebate_fee_history", row, event)
