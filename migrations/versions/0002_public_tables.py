"""The tables that projections write: schema `public`.

Revision: 0002, after 0001. Written out in full and never edited after a release: history must not follow the metadata.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    "order_history",
    "orders",
    "liquidation_history_details",
    "rebate_fee_history",
    "position_raw",
    "market_trackers",
    "market_trackers_history",
    "market_storage",
    "account_owner_updated_history",
    "account_owner_updated_snapshot",
    "account_balances",
    "account_collateral_balance_entries",
    "margin_accounts_balance_entries",
    "lp_account_balance_entries",
    "lp_unified_account_balance_entries",
    "auto_exchange",
    "token_transfer",
    "Asset",
    "pool_created",
    "collateral_configuration",
    "liquidation_configuration",
    "risk_multipliers_configuration",
)


def nums(*names: str, null: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Numeric(78, 0), nullable=null) for name in names]


def texts(*names: str, null: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), nullable=null) for name in names]


def boolean(name: str, *, null: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=null)


def times(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, pg.TIMESTAMP(precision=3), nullable=False) for name in names]


def block() -> list[sa.Column[Any]]:
    unique_id: sa.Column[Any] = sa.Column("unique_id", sa.BigInteger())
    return [*nums("block_timestamp"), *nums("block_number", null=False), unique_id]


def position() -> list[sa.Column[Any]]:
    return [*texts("transaction_hash", null=False), *block()]


def indexes(table: str, *columns: tuple[str, ...]) -> None:
    for names in columns:
        op.create_index(f"{table}_{'_'.join(names)}_idx", table, list(names))


def state_table(name: str, *columns: sa.Column[Any], key: tuple[str, ...]) -> None:
    op.create_table(name, *columns, sa.PrimaryKeyConstraint(*key))


def log_table(name: str, *columns: sa.Column[Any], unique: bool = True) -> None:
    """A table with a row per log: `id` and an index on `unique_id`."""
    op.create_table(name, *texts("id", null=False), *columns, sa.PrimaryKeyConstraint("id"))
    op.create_index(f"{name}_unique_id_{'key' if unique else 'idx'}", name, ["unique_id"], unique=unique)


def upgrade() -> None:
    _orders()
    _after_orders()
    _markets()
    _accounts()
    _entries()
    _tokens()
    _settings()


def downgrade() -> None:
    for name in TABLES:
        op.drop_table(name)


def _orders() -> None:
    log_table(
        "order_history",
        *nums("market_id", "account_id", "order_base", "fee", "price"),
        *texts("type", null=False),
        boolean("processed", null=False),
        *nums("r_pnl", "price_variation_pnl", "funding_pnl", "average_entry_price"),
        *texts("source"),
        *position(),
        *times("created_at"),
    )
    indexes("order_history", ("block_timestamp",), ("account_id", "block_timestamp"))
    indexes("order_history", ("market_id", "block_timestamp"), ("created_at",))
    log_table(
        "orders",
        *nums("market_id", "account_id", "counterparty_account_id", "executed_base", "fee", "price"),
        boolean("is_match_order"),
        *nums("liquidation_type"),
        sa.Column("execution_type", sa.SmallInteger()),
        *nums("position_base", "position_session"),
        *nums("protocol_fee_credit", "exchange_fee_credit", "referrer_fee_credit", "taker_rebate_credit"),
        *nums("pool_fee_credit", "maker_fee_credit", "maker_fee_debit"),
        *nums("referrer_account_id", "exchange_id", "counterparty_exchange_id"),
        *nums("account_order_id", "counterparty_order_id", "me_nonce", "event_sequence_number"),
        *position(),
        *times("created_at"),
    )
    indexes("orders", ("me_nonce", "event_sequence_number"), ("event_sequence_number",))
    indexes("orders", ("account_id", "block_timestamp"), ("market_id", "block_timestamp"))


def _after_orders() -> None:
    log_table(
        "liquidation_history_details",
        *nums("account_id"),
        *texts("owner_address"),
        *nums("market_id", "base", "execution_price", "fees"),
        sa.Column("margin_ratio_percentage", sa.Numeric()),
        *texts("margin_ratio_health"),
        *nums("block_timestamp"),
        *texts("transaction_hash"),
        sa.Column("unique_id", sa.BigInteger()),
    )
    log_table(
        "rebate_fee_history",
        *nums("referrer_account_id"),
        *texts("referee_wallet_address"),
        *nums("referee_account_id"),
        *texts("token"),
        *nums("amount", "market_id"),
        *position(),
    )
    state_table(
        "position_raw",
        *nums("market_id", "account_id", null=False),
        *nums("base", "realized_pnl", "realized_pnl_latest_snapshot", "average_entry_price_off_chain_tracker"),
        *nums("funding_value_off_chain_tracker", "last_price", "position_data_last_price_data_timestamp"),
        *nums("funding_value", "base_multiplier", "adl_unwind_price"),
        *position(),
        key=("market_id", "account_id"),
    )
    indexes("position_raw", ("account_id",))


def _markets() -> None:
    state_table(
        "market_trackers",
        *nums("market_data_id", null=False),
        *nums("passive_pool_id", "pool_account_id"),
        *texts("quote_token"),
        *nums("quote_token_decimals", "last_funding_velocity", "last_funding_timestamp"),
        *nums("last_mtm_price", "last_mtm_timestamp", "long_trackers_funding_value", "last_funding_rate"),
        *nums("long_trackers_base_multiplier", "long_trackers_adl_unwind_price", "short_trackers_funding_value"),
        *nums("short_trackers_base_multiplier", "short_trackers_adl_unwind_price", "open_interest"),
        *nums("mark_price", "mark_price_timestamp", "funding_rate_timestamp", "event_sequence_number"),
        *block(),
        key=("market_data_id",),
    )
    log_table(
        "market_trackers_history",
        *nums("market_data_id", null=False),
        *nums("last_funding_velocity", "last_funding_rate", "last_funding_timestamp"),
        *nums("last_mtm_price", "last_mtm_timestamp"),
        *nums("long_trackers_funding_value", "long_trackers_base_multiplier", "long_trackers_adl_unwind_price"),
        *nums("short_trackers_funding_value", "short_trackers_base_multiplier", "short_trackers_adl_unwind_price"),
        *nums("open_interest"),
        *block(),
    )
    state_table(
        "market_storage",
        *nums("market_id", null=False),
        *texts("quote_collateral", "instrument_address", "name"),
        *nums("risk_block_id", "collateral_pool_id"),
        *block(),
        key=("market_id",),
    )


def _accounts() -> None:
    log_table("account_owner_updated_history", *nums("account_id"), *texts("new_owner"), *position())
    state_table(
        "account_owner_updated_snapshot",
        *nums("account_id", null=False),
        *texts("new_owner"),
        *position(),
        key=("account_id",),
    )
    indexes("account_owner_updated_snapshot", ("new_owner",))
    state_table(
        "account_balances",
        *nums("account_id", null=False),
        *texts("collateral", null=False),
        *nums("balance", "delta"),
        key=("account_id", "collateral"),
    )
    indexes("account_balances", ("collateral",))


def _entries() -> None:
    log_table(
        "account_collateral_balance_entries",
        *nums("account_id"),
        *texts("collateral"),
        *nums("amount"),
        *position(),
    )
    log_table(
        "margin_accounts_balance_entries",
        *nums("account_id"),
        *texts("collateral"),
        *nums("amount"),
        *texts("type"),
        *nums("counterparty_account_id"),
        *texts("sender"),
        *position(),
        unique=False,
    )
    log_table(
        "lp_account_balance_entries",
        *nums("pool_id"),
        *texts("account"),
        *nums("share_delta", "new_share_balance", "token_delta"),
        *position(),
    )
    log_table(
        "lp_unified_account_balance_entries",
        *nums("pool_id"),
        *texts("account"),
        *nums("share_delta", "new_share_balance", "token_delta"),
        *texts("token"),
        *nums("token_delta_in_quote", "action_metadata_action"),
        *texts("action_metadata_on_behalf_of"),
        *position(),
    )
    op.create_index(
        "lp_unified_account_balance_entries_action_idx",
        "lp_unified_account_balance_entries",
        ["action_metadata_action", "action_metadata_on_behalf_of"],
    )


def _tokens() -> None:
    log_table(
        "auto_exchange",
        *nums("liquidated_account_id", "liquidator_account_id", "requested_quote_amount"),
        *texts("collateral_out_address", "collateral_in_address"),
        *nums("collateral_amount_to_liquidator", "quote_amount_to_insurance_fund", "quote_amount_to_account"),
        *position(),
    )
    log_table(
        "token_transfer",
        *texts("token", "from_address", "to_address"),
        *nums("amount"),
        *position(),
        *times("created_at"),
    )
    state_table(
        "Asset",
        *texts("address", "name", "short", null=False),
        *times("createdAt", "updatedAt"),
        *texts("asset_price_contract_id", "asset_price_usdc_contract_id"),
        sa.Column("decimals", sa.Integer(), nullable=False),
        key=("address",),
    )


def _settings() -> None:
    state_table(
        "pool_created",
        *nums("pool_id", null=False),
        *texts("quote_token"),
        *nums("account_id"),
        *position(),
        key=("pool_id",),
    )
    state_table(
        "collateral_configuration",
        *nums("collateral_pool_id", null=False),
        *texts("collateral_address", null=False),
        *nums("price_haircut", "auto_exchange_discount"),
        *texts("oracle_node_id"),
        *block(),
        key=("collateral_pool_id", "collateral_address"),
    )
    state_table(
        "liquidation_configuration",
        *nums("collateral_pool_id", null=False),
        *nums("bid_keeper_fee", "queue_duration_in_seconds", "max_orders_in_bid", "max_bids_in_queue"),
        *nums("bid_score_weight", "backstop_keeper_fee", "adl_execution_keeper_fee", "d_dutch_min", "d_max"),
        *block(),
        key=("collateral_pool_id",),
    )
    state_table(
        "risk_multipliers_configuration",
        *nums("collateral_pool_id", null=False),
        *nums("im_multiplier", "mmr_multiplier", "dutch_multiplier", "adl_multiplier", "im_buffer_multiplier"),
        *block(),
        key=("collateral_pool_id",),
    )
