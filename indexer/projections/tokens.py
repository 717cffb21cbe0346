"""Shares and tokens: lp_account_balance_entries, lp_unified_account_balance_entries and token_transfer.

The first generation of ShareBalanceUpdated names no token and feeds the table of its time; the second added the token,
the third the action and on whose behalf it was done.

token_transfer has one row per ERC-20 Transfer of a contract marked `erc20`, mints and burns included. The account NFT's
Transfer, which has four topics, never becomes a row. Pool shares are (1e30), token amounts in token units.
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
    """Return nothing: both events only append."""
    return ()


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Append a balance entry, or the transfer of an ERC-20 token."""
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
            write_set.append("lp_account_balance_entries", row, event)
            return
        row |= {"token": args["token"], "token_delta_in_quote": args["tokenDeltaInQuote"]}
        if action := args.get("actionMetadata"):
            row["action_metadata_action"] = action["action"]
            row["action_metadata_on_behalf_of"] = action["onBehalfOf"]
        write_set.append("lp_unified_account_balance_entries", row, event)
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
        write_set.append_values(_TRANSFER, values, event)
