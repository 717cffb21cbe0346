"""Trading tables: orders and their history, liquidations, rebates, positions, market trackers and storage.

Units: base, price, PnL, funding values and multipliers (1e18); fees (1e6 rUSD).
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, MetaData, Numeric, SmallInteger

from indexer.chain.types import LOGS_PER_BLOCK
from indexer.schema.tables.columns import (
    append_table,
    bigint,
    index,
    numeric,
    numerics,
    origin,
    state_table,
    text,
    timestamp,
)


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _executions(metadata)
    _liquidations_and_rebates(metadata)
    _positions(metadata)
    _pool_prices(metadata)
    _markets(metadata)


def _executions(metadata: MetaData) -> None:
    # One row per execution, for the taker or the liquidated account. The PnL columns need accounting over its history.
    append_table(
        "order_history",
        metadata,
        *numerics("market_id", "account_id", "order_base", "fee", "price"),
        text("type", null=False),
        Column("processed", Boolean, nullable=False),
        *numerics("r_pnl", "price_variation_pnl", "funding_pnl", "average_entry_price"),
        text("source"),
        *origin(),
        timestamp("created_at"),
        index("order_history", "block_timestamp"),
        index("order_history", "account_id", "block_timestamp"),
        index("order_history", "market_id", "block_timestamp"),
        index("order_history", "created_at"),
    )
    # One row per execution as well, with both sides. The indexes on account and market also serve the view `trades`.
    append_table(
        "orders",
        metadata,
        *numerics("market_id", "account_id", "counterparty_account_id", "executed_base", "fee", "price"),
        Column("is_match_order", Boolean),
        numeric("liquidation_type"),
        Column("execution_type", SmallInteger),
        *numerics("position_base", "position_session"),
        *numerics("protocol_fee_credit", "exchange_fee_credit", "referrer_fee_credit", "taker_rebate_credit"),
        *numerics("pool_fee_credit", "maker_fee_credit", "maker_fee_debit"),
        *numerics("referrer_account_id", "exchange_id", "counterparty_exchange_id"),
        *numerics("account_order_id", "counterparty_order_id", "me_nonce", "event_sequence_number"),
        *origin(),
        timestamp("created_at"),
        index("orders", "me_nonce", "event_sequence_number"),
        index("orders", "account_id", "block_timestamp"),
        index("orders", "market_id", "block_timestamp"),
    )


def _liquidations_and_rebates(metadata: MetaData) -> None:
    append_table(
        "liquidation_history_details",
        metadata,
        numeric("account_id"),
        text("owner_address"),
        *numerics("market_id", "base", "execution_price", "fees"),
        Column("margin_ratio_percentage", Numeric),
        text("margin_ratio_health"),
        numeric("block_timestamp"),
        text("transaction_hash"),
        bigint("unique_id"),
        block=f"unique_id / {LOGS_PER_BLOCK}",
    )
    append_table(
        "rebate_fee_history",
        metadata,
        numeric("referrer_account_id"),
        text("referee_wallet_address"),
        numeric("referee_account_id"),
        text("token"),
        *numerics("amount", "market_id"),
        *origin(),
    )


def _positions(metadata: MetaData) -> None:
    # unique_id does not identify a row: one execution states the positions of both sides.
    state_table(
        "position_raw",
        metadata,
        numeric("market_id", key=True),
        numeric("account_id", key=True),
        *numerics("base", "realized_pnl", "realized_pnl_latest_snapshot", "average_entry_price_off_chain_tracker"),
        *numerics("funding_value_off_chain_tracker", "last_price", "position_data_last_price_data_timestamp"),
        *numerics("funding_value", "base_multiplier", "adl_unwind_price"),
        *origin(),
        index("position_raw", "account_id"),
    )
    # Positions in the form of the fast indexer. `average_entry_...` and `session` are computed from the executions.
    state_table(
        "positions",
        metadata,
        numeric("market_id", key=True),
        numeric("account_id", key=True),
        *numerics("base", "realized_pnl", "last_price", "last_price_timestamp", "funding_value", "base_multiplier"),
        *numerics("adl_unwind_price", "average_entry_price", "average_entry_funding_value", "session"),
        *numerics("last_trade_sequence_number"),
        text("transaction_hash"),
        *numerics("block_timestamp", "block_number"),
        bigint("unique_id"),
        index("positions", "account_id"),
    )


def _pool_prices(metadata: MetaData) -> None:
    state_table(
        "pool_price_snapshot",
        metadata,
        numeric("market_id", key=True),
        *numerics("pool_price", "oracle_price", "price_spread", "block_timestamp", "block_number"),
    )
    # One row per market and block, from the last log of the block.
    state_table(
        "pool_price_history",
        metadata,
        numeric("market_id", key=True),
        *numerics("pool_price", "oracle_price", "block_timestamp"),
        numeric("block_number", key=True),
    )


def _markets(metadata: MetaData) -> None:
    state_table(
        "market_trackers",
        metadata,
        numeric("market_data_id", key=True),
        *numerics("passive_pool_id", "pool_account_id"),
        text("quote_token"),
        *numerics("quote_token_decimals", "last_funding_velocity", "last_funding_timestamp"),
        *numerics("last_mtm_price", "last_mtm_timestamp", "long_trackers_funding_value", "last_funding_rate"),
        *numerics("long_trackers_base_multiplier", "long_trackers_adl_unwind_price", "short_trackers_funding_value"),
        *numerics("short_trackers_base_multiplier", "short_trackers_adl_unwind_price", "open_interest"),
        *numerics("mark_price", "mark_price_timestamp", "funding_rate_timestamp", "event_sequence_number"),
        *origin(transaction=False),
    )
    append_table(
        "market_trackers_history",
        metadata,
        numeric("market_data_id", null=False),
        *numerics("last_funding_velocity", "last_funding_rate", "last_funding_timestamp"),
        *numerics("last_mtm_price", "last_mtm_timestamp"),
        *numerics("long_trackers_funding_value", "long_trackers_base_multiplier", "long_trackers_adl_unwind_price"),
        *numerics("short_trackers_funding_value", "short_trackers_base_multiplier", "short_trackers_adl_unwind_price"),
        numeric("open_interest"),
        *origin(transaction=False),
    )
    state_table(
        "market_storage",
        metadata,
        numeric("market_id", key=True),
        *(text(name) for name in ("quote_collateral", "instrument_address", "name")),
        *numerics("risk_block_id", "collateral_pool_id"),
        *origin(transaction=False),
    )
