"""Orders and liquidations: order_history, orders, liquidation_history_details, rebate_fee_history.

Three generations of events describe an execution: PassivePerpMatchOrder (two ABIs), PassivePerpOrderAndPositionUpdate
(tells the same order in full) and PassivePerpExecutionV3 (two ABIs). Each execution is one row in `orders` and one in
`order_history`. Fees 1e6 rUSD, base and price 1e18.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections import positions
from indexer.projections.accounting import Outcome, Stated
from indexer.projections.base import Event, Ledger, Row, StateKey, Transaction, sides

# Core's LiquidationType. Backstop = 2 is published; 0 and 1 follow V3's order, 3 is what V3's ADL maps to.
MATCH_ORDER, DUTCH, RANKED, BACKSTOP, ADL = -1, 0, 1, 2, 3
V3_KINDS = {0: MATCH_ORDER, 1: DUTCH, 2: RANKED, 3: BACKSTOP, 4: ADL}
V3_TYPES = {0: "order", 1: "liquidation", 2: "liquidation", 3: "liquidation", 4: "adl", 5: "market_close"}

EVENTS = ("PassivePerpMatchOrder", "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3")

# Columns in the order of the values that `_write` makes.
PLACE = (
    "id", "market_id", "account_id", "transaction_hash", "block_timestamp", "block_number", "unique_id", "created_at",
)  # fmt: skip
HISTORY = (
    *PLACE, "order_base", "price", "fee", "type", "processed", "r_pnl", "price_variation_pnl", "funding_pnl",
    "average_entry_price",
)  # fmt: skip


def keys(event: Event) -> Iterable[StateKey]:
    found: list[StateKey] = [("account_owner_updated_snapshot", (event.args["accountId"],))]
    for account in sides(event):
        found += positions.keys_of(event.args["marketId"], account)
    return found


def apply(ledger: Ledger, tx: Transaction, event: Event) -> None:
    if event.name == "PassivePerpMatchOrder":
        if event.log_index not in tx.told_again:
            _write(ledger, tx, event, *_match_order(tx, event), {})
    elif event.name == "PassivePerpOrderAndPositionUpdate":
        told = {"after": "positionData", "other_after": "counterpartyPositionData"}
        stated = {side: event.args[name] for side, name in told.items()}
        _write(ledger, tx, event, *_update(ledger, tx, event), stated)
    else:
        told = {
            "before": "accountPositionBefore", "after": "accountPositionAfter",
            "other_before": "counterpartyPositionBefore", "other_after": "counterpartyPositionAfter",
        }  # fmt: skip
        stated = {side: event.args["payload"][name] for side, name in told.items()}
        _write(ledger, tx, event, *_execution_v3(ledger, event), stated)


def _match_order(tx: Transaction, event: Event) -> tuple[str, Row]:
    args, fees = event.args, event.args["matchOrderFees"]
    ranked = args["accountId"] in tx.liquidated_by_bid
    order = {
        "executed_base": args["orderBase"],
        "price": args["executedOrderPrice"],
        "is_match_order": not ranked,
        "liquidation_type": RANKED if ranked else MATCH_ORDER,
        "referrer_account_id": args.get("referrerAccountId"),
        **_amm_fees(fees),
    }
    return ("liquidation" if ranked else "order"), order


def _update(ledger: Ledger, tx: Transaction, event: Event) -> tuple[str, Row]:
    args = event.args
    kind = MATCH_ORDER if args["isMatchOrder"] else args["liquidationType"]
    if kind == DUTCH and args["accountId"] in tx.liquidated_by_bid:
        kind = RANKED
    elif kind == DUTCH and _is_backstop(ledger, args["counterpartyAccountId"]):
        kind = BACKSTOP
    order = {
        "counterparty_account_id": args["counterpartyAccountId"],
        "executed_base": args["executedBase"],
        "price": args["executedPrice"],
        "is_match_order": args["isMatchOrder"],
        "liquidation_type": kind,
        "position_base": args["positionData"]["base"],
        "referrer_account_id": args["referrerAccountId"],
    } | _amm_fees(args["matchOrderFees"])
    return {MATCH_ORDER: "order", ADL: "adl"}.get(kind, "liquidation"), order


def _execution_v3(ledger: Ledger, event: Event) -> tuple[str, Row]:
    args, payload = event.args, event.args["payload"]
    fees, execution_type = payload["fees"], payload["executionType"]
    before, after = payload["accountPositionBefore"]["base"], payload["accountPositionAfter"]["base"]
    if execution_type not in V3_TYPES:
        detail = f"execution type {execution_type} is not known to this release"
        ledger.incident("unknown_execution_type", f"{event.address} {execution_type}", detail, event)
    if after - before != payload["executedBase"]:
        # The roles of the four positions are a reading of the ABI: this is the check that would show it wrong.
        detail = f"base {before} + {payload['executedBase']} is not {after} in {event.id}"
        ledger.incident("v3_position_mismatch", event.address, detail, event)
    order = {
        "counterparty_account_id": args["counterpartyAccountId"],
        "executed_base": payload["executedBase"],
        "price": payload["price"],
        "fee": sum(fees.values()),
        "is_match_order": execution_type == 0,
        "liquidation_type": V3_KINDS.get(execution_type),
        "execution_type": execution_type,
        "position_base": after,
        "protocol_fee_credit": fees["protocolFeeCredit"],
        "referrer_fee_credit": fees["referrerFeeCredit"],
        "taker_rebate_credit": fees["takerRebateCredit"],
        "pool_fee_credit": fees["poolFeeCredit"],
        "referrer_account_id": payload["referrerAccountId"],
        "counterparty_exchange_id": payload["counterpartyExchangeId"],
        "account_order_id": payload["accountOrderId"],
        "counterparty_order_id": payload["counterpartyOrderId"],
        "me_nonce": payload["meNonce"],
        "event_sequence_number": args["eventSequenceNumber"],
    }
    return V3_TYPES.get(execution_type, f"execution_{execution_type}"), order


def _amm_fees(fees: Row) -> Row:
    payments = fees["makerPayments"]
    return {
        "fee": fees["takerFeeDebit"],
        "protocol_fee_credit": fees["protocolFeeCredit"],
        "exchange_fee_credit": fees["exchangeFeeCredit"],
        "referrer_fee_credit": fees.get("referrerFeeCredit"),
        "pool_fee_credit": payments[0] if payments else None,
    }


def _is_backstop(ledger: Ledger, account_id: int) -> bool:
    return any(row and row["account_id"] == account_id for row in ledger.table("indexer.backstop_account"))


def _trade(ledger: Ledger, tx: Transaction, event: Event, order: Row, stated: dict[str, Stated]) -> Outcome:
    """Both positions of the execution; what the taker's or liquidated one realised."""
    account, *others = sides(event)
    size, price = order["executed_base"], order["price"]
    outcome = positions.trade(ledger, tx, event, account, size, price, stated.get("before"), stated.get("after"))
    for other in others:
        before, after = stated.get("other_before"), stated.get("other_after")
        positions.trade(ledger, tx, event, other, -size, price, before, after)
    if "other_after" in stated and event.args["counterpartyAccountId"] == account:  # one account on both sides
        positions.state(ledger, event, account, stated["other_after"])
    return outcome


def _write(
    ledger: Ledger, tx: Transaction, event: Event, kind: str, order: Row, stated: dict[str, Stated]
) -> None:  # fmt: skip
    market, account = event.args["marketId"], event.args["accountId"]
    outcome = _trade(ledger, tx, event, order, stated)
    order["position_session"] = outcome.session
    place = (
        event.id, market, account, event.transaction_hash, event.time, event.block_number, event.unique_id,
        event.created_at,
    )  # fmt: skip
    ledger.append_values("orders", PLACE + tuple(order), place + tuple(order.values()), event)
    history = (
        order["executed_base"], order["price"], order["fee"], kind, outcome.proven, outcome.realized,
        outcome.price_variation, outcome.funding, outcome.average_entry_price,
    )  # fmt: skip
    ledger.append_values("order_history", HISTORY, place + history, event)
    owner = (ledger.get("account_owner_updated_snapshot", (account,)) or {}).get("new_owner")
    if kind == "liquidation":
        _liquidation(ledger, event, order, owner)
    if order["referrer_fee_credit"] and order["referrer_account_id"]:
        _rebate(ledger, event, order, owner)


def _liquidation(ledger: Ledger, event: Event, order: Row, owner: str | None) -> None:
    row = {
        "id": event.id,
        "account_id": event.args["accountId"],
        "owner_address": owner,
        "market_id": event.args["marketId"],
        "base": order["executed_base"],
        "execution_price": order["price"],
        "fees": order["fee"],
        "block_timestamp": event.time,
        "transaction_hash": event.transaction_hash,
        "unique_id": event.unique_id,
    }
    ledger.append("liquidation_history_details", row, event)


def _rebate(ledger: Ledger, event: Event, order: Row, owner: str | None) -> None:
    row = {
        "id": event.id,
        "referrer_account_id": order["referrer_account_id"],
        "referee_wallet_address": owner,
        "referee_account_id": event.args["accountId"],
        "token": ledger.rusd,
        "amount": order["referrer_fee_credit"],
        "market_id": event.args["marketId"],
    } | event.position()
    ledger.append("rebate_fee_history", row, event)
