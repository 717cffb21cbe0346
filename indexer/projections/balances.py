"""Collateral: account_collateral_balance_entries and account_balances, margin_accounts_balance_entries, auto_exchange.

Amounts are signed token units. account_balances is the running sum of the collateral share deltas.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import ORIGIN_COLUMNS, Event, StateKey, Transaction
from indexer.projections.row_encoder import RowLayout
from indexer.projections.write_set import WriteSet

EVENTS = (
    "AccountCollateralSharesUpdated",
    "Deposited",
    "Withdrawn",
    "TransferBetweenMarginAccounts",
    "AutoExchangeTriggered",
)
_ENTRY = RowLayout.plain(
    "margin_accounts_balance_entries",
    ("id", "account_id", "collateral", "amount", "type", "counterparty_account_id", "sender", *ORIGIN_COLUMNS),
)


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the running balance that the event changes, if any."""
    if event.name == "AccountCollateralSharesUpdated":
        yield "account_balances", (event.args["accountId"], event.args["collateral"])


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Write the balance entries of the event."""
    _APPLY[event.name or ""](write_set, event)


def _shares(write_set: WriteSet, event: Event) -> None:
    account, collateral, delta = event.args["accountId"], event.args["collateral"], event.args["sharesDelta"]
    entry = {"id": event.id, "account_id": account, "collateral": collateral, "amount": delta} | event.origin_columns()
    write_set.append("account_collateral_balance_entries", entry, event)
    balance = ((write_set.get("account_balances", (account, collateral)) or {}).get("balance") or 0) + delta
    row = {"account_id": account, "collateral": collateral, "balance": balance, "delta": delta}
    write_set.put("account_balances", (account, collateral), row, event)


def _margin(
    write_set: WriteSet,
    event: Event,
    n: int,
    kind: str,
    *,
    account: int,
    collateral: str,
    amount: int,
    other: int | None,
) -> None:
    # The first row of a log has the log's id, the others append -1, -2, ...: several rows share one unique_id.
    id_, sender = f"{event.id}-{n}" if n else event.id, event.args.get("sender")
    write_set.append_values(
        _ENTRY, (id_, account, collateral, amount, kind, other, sender, *event.origin_values), event
    )


def _deposited(write_set: WriteSet, event: Event) -> None:
    a = event.args
    _margin(write_set, event, 0, "deposit", account=a["accountId"], collateral=a["collateral"],
            amount=a["collateralAmount"], other=None)  # fmt: skip


def _withdrawn(write_set: WriteSet, event: Event) -> None:
    a = event.args
    _margin(write_set, event, 0, "withdrawal", account=a["accountId"], collateral=a["collateral"],
            amount=-a["collateralAmount"], other=None)  # fmt: skip


def _transfer(write_set: WriteSet, event: Event) -> None:
    a, amount = event.args, event.args["collateralAmount"]
    source, destination = a["sourceAccountId"], a["destinationAccountId"]
    for n, (account, other, signed) in enumerate(((source, destination, -amount), (destination, source, amount))):
        _margin(
            write_set, event, n, "transfer", account=account, collateral=a["collateral"], amount=signed, other=other
        )


def _auto_exchange(write_set: WriteSet, event: Event) -> None:
    request, result = event.args["input"], event.args["output"]
    liquidated, liquidator = request["accountId"], request["liquidatorAccountId"]
    out, quote = request["collateral"], request["inCollateral"]
    sold, fund, received = (
        result["collateralAmountToLiquidator"], result["quoteAmountToIF"], result["quoteAmountToAccount"],
    )  # fmt: skip
    row = {
        "id": event.id,
        "liquidated_account_id": liquidated,
        "liquidator_account_id": liquidator,
        "requested_quote_amount": request["requestedQuoteAmount"],
        "collateral_out_address": out,
        "collateral_in_address": quote,
        "collateral_amount_to_liquidator": sold,
        "quote_amount_to_insurance_fund": fund,
        "quote_amount_to_account": received,
    } | event.origin_columns()
    write_set.append("auto_exchange", row, event)
    moves = (
        ("auto_exchange_withdrawal", liquidated, liquidator, out, -sold),
        ("auto_exchange_deposit", liquidated, liquidator, quote, received),
        ("auto_exchange_deposit", liquidator, liquidated, out, sold),
        ("auto_exchange_withdrawal", liquidator, liquidated, quote, -(received + fund)),
    )
    for n, (kind, account, other, collateral, amount) in enumerate(moves):
        _margin(write_set, event, n, kind, account=account, collateral=collateral, amount=amount, other=other)


_APPLY = {
    "AccountCollateralSharesUpdated": _shares,
    "Deposited": _deposited,
    "Withdrawn": _withdrawn,
    "TransferBetweenMarginAccounts": _transfer,
    "AutoExchangeTriggered": _auto_exchange,
}
