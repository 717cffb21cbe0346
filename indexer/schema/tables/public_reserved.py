"""Reserved tables, which no event known to this release fills: created empty, so that consumers' queries run.

These are series, candles, prices, and configuration that only view functions return. A later release or an application
may fill them. Each is a line of `column:type` with `*` for the primary key and `!` for NOT NULL; other columns are
nullable.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

_TYPES: dict[str, Any] = {
    "n": Numeric(78, 0), "d": Numeric(), "b": BigInteger(), "i": Integer(), "f": Double(), "t": Text(), "y": Boolean(),
    "j": JSONB(), "ts": TIMESTAMP(precision=3), "serial": Integer(), "bigserial": BigInteger(),
}  # fmt: skip

RESERVED: dict[str, str] = {
    "swaps": (
        "id:t* account_id:n! token_in:t! token_out:t! amount_in:n! amount_out:n! executed_amount_out:n! "
        "transaction_hash:t! block_timestamp:n! block_number:n! unique_id:b"
    ),
    "referral_mapping_event": (
        "id:t* referee:t referrer:t transaction_hash:t! block_timestamp:n block_number:n! unique_id:b"
    ),
    "referrer_account_tier_event": (
        "id:t* account_id:n tier_id:n transaction_hash:t! block_timestamp:n block_number:n! unique_id:b"
    ),
    "referrer_tier_rebate_event": (
        "id:t* tier_id:n rebate:n transaction_hash:t! block_timestamp:n block_number:n! unique_id:b"
    ),
    "AccountProfile": "account_id:n* name:t! status:t! updated_timestamp_ms:n! source:t",
    "AccountLeveragePerMarket": "accountId:n* marketId:n* leverage:f! createdAt:ts! updatedAt:ts!",
    "account_signature_nonce": ("address:t* nonce:n transaction_hash:t! block_timestamp:n block_number:n! unique_id:b"),
    "account_signature_nonce_pool": (
        "address:t* nonce:n transaction_hash:t! block_timestamp:n block_number:n! unique_id:b"
    ),
    "account_tier": "market_id:n* account_id:n* tier_id:n",
    "referral_mappings": "referee:t* referrer:t transaction_hash:t! block_timestamp:n block_number:n! unique_id:b",
    "Candle": (
        "id:t* startedAt:ts! ticker:t! resolution:t! low:d! high:d! open:d! close:d! baseTokenVolume:d! usdVolume:d! "
        "trades:i! startingOpenInterest:d!"
    ),
    "SpotCandle": (
        "id:t* startedAt:ts! ticker:t! resolution:t! low:d! high:d! open:d! close:d! baseTokenVolume:d! usdVolume:d! "
        "trades:i! startingOpenInterest:d!"
    ),
    "StorkPriceCandle": "id:t* assetPairId:t! resolution:t! startedAt:ts! open:d! high:d! low:d! close:d!",
    "StorkPriceUpdates": "assetPairId:t* timestamp:b* price:n!",
    "stork_asset_price_history": "asset_pair_id:t* timestamp:n* price:n block_number:n",
    "asset_price_history": "contract_id:t* price:n round_id:n timestamp:n* block_number:n! unique_id:b",
    "asset_price_interval": "contract_id:t* interval:t* timestamp:n* price:n",
    "spot_price_history": "market_id:n* timestamp:n* price:n",
    "market_trackers_interval": (
        "market_data_id:n* interval:t* timestamp:n* open_interest:n last_funding_rate:n block_number:n"
    ),
    "AccountBalanceSeries": "id:bigserial* timestamp:b! accountId:n! value:d!",
    "AccountTotalBalanceSeries": "id:bigserial* timestamp:b! accountId:n! value:d!",
    "OwnerAddressTotalBalanceSeries": "id:bigserial* timestamp:b! ownerAddress:t! value:d!",
    "AccountCollateralBalanceSeries": "id:bigserial* timestamp:b! accountId:n! collateral:t! value:d!",
    "FundingRateSeries": "id:bigserial* timestamp:b! marketId:n! value:d!",
    "PositionSeries": (
        "id:bigserial* timestamp:b! accountId:n! marketId:n! base:n realizedPnl:n lastPrice:n fundingValue:n "
        "transactionHash:t blockNumber:n uniqueId:b"
    ),
    "PriceSeries": "id:bigserial* timestamp:b! marketId:n! value:d!",
    "MarketOpenInterest": "id:bigserial* timestamp:b! marketId:n! openInterest:n",
    "LpPoolBalanceSeries": ("id:serial* timestamp:b! pool_id:i! value:d! apy:d! share_price:d! share_price_index:d!"),
    "LpPoolBalanceSeriesV2": ("id:serial* timestamp:b! pool_id:i! value:d! apy:d! share_price:d! share_price_index:d!"),
    "LpPoolAddressPerformanceSeries": ("id:bigserial* timestamp:b! address:t! poolId:i! capitalInvested:d balance:d"),
    "asset_price": "block_number:n! unique_id:b contract_id:t* price:n round_id:n timestamp:n!",
    "SpotMarket": (
        "id:n* ticker:t! underlyingAssetId:t quoteTokenId:t isActive:y tickSizeDecimals:i decimalsFrom:i decimalsTo:i"
    ),
    "market_configuration": (
        "market_id:n* risk_matrix_index:n max_open_base:n velocity_multiplier:n minimum_order_base:n base_spacing:n "
        "price_spacing:n oracle_node_id:t mtm_window:n dutch_config_lambda:n dutch_config_min_base:n "
        "slippage_params_phi:n slippage_params_beta:n depth_factor:n max_exposure_factor:n max_p_slippage:n "
        "price_spread:n volatility_index_multiplier:n block_timestamp:n block_number:n! unique_id:b"
    ),
    "tier_fee": "market_id:n* tier_id:n* fee_parameter:n",
    "fee_tier_parameters": ("tier_id:n* taker_fee:n maker_fee:n volume:n block_timestamp:n block_number:n unique_id:b"),
    "global_fee_parameters": (
        "id:i* og_discount:n referee_discount:n referrer_rebate:n affiliate_referrer_rebate:n vltz_discount:n "
        "pool_rebate:n block_timestamp:n block_number:n unique_id:b"
    ),
    "socket_withdraw_fees": "token:t* chain_id:n* fee:n block_timestamp:n block_number:n! unique_id:b",
}


def _column(cell: str) -> Column[Any]:
    name, _, kind = cell.rpartition(":")
    plain = kind.rstrip("*!")
    return Column(
        name, _TYPES[plain], primary_key=kind.endswith("*"), nullable=kind == plain,
        autoincrement=plain in ("serial", "bigserial"),
    )  # fmt: skip


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    for name, cells in RESERVED.items():
        Table(name, metadata, *map(_column, cells.split()), info={"kind": "reserved"})
