"""Sources of each column. docs/reference/columns.md is generated from them.

Tests compare them with the tables and with what the projections write. A line is `columns: source`; a source that
begins with `-` says why a column is always NULL. `position` stands for transaction_hash, block_timestamp, block_number
and unique_id, as far as the table has them. The mark is the confidence that consumers expect the table this way: P
proven by published queries or types, S strongly implied, I inferred.
"""

from __future__ import annotations

from typing import NamedTuple

from indexer.schema.tables.metadata import public
from indexer.schema.tables.public_reserved import RESERVED

ORIGIN = ("transaction_hash", "block_timestamp", "block_number", "unique_id")
_AT = "position: place of the log; block_timestamp in seconds, from the event where it carries one"
_ID = "id: transaction hash and log index"
_STATED_AT = (
    "position: place of the event that stated it last, of the execution where none did; block_timestamp in seconds, "
    "from the event where it carries one"
)
_TIME = "created_at: time of the block, UTC"


class ColumnDoc(NamedTuple):
    """Documentation of one table. `row`: what there is one row per. `lines`: groups of columns with their source."""

    mark: str
    row: str
    lines: tuple[str, ...]

    def columns(self) -> dict[str, str]:
        """Return the source of each column; `position` expands to the columns of ORIGIN."""
        sources: dict[str, str] = {}
        for line in self.lines:
            names, _, source = line.partition(": ")
            for name in names.split(", "):
                for column in ORIGIN if name == "position" else (name,):
                    sources.setdefault(column, source)
        return sources


_SIDES = "market_id, account_id: the event; the account is the taker or the liquidated one"

_TRACKERS = (
    "long_trackers_funding_value, long_trackers_base_multiplier, long_trackers_adl_unwind_price, "
    "short_trackers_funding_value, short_trackers_base_multiplier, short_trackers_adl_unwind_price: 1e18"
)

COLUMN_DOCS: dict[str, ColumnDoc] = {
    "order_history": ColumnDoc("P", "execution", (
        _ID, _SIDES, "order_base, price: executed base (signed) and price, 1e18",
        "fee: gross taker fee, 1e6 rUSD; V3: sum of its four credits",
        "type: order, liquidation, adl, market_close; execution_N for a kind not known",
        ("r_pnl, price_variation_pnl, funding_pnl: accounting of the position, 1e18 rUSD; NULL for executions "
         "that extend it and where an input is not known"),
        "average_entry_price: the position's after the execution, 1e18; NULL when it is flat or not known",
        "processed: whether nothing that should be known is unknown", "source: - no event tells it", _AT, _TIME,
    )),
    "orders": ColumnDoc("P", "execution, both sides", (
        _ID, _SIDES,
        ("counterparty_account_id: OrderAndPositionUpdate, V3; for a bare match order from the four position events "
         "before it, NULL where they do not state both sides of it"),
        "executed_base, price: 1e18, signed as the account's",
        "fee, protocol_fee_credit, referrer_fee_credit, pool_fee_credit: 1e6 rUSD",
        "exchange_fee_credit: 1e6, before V3", "taker_rebate_credit: 1e6, V3",
        "is_match_order, liquidation_type: a trade (-1) or Core's LiquidationType", "execution_type: V3's",
        "position_base: base after the execution, as the event states it",
        "position_session: session after the execution", "referrer_account_id: the event",
        ("event_sequence_number, me_nonce, account_order_id, counterparty_order_id, counterparty_exchange_id: "
         "V3"),
        "maker_fee_credit, maker_fee_debit, exchange_id: - no event known to this release tells it", _AT, _TIME,
    )),
    "liquidation_history_details": ColumnDoc("I", "liquidation", (
        _ID, "account_id, market_id: the event", "owner_address: the account's owner at that time",
        "base, execution_price: 1e18", "fees: 1e6",
        "margin_ratio_percentage, margin_ratio_health: - only a call tells it",
        "block_timestamp, transaction_hash, unique_id: place of the log",
    )),
    "rebate_fee_history": ColumnDoc("I", "execution with a referrer's credit", (
        _ID, "referrer_account_id, referee_account_id, market_id: the event",
        "referee_wallet_address: the account's owner at that time", "token: rUSD", "amount: referrerFeeCredit, 1e6",
        _AT,
    )),
    "position_raw": ColumnDoc("P", "market and account", (
        "market_id, account_id: the event", "base: as stated, else the sum of the executions, 1e18",
        ("realized_pnl, last_price, position_data_last_price_data_timestamp, funding_value, base_multiplier, "
         "adl_unwind_price: as stated by PositionDataUpdated, OrderAndPositionUpdate, V3; 1e18, seconds. After "
         "a bare match order the trackers are those of the market's side where its transaction tells them, "
         "the rest is NULL"),
        "realized_pnl_latest_snapshot: realized_pnl when the session opened",
        ("average_entry_price_off_chain_tracker, funding_value_off_chain_tracker: averages at entry, 1e18; "
         "NULL when flat or not known"),
        _STATED_AT,
    )),
    "positions": ColumnDoc("S", "market and account", (
        "market_id, account_id: the event", "base: as stated, else the sum of the executions, 1e18",
        ("realized_pnl, last_price, last_price_timestamp, funding_value, base_multiplier, adl_unwind_price: "
         "as in position_raw"),
        ("average_entry_price, average_entry_funding_value: averages at entry, 1e18; NULL when flat or not "
         "known"),
        "session: counts openings; a flip is one", "last_trade_sequence_number: V3's eventSequenceNumber",
        _STATED_AT,
    )),
    "market_trackers": ColumnDoc("P", "market, its last MarketDataUpdated", (
        "market_data_id, passive_pool_id, pool_account_id, quote_token, quote_token_decimals: marketData",
        ("last_funding_velocity, last_funding_rate, last_funding_timestamp: per day, 1e18; the rate is "
         "fundingRate where there is one"),
        "last_mtm_price, last_mtm_timestamp: 1e18, seconds", _TRACKERS, "open_interest: base, one-sided, 1e18",
        ("mark_price, mark_price_timestamp, funding_rate_timestamp, event_sequence_number: third generation "
         "only"),
        "block_timestamp, block_number, unique_id: place of the log",
    )),
    "market_trackers_history": ColumnDoc("S", "MarketDataUpdated", (
        _ID,
        ("market_data_id, last_funding_velocity, last_funding_rate, last_funding_timestamp, last_mtm_price, "
         "last_mtm_timestamp: as in market_trackers"),
        _TRACKERS, "open_interest: 1e18", "block_timestamp, block_number, unique_id: place of the log",
    )),
    "pool_price_snapshot": ColumnDoc("I", "market, its last PoolPSlippageUpdated", (
        "market_id: the event", "pool_price: oracle price times one plus the premium, 1e18", "oracle_price: 1e18",
        "price_spread: - only a call tells it", "block_timestamp, block_number: place of the log",
    )),
    "pool_price_history": ColumnDoc("I", "market and block, the block's last PoolPSlippageUpdated", (
        "market_id: the event", "pool_price, oracle_price: 1e18", "block_timestamp, block_number: place of the log",
    )),
    "market_storage": ColumnDoc("P", "market", (
        "market_id, quote_collateral, instrument_address, name: MarketRegistered, MarketUpdated",
        "risk_block_id, collateral_pool_id: MarketUpdated",
        "block_timestamp, block_number, unique_id: place of the log",
    )),
    "account_owner_updated_history": ColumnDoc("S", "AccountOwnerUpdated", (
        _ID, "account_id, new_owner: the event", _AT,
    )),
    "account_owner_updated_snapshot": ColumnDoc("P", "account", (
        "account_id, new_owner: last AccountOwnerUpdated, or AccountCreated where there is none", _AT,
    )),
    "account_balances": ColumnDoc("P", "account and collateral", (
        "account_id, collateral: the event", "balance: sum of the entries, token units", "delta: the last entry",
    )),
    "account_collateral_balance_entries": ColumnDoc("P", "AccountCollateralSharesUpdated", (
        _ID, "account_id, collateral, amount: the event; shares, signed", _AT,
    )),
    "margin_accounts_balance_entries": ColumnDoc("I", "account and movement; further rows of a log have ids -1, -2", (
        "id: transaction hash, log index and number", "account_id, collateral, amount: token units, signed",
        "type: deposit, withdrawal, transfer, auto_exchange_deposit, auto_exchange_withdrawal",
        "counterparty_account_id: transfers and auto-exchanges", "sender: deposits, withdrawals, transfers", _AT,
    )),
    "lp_account_balance_entries": ColumnDoc("I", "ShareBalanceUpdated, first generation", (
        _ID, "pool_id, account: the event", "share_delta, new_share_balance: 1e30", "token_delta: token units", _AT,
    )),
    "lp_unified_account_balance_entries": ColumnDoc("P", "ShareBalanceUpdated, later generations", (
        _ID, "pool_id, account, token: the event", "share_delta, new_share_balance: 1e30", "token_delta: token units",
        "token_delta_in_quote: 1e6 rUSD", "action_metadata_action, action_metadata_on_behalf_of: third generation",
        _AT,
    )),
    "auto_exchange": ColumnDoc("P", "AutoExchangeTriggered", (
        _ID, "liquidated_account_id, liquidator_account_id, collateral_out_address, collateral_in_address: input",
        "requested_quote_amount, quote_amount_to_insurance_fund, quote_amount_to_account: 1e6 rUSD",
        "collateral_amount_to_liquidator: token units", _AT,
    )),
    "token_transfer": ColumnDoc("P", "ERC-20 Transfer of a contract marked erc20", (
        _ID, "token, from_address, to_address, amount: the event; token units", _AT, _TIME,
    )),
    "Asset": ColumnDoc("P", "collateral token", (
        "address, decimals: GlobalCollateralConfigurationUpdated", "name, short: the configuration's token",
        "createdAt, updatedAt: time of the first and the last such block, UTC",
        "asset_price_contract_id, asset_price_usdc_contract_id: - the application's",
    )),
    "collateral_configuration": ColumnDoc("P", "pool and collateral", (
        ("collateral_pool_id, collateral_address, price_haircut, auto_exchange_discount, oracle_node_id: "
         "CollateralParentConfigurationUpdated, 1e18"),
        _AT,
    )),
    "liquidation_configuration": ColumnDoc("S", "collateral pool", (
        ("collateral_pool_id, bid_keeper_fee, queue_duration_in_seconds, max_orders_in_bid, "
         "max_bids_in_queue, bid_score_weight, backstop_keeper_fee, adl_execution_keeper_fee, d_dutch_min, "
         "d_max: LiquidationConfigurationUpdated"),
        _AT,
    )),
    "risk_multipliers_configuration": ColumnDoc("S", "collateral pool", (
        ("collateral_pool_id, im_multiplier, mmr_multiplier, dutch_multiplier, adl_multiplier, "
         "im_buffer_multiplier: RiskMultipliersUpdated, 1e18"),
        _AT,
    )),
    "risk_matrix": ColumnDoc("S", "collateral pool and risk block", (
        "collateral_pool_id, risk_block_id: the event", "risk_matrix: RiskMatrixCreation, int64 1e18 as strings",
        "block_timestamp, block_number, unique_id: place of the log",
    )),
    "auto_exchange_configrations": ColumnDoc("I", "collateral pool", (
        ("collateral_pool_id, total_auto_exchange_threshold_in_usd, negative_collateral_balances_multiplier, "
         "quote_buffer_percentage: AutoExchangeConfigurationUpdated, 1e18"),
        "block_timestamp, block_number, unique_id: place of the log",
    )),
    "spot_market_definitions": ColumnDoc("I", "spot market", (
        ("spot_market_id, base_token, quote_token, symbol, config_oracle_deviation, config_minimum_order_base, "
         "config_base_spacing, config_price_spacing, config_oracle_node_id, event_sequence_number: "
         "SpotMarketInfoUpdated, 1e18"),
        _AT,
    )),
    "pool_created": ColumnDoc("I", "pool", (
        "pool_id, quote_token, account_id: PoolCreated", _AT,
    )),
}  # fmt: skip

# Views and their sources. `<table>_finalized` and `<table>_safe` have the columns of their table.
VIEW_DOCS: dict[str, ColumnDoc] = {
    "trades": ColumnDoc("I", "execution", (
        "id, market_id, account_id, price, fee, position: orders", "base: orders.executed_base",
    )),
    "order_with_vol_price_impact": ColumnDoc("I", "execution", (
        "id, block_timestamp: order_history", "vol_price_impact: - no event tells it",
    )),
    "Market": ColumnDoc("P", "market", (
        "id, ticker, name, quoteTokenId, riskBlockId, rootCollateralPoolId: market_storage",
        ("markPrice, openInterest, longOI, shortOI, fundingRate: market_trackers, each as the nearest double; rate "
         "per day"),
        "volume24H, priceChange24H, priceChange24HPercentage: order_history of the last 24 hours",
        "isActive: the market's feature flags",
        ("maxLeverage, availableLong, availableShort, marketPriceDeviation, description, tickSizeDecimals, "
         "underlyingAssetId, priority: 0 or empty; no event tells them and they are NOT NULL"),
    )),
    "trading_stats_account": ColumnDoc("I", "account with executions", (
        "account_id: order_history, types 'order' and 'liquidation'", "volume, realized_pnl, fees: rUSD, exact",
        "number_of_trades: executions", "updated_at: time of the last one, UTC",
    )),
    "trading_stats_account_market": ColumnDoc("I", "account and market with executions", (
        "account_id, market_id: order_history, types 'order' and 'liquidation'",
        "volume, realized_pnl, fees: rUSD, exact", "number_of_trades: executions",
        "updated_at: time of the last one, UTC",
    )),
    "trading_stats_wallet": ColumnDoc("I", "wallet that owned an account at an execution", (
        "wallet_address: the owner at that time", "volume, volume_14d, realized_pnl, fees: rUSD, exact",
        "number_of_trades: executions", "updated_at: time of the last one, UTC",
    )),
    "account_collateral_net_balance": ColumnDoc("I", "account and collateral", (
        "account_id, collateral, net_balance: account_balances, token units",
        "block_timestamp: of the last entry, seconds",
    )),
}  # fmt: skip

# Tables that only `enrich` fills: state at one final block, which each row names.
_READ_AT = "block_timestamp, block_number: of the block that was read at"
ENRICHED_DOCS: dict[str, ColumnDoc] = {
    "market_configuration": ColumnDoc("P", "market, by getMarketConfiguration", (
        ("market_id, risk_matrix_index, max_open_base, velocity_multiplier, minimum_order_base, base_spacing, "
         "price_spacing, oracle_node_id, mtm_window, dutch_config_lambda, dutch_config_min_base, "
         "slippage_params_phi, slippage_params_beta, depth_factor, max_exposure_factor, max_p_slippage, "
         "price_spread, volatility_index_multiplier: the struct's fields, 1e18; the order book's contracts "
         "keep some of them deprecated and frozen"),
        _READ_AT, "unique_id: - no log tells it",
    )),
    "global_fee_parameters": ColumnDoc("P", "deployment, by getGlobalFeeParameters", (
        "id: 1",
        ("og_discount, referee_discount, referrer_rebate, affiliate_referrer_rebate, vltz_discount: the "
         "struct's fields, 1e18; the order book's contracts call them rebate rates"),
        "pool_rebate: the order book's contracts only, 1e18", _READ_AT, "unique_id: - no log tells it",
    )),
    "account_owner_configuration": ColumnDoc("P", "wallet that owns an account, by getAccountOwnerFeeConfiguration", (
        "owner_address, tier_id, og_status, affiliate_status, vltz_status: the struct's fields", _READ_AT,
        "unique_id: - no log tells it",
    )),
    "fee_tier_parameters": ColumnDoc("P", "fee tier of a wallet, by getFeeTierParameters", (
        "tier_id, taker_fee, maker_fee: the struct's fields, 1e18", "volume: - no view tells it", _READ_AT,
        "unique_id: - no log tells it",
    )),
}  # fmt: skip

# Created empty and never written by the indexer, so that it cannot overwrite an application's rows.
APPLICATION_DOCS: dict[str, str] = {
    "WalletDetails": "the application's",
    "WalletDiscordLink": "the application's",
    "ConditionalOrders": "the application's, its status included",
    "BridgeTransactionsMarginAccount": "the application's: one leg of a bridging is on another chain",
    "BridgeTransactionsPool": "the application's: one leg of a bridging is on another chain",
    "account_owner_configuration": "fee tier of a wallet: `enrich` fills it where the application has no row",
}


def table_of(name: str) -> str:
    """Return Markdown for one table: its description, and one line per group of columns."""
    source = (COLUMN_DOCS | VIEW_DOCS | ENRICHED_DOCS)[name]
    what = "view, " if name in VIEW_DOCS else ""
    lines = [f"**`{name}`** ({what}{source.mark}): a row per {source.row}", ""]
    for line in source.lines:
        columns, _, origin = line.partition(": ")
        names = columns.split(", ")
        if columns == "position":
            names = [c for c in ORIGIN if name not in public.tables or c in public.tables[name].columns]
        why = f"NULL: {origin[2:]}" if origin.startswith("- ") else origin
        lines.append(f"- {', '.join(f'`{column}`' for column in names)}: {why}")
    return "\n".join(lines)


def document() -> str:
    """Return Markdown for all tables and views of `public`, with the sources of their columns."""
    parts = [table_of(name) for name in (*COLUMN_DOCS, *VIEW_DOCS)]
    parts.append("**Filled by `reya-indexer enrich` only**, empty until it was called:")
    parts += [table_of(name) for name in ENRICHED_DOCS]
    owned = [f"- `{name}`: {why}" for name, why in APPLICATION_DOCS.items() if name not in ENRICHED_DOCS]
    parts.append("\n".join(["**Not written by the indexer**, created empty:", "", *owned]))
    reserved = ", ".join(f"`{name}`" for name in RESERVED if name not in ENRICHED_DOCS)
    parts.append(f"**Reserved**, created empty; no event known to this release feeds them: {reserved}.")
    return "\n\n".join(parts) + "\n"
