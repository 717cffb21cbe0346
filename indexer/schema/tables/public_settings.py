"""Tables of settings, which rarely change: assets, pools, collateral, liquidation and risk configuration.

All are state tables. Ratios and multipliers (1e18).
"""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData
from sqlalchemy.dialects.postgresql import JSONB

from indexer.schema.tables.columns import numeric, numerics, origin, state_table, text, timestamp


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _assets_and_pools(metadata)
    _collateral(metadata)
    _risk(metadata)
    _spot_markets(metadata)


def _assets_and_pools(metadata: MetaData) -> None:
    state_table(
        "Asset",
        metadata,
        text("address", key=True),
        text("name", null=False),
        text("short", null=False),
        timestamp("createdAt"),
        timestamp("updatedAt"),
        text("asset_price_contract_id"),
        text("asset_price_usdc_contract_id"),
        Column("decimals", Integer, nullable=False),
    )
    state_table(
        "pool_created", metadata, numeric("pool_id", key=True), text("quote_token"), numeric("account_id"), *origin()
    )


def _collateral(metadata: MetaData) -> None:
    state_table(
        "collateral_configuration",
        metadata,
        numeric("collateral_pool_id", key=True),
        text("collateral_address", key=True),
        *numerics("price_haircut", "auto_exchange_discount"),
        text("oracle_node_id"),
        *origin(transaction=False),
    )


def _risk(metadata: MetaData) -> None:
    state_table(
        "liquidation_configuration",
        metadata,
        numeric("collateral_pool_id", key=True),
        *numerics("bid_keeper_fee", "queue_duration_in_seconds", "max_orders_in_bid", "max_bids_in_queue"),
        *numerics("bid_score_weight", "backstop_keeper_fee", "adl_execution_keeper_fee", "d_dutch_min", "d_max"),
        *origin(transaction=False),
    )
    state_table(
        "risk_multipliers_configuration",
        metadata,
        numeric("collateral_pool_id", key=True),
        *numerics("im_multiplier", "mmr_multiplier", "dutch_multiplier", "adl_multiplier", "im_buffer_multiplier"),
        *origin(transaction=False),
    )
    state_table(
        "risk_matrix",
        metadata,
        numeric("collateral_pool_id", key=True),
        numeric("risk_block_id", key=True),
        Column("risk_matrix", JSONB),
        *origin(transaction=False),
    )
    # The spelling is that of the Prisma schema.
    state_table(
        "auto_exchange_configrations",
        metadata,
        numeric("collateral_pool_id", key=True),
        *numerics("total_auto_exchange_threshold_in_usd", "negative_collateral_balances_multiplier"),
        numeric("quote_buffer_percentage"),
        *origin(transaction=False),
    )


def _spot_markets(metadata: MetaData) -> None:
    state_table(
        "spot_market_definitions",
        metadata,
        numeric("spot_market_id", key=True),
        *map(text, ("base_token", "quote_token", "symbol")),
        *numerics(
            "config_oracle_deviation", "config_minimum_order_base", "config_base_spacing", "config_price_spacing"
        ),
        text("config_oracle_node_id"),
        numeric("event_sequence_number"),
        *origin(),
    )
