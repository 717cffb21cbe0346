"""Shares and tokens: lp_account_balance_entries, lp_unified_account_balance_entries and token_transfer.

The first generation of ShareBalanceUpdated names no token and feeds the table of its time; the second added the token,
the third what was done on whose behalf.

token_transfer has one row per ERC-20 Transfer of a contract marked `erc20`, mints and burns included; never the
account NFT's, whose Transfer has four topics. Pool shares are 1e30, token amounts in token units.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import ORIGIN_COLUMNS, Event, StateKey, Transaction
from indexer.projections.row_encoder import RowLayout
from indexer.projections.write_set import WriteSet

EVENTS = ("Transfer", "ShareBalanceUpdated")
_TRANSFER = RowLayout.plain(
    "token_transfer", ("id", "token", "from_address", "to_address", "amount", "created_at", *ORIGIN_COLUMNS)
)


def keys(event: Event) -> Iterable[StateKey]:
    return ()


def apply(ledger: WriteSet, tx: Transaction, event: Event) -> None:
    args = event.args
    if event.name == "ShareBalanceUpdated":
        row = {
            "id": event.id,
            "pool_id": args["poolId"],
            "account": args["account"],
            "share_delta": args["shareDelta"],
            "new_share_balance": args["newShareBalance"],
            "token_delta": args["tokenDelta"],
        } | event.origin_columns()
        if "token" not in args:
            ledger.append("lp_account_balance_entries", row, event)
            return
        row |= {"token": args["token"], "token_delta_in_quote": args["tokenDeltaInQuote"]}
        if action := args.get("actionMetadata"):
            row["action_metadata_action"] = action["action"]
            row["action_metadata_on_behalf_of"] = action["onBehalfOf"]
        ledger.append("lp_unified_account_balance_entries", row, event)
    elif event.erc20:
        values = (
            event.id,
            event.address,
            args["from"],
            args["to"],
            args["value"],
            event.created_at,
            *event.origin_values,
        )
        ledger.append_values(_TRANSFER, values, event)
