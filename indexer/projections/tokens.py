"""Shares and tokens: lp_unified_account_balance_entries and token_transfer.

token_transfer has one row per ERC-20 Transfer of a contract marked `erc20`, mints and burns included; never the
account NFT's, whose Transfer has four topics. Pool shares are 1e30, token amounts in token units.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.base import Event, Ledger, StateKey, Transaction

EVENTS = ("Transfer", "ShareBalanceUpdated")


def keys(event: Event) -> Iterable[StateKey]:
    return ()


def apply(ledger: Ledger, tx: Transaction, event: Event) -> None:
    args = event.args
    if event.name == "ShareBalanceUpdated":
        row = {
            "id": event.id,
            "pool_id": args["poolId"],
            "account": args["account"],
            "share_delta": args["shareDelta"],
            "new_share_balance": args["newShareBalance"],
            "token_delta": args["tokenDelta"],
            "token": args["token"],
            "token_delta_in_quote": args["tokenDeltaInQuote"],
        } | event.position()
        ledger.append("lp_unified_account_balance_entries", row, event)
    elif event.erc20:
        row = {
            "id": event.id,
            "token": event.address,
            "from_address": args["from"],
            "to_address": args["to"],
            "amount": args["value"],
            "created_at": event.created_at,
        } | event.position()
        ledger.append("token_transfer", row, event)
