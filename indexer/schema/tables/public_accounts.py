"""Account tables: owners, collateral, margin and pool entries, auto-exchange, token transfers.

Addresses are in lower case. Amounts are signed (token units), pool shares (1e30), `token_delta_in_quote` (1e6 rUSD).
"""

from __future__ import annotations

from sqlalchemy import Index, MetaData

from indexer.schema.tables.columns import append_table, index, numeric, numerics, origin, state_table, text, timestamp


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _owners(metadata)
    _balances(metadata)
    _entries(metadata)
    _exchanges_and_transfers(metadata)


def _owners(metadata: MetaData) -> None:
    append_table("account_owner_updated_history", metadata, numeric("account_id"), text("new_owner"), *origin())
    state_table(
        "account_owner_updated_snapshot",
        metadata,
        numeric("account_id", key=True),
        text("new_owner"),
        *origin(),
        index("account_owner_updated_snapshot", "new_owner"),
    )


def _balances(metadata: MetaData) -> None:
    append_table(
        "account_collateral_balance_entries",
        metadata,
        numeric("account_id"),
        text("collateral"),
        numeric("amount"),
        *origin(),
    )
    state_table(
        "account_balances",
        metadata,
        numeric("account_id", key=True),
        text("collateral", key=True),
        *numerics("balance", "delta"),
        index("account_balances", "collateral"),
    )


def _entries(metadata: MetaData) -> None:
    # The log of a transfer gives two rows and that of an auto-exchange four, so unique_id cannot be unique.
    append_table(
        "margin_accounts_balance_entries",
        metadata,
        numeric("account_id"),
        text("collateral"),
        numeric("amount"),
        text("type"),
        numeric("counterparty_account_id"),
        text("sender"),
        *origin(),
        unique=False,
    )
    append_table(
        "lp_account_balance_entries",
        metadata,
        numeric("pool_id"),
        text("account"),
        *numerics("share_delta", "new_share_balance", "token_delta"),
        *origin(),
    )
    append_table(
        "lp_unified_account_balance_entries",
        metadata,
        numeric("pool_id"),
        text("account"),
        *numerics("share_delta", "new_share_balance", "token_delta"),
        text("token"),
        *numerics("token_delta_in_quote", "action_metadata_action"),
        text("action_metadata_on_behalf_of"),
        *origin(),
        # Named by hand: the columns' names joined would exceed PostgreSQL's 63 characters.
        Index(
            "lp_unified_account_balance_entries_action_idx", "action_metadata_action", "action_metadata_on_behalf_of"
        ),
    )


def _exchanges_and_transfers(metadata: MetaData) -> None:
    append_table(
        "auto_exchange",
        metadata,
        *numerics("liquidated_account_id", "liquidator_account_id", "requested_quote_amount"),
        text("collateral_out_address"),
        text("collateral_in_address"),
        *numerics("collateral_amount_to_liquidator", "quote_amount_to_insurance_fund", "quote_amount_to_account"),
        *origin(),
    )
    append_table(
        "token_transfer",
        metadata,
        *(text(name) for name in ("token", "from_address", "to_address")),
        numeric("amount"),
        *origin(),
        timestamp("created_at"),
    )
