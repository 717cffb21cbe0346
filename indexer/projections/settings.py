"""Configuration announced by the chain: one state row per key; the last event wins."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import Event, Row, StateKey, Transaction
from indexer.projections.write_set import WriteSet

EVENTS = (
    "CollateralParentConfigurationUpdated",
    "LiquidationConfigurationUpdated",
    "RiskMultipliersUpdated",
    "GlobalCollateralConfigurationUpdated",
    "BackstopLPConfigurationUpdated",
    "PoolCreated",
    "RiskMatrixCreation",
    "AutoExchangeConfigurationUpdated",
    "SpotMarketInfoUpdated",
)

LIQUIDATION = {
    "bid_keeper_fee": "bidKeeperFee",
    "queue_duration_in_seconds": "queueDurationInSeconds",
    "max_orders_in_bid": "maxOrdersInBid",
    "max_bids_in_queue": "maxBidsInQueue",
    "bid_score_weight": "bidScoreWeight",
    "backstop_keeper_fee": "backstopKeeperFee",
    "adl_execution_keeper_fee": "adlExecutionKeeperFee",
    "d_dutch_min": "dDutchMin",
    "d_max": "dMax",
}
RISK_MULTIPLIERS = {
    "im_multiplier": "imMultiplier",
    "mmr_multiplier": "mmrMultiplier",
    "dutch_multiplier": "dutchMultiplier",
    "adl_multiplier": "adlMultiplier",
    "im_buffer_multiplier": "imBufferMultiplier",
}

AUTO_EXCHANGE = {
    "total_auto_exchange_threshold_in_usd": "totalAutoExchangeThresholdInUSD",
    "negative_collateral_balances_multiplier": "negativeCollateralBalancesMultiplier",
    "quote_buffer_percentage": "quoteBufferPercentage",
}


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the row that the event sets."""
    yield _key(event)


def _key(event: Event) -> StateKey:
    args = event.args
    match event.name:
        case "CollateralParentConfigurationUpdated":
            return "collateral_configuration", (args["collateralPoolId"], args["collateralAddress"])
        case "LiquidationConfigurationUpdated":
            return "liquidation_configuration", (args["collateralPoolId"],)
        case "RiskMultipliersUpdated":
            return "risk_multipliers_configuration", (args["collateralPoolId"],)
        case "GlobalCollateralConfigurationUpdated":
            return "Asset", (args["collateralAddress"],)
        case "BackstopLPConfigurationUpdated":
            return "indexer.backstop_account", (args["collateralPoolId"],)
        case "RiskMatrixCreation":
            return "risk_matrix", (args["collateralPoolId"], args["riskBlockId"])
        case "AutoExchangeConfigurationUpdated":
            return "auto_exchange_configrations", (args["collateralPoolId"],)
        case "SpotMarketInfoUpdated":
            return "spot_market_definitions", (args["spotMarketId"],)
        case _:
            return "pool_created", (args["poolId"],)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Set the row to what the event announces."""
    table, key = _key(event)
    write_set.put(table, key, _row(write_set, event, write_set.get(table, key)), event)


def _row(write_set: WriteSet, event: Event, known: Row | None) -> Row:
    args = event.args
    origin = event.origin_columns(transaction=False)
    match event.name:
        case "CollateralParentConfigurationUpdated":
            return origin | _collateral(args)
        case "LiquidationConfigurationUpdated":
            columns = {column: args["newConfig"][name] for column, name in LIQUIDATION.items()}
            return origin | columns | {"collateral_pool_id": args["collateralPoolId"]}
        case "RiskMultipliersUpdated":
            columns = {column: args["newConfig"][name] for column, name in RISK_MULTIPLIERS.items()}
            return origin | columns | {"collateral_pool_id": args["collateralPoolId"]}
        case "GlobalCollateralConfigurationUpdated":
            address = args["collateralAddress"]
            name, short = write_set.tokens.get(address, (address, address))
            return {
                "address": address, "name": name, "short": short, "decimals": args["collateralDecimals"],
                "createdAt": known["createdAt"] if known else event.created_at, "updatedAt": event.created_at,
            }  # fmt: skip
        case "BackstopLPConfigurationUpdated":
            return {"collateral_pool_id": args["collateralPoolId"], "account_id": args["newConfig"]["accountId"]}
        case "RiskMatrixCreation":
            # As strings, because JSON readers in JavaScript would round the numbers.
            matrix = [[str(value) for value in row] for row in args["riskMatrix"]]
            block = {"risk_block_id": args["riskBlockId"], "risk_matrix": matrix}
            return origin | block | {"collateral_pool_id": args["collateralPoolId"]}
        case "AutoExchangeConfigurationUpdated":
            columns = {column: args["newConfig"][name] for column, name in AUTO_EXCHANGE.items()}
            return origin | columns | {"collateral_pool_id": args["collateralPoolId"]}
        case "SpotMarketInfoUpdated":
            return event.origin_columns() | _spot_market(args)
        case _:
            pool = {"pool_id": args["poolId"], "quote_token": args["quoteToken"], "account_id": args["accountId"]}
            return event.origin_columns() | pool


def _collateral(args: Row) -> Row:
    new = args["newConfig"]
    return {
        "collateral_pool_id": args["collateralPoolId"],
        "collateral_address": args["collateralAddress"],
        "price_haircut": new["priceHaircut"],
        "auto_exchange_discount": new["autoExchangeDiscount"],
        "oracle_node_id": "0x" + new["oracleNodeId"].hex(),
    }


def _spot_market(args: Row) -> Row:
    new = args["config"]
    return {
        "spot_market_id": args["spotMarketId"],
        "base_token": args["baseToken"],
        "quote_token": args["quoteToken"],
        "symbol": args["symbol"],
        "config_oracle_deviation": new["oracleDeviation"],
        "config_minimum_order_base": new["minimumOrderBase"],
        "config_base_spacing": new["baseSpacing"],
        "config_price_spacing": new["priceSpacing"],
        "config_oracle_node_id": "0x" + new["oracleNodeId"].hex(),
        "event_sequence_number": args["eventSequenceNumber"],
    }
