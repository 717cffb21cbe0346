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
    if event.name == "AccountCollateralSharesUpdated":
        yield "account_balances", (event.args["accountId"], event.args["collateral"])


def apply(ledger: WriteSet, tx: Transaction, event: Event) -> None:
    _APPLY[event.name or ""](ledger, event)


def _shares(ledger: WriteSet, event: Event) -> None:
    account, collateral, delta = event.args["accountId"], event.args["collateral"], event.args["sharesDelta"]
    entry = {"id": event.id, "account_id": account, "collateral": collateral, "amount": delta} | event.origin_columns()
    ledger.append("account_collateral_balance_entries", entry, event)
    balance = ((ledger.get("account_balances", (account, collateral)) or {}).get("balance") or 0) + delta
    row = {"account_id": account, "collateral": collateral, "balance": balance, "delta": delta}
    ledger.put("account_balances", (account, collateral), row, event)


def _margin(
    ledger: WriteSet, event: Event, n: int, kind: str, *, account: int, collateral: str, amount: int, other: int | None
) -> None:
    # The first row of a log has the log's id, the others -1, -2, ...: several rows share one unique_id.
    id_, sender = f"{event.id}-{n}" if n else event.id, event.args.get("sender")
    ledger.append_values(_ENTRY, (id_, account, collateral, amount, kind, other, sender, *event.origin_values), event)


def _deposited(ledger: WriteSet, event: Event) -> None:
    a = event.args
    _margin(ledger, event, 0, "deposit", account=a["accountId"], collateral=a["collateral"],
            amount=a["collateralAmount"], other=None)  # fmt: skip


def _withdrawn(ledger: WriteSet, event: Event) -> None:
    a = event.args
    _margin(ledger, event, 0, "withdrawal", account=a["accountId"], collateral=a["collateral"],
            amount=-a["collateralAmount"], other=None)  # fmt: skip


def _transfer(ledger: WriteSet, event: Event) -> None:
    a, amount = event.args, event.args["collateralAmount"]
    source, destination = a["sourceAccountId"], a["destinationAccountId"]
    for n, (account, other, signed) in enumerate(((source, destination, -amount), (destination, source, amount))):
        _margin(ledger, event, n, "transfer", account=account, collateral=a["collateral"], amount=signed, other=other)


def _auto_exchange(ledger: WriteSet, event: Event) -> None:
    given, result = event.args["input"], event.args["output"]
    liquidated, liquidator = given["accountId"], given["liquidatorAccountId"]
    out, quote = given["collateral"], given["inCollateral"]
    sold, fund, received = (
        result["collateralAmountToLiquidator"], result["quoteAmountToIF"], result["quoteAmountToAccount"],
    )  # fmt: skip
    row = {
        "id": event.id,
        "liquidated_account_id": liquidated,
        "liquidator_account_id": liquidator,
        "requested_quote_amount": given["requestedQuoteAmount"],
        "collateral_out_address": out,
        "collateral_in_address": quote,
        "collateral_amount_to_liquidator": sold,
        "quote_amount_to_insurance_fund": fund,
        "quote_amount_to_account": received,
    } | event.origin_columns()
    ledger.append("auto_exchange", row, event)
    moves = (
        ("auto_exchange_withdrawal", liquidated, liquidator, out, -sold),
        ("auto_exchange_deposit", liquidated, liquidator, quote, received),
        ("auto_exchange_deposit", liquidator, liquidated, out, sold),
        ("auto_exchange_withdrawal", liquidator, liquidated, quote, -(received + fund)),
    )
    for n, (kind, account, other, collateral, amount) in enumerate(moves):
        _margin(ledger, event, n, kind, account=account, collateral=collateral, amount=amount, other=other)


_APPLY = {
    "AccountCollateralSharesUpdated": _shares,
    "Deposited": _deposited,
    "Withdrawn": _withdrawn,
    "TransferBetweenMarginAccounts": _transfer,
    "AutoExchangeTriggered": _auto_exchange,
}
