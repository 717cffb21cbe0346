"""Configuration that the chain announces: one state row per key, the last event wins."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.base import Event, Ledger, Row, StateKey, Transaction

EVENTS = (
    "CollateralParentConfigurationUpdated",
    "LiquidationConfigurationUpdated",
    "RiskMultipliersUpdated",
    "GlobalCollateralConfigurationUpdated",
    "BackstopLPConfigurationUpdated",
    "PoolCreated",
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


def keys(event: Event) -> Iterable[StateKey]:
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
        case _:
            return "pool_created", (args["poolId"],)


def apply(ledger: Ledger, tx: Transaction, event: Event) -> None:
    table, key = _key(event)
    ledger.put(table, key, _row(ledger, event, ledger.get(table, key)), event)


def _row(ledger: Ledger, event: Event, known: Row | None) -> Row:
    args = event.args
    place = event.position(transaction=False)
    match event.name:
        case "CollateralParentConfigurationUpdated":
            new = args["newConfig"]
            return place | {
                "collateral_pool_id": args["collateralPoolId"],
                "collateral_address": args["collateralAddress"],
                "price_haircut": new["priceHaircut"],
                "auto_exchange_discount": new["autoExchangeDiscount"],
                "oracle_node_id": "0x" + new["oracleNodeId"].hex(),
            }
        case "LiquidationConfigurationUpdated":
            columns = {column: args["newConfig"][name] for column, name in LIQUIDATION.items()}
            return place | columns | {"collateral_pool_id": args["collateralPoolId"]}
        case "RiskMultipliersUpdated":
            columns = {column: args["newConfig"][name] for column, name in RISK_MULTIPLIERS.items()}
            return place | columns | {"collateral_pool_id": args["collateralPoolId"]}
        case "GlobalCollateralConfigurationUpdated":
            address = args["collateralAddress"]
            name, short = ledger.tokens.get(address, (address, address))
            return {
                "address": address, "name": name, "short": short, "decimals": args["collateralDecimals"],
                "createdAt": known["createdAt"] if known else event.created_at, "updatedAt": event.created_at,
            }  # fmt: skip
        case "BackstopLPConfigurationUpdated":
            return {"collateral_pool_id": args["collateralPoolId"], "account_id": args["newConfig"]["accountId"]}
        case _:
            pool = {"pool_id": args["poolId"], "quote_token": args["quoteToken"], "account_id": args["accountId"]}
            return event.position() | pool
