"""Markets, assets, pools and their configuration."""

from __future__ import annotations

import json

from tests.support.oracle.base import Log, Tables


class Markets(Tables):
    """The events of markets and settings; a method's name is the event's."""

    def on_MarketDataUpdated(self, log: Log) -> None:
        d = {k.replace("_DEPRECATED", ""): v for k, v in log.args["marketData"].items()}
        book = "markPrice" in d
        row = log.where | {
            "market_data_id": d["id"],
            "last_funding_velocity": d["lastFundingVelocity"],
            "last_funding_rate": d["fundingRate"] if book else d["lastFundingRate"],
            "last_funding_timestamp": d["lastFundingTimestamp"],
            "last_mtm_price": d["lastMTM"]["price"],
            "last_mtm_timestamp": d["lastMTM"]["timestamp"],
            "long_trackers_funding_value": d["longTrackers"]["fundingValue"],
            "long_trackers_base_multiplier": d["longTrackers"]["baseMultiplier"],
            "long_trackers_adl_unwind_price": d["longTrackers"]["adlUnwindPrice"],
            "short_trackers_funding_value": d["shortTrackers"]["fundingValue"],
            "short_trackers_base_multiplier": d["shortTrackers"]["baseMultiplier"],
            "short_trackers_adl_unwind_price": d["shortTrackers"]["adlUnwindPrice"],
            "open_interest": d["openInterest"],
        }
        self.append("market_trackers_history", {"id": log.id} | row)
        more = {
            "passive_pool_id": d["passivePoolId"],
            "pool_account_id": d["poolAccountId"],
            "quote_token": d["quoteToken"],
            "quote_token_decimals": d["quoteTokenDecimals"],
            "mark_price": d["markPrice"] if book else None,
            "mark_price_timestamp": d["markPriceTimestamp"] if book else None,
            "funding_rate_timestamp": d["fundingRateTimestamp"] if book else None,
            "event_sequence_number": log.args["eventSequenceNumber"] if book else None,
        }
        self.state("market_trackers", row | more)

    def on_MarketRegistered(self, log: Log) -> None:
        a = log.args
        before = self.states["market_storage"].get((a["marketId"],), {})
        row = {
            "market_id": a["marketId"],
            "quote_collateral": a["quoteCollateral"],
            "instrument_address": a["instrument"],
            "name": a["name"],
            "risk_block_id": before.get("risk_block_id"),
            "collateral_pool_id": before.get("collateral_pool_id"),
        }
        self.state("market_storage", row | log.where)

    def on_MarketUpdated(self, log: Log) -> None:
        m = log.args["market"]
        row = {
            "market_id": m["id"],
            "quote_collateral": m["quoteCollateral"],
            "instrument_address": m["instrumentAddress"],
            "name": m["name"],
            "risk_block_id": m["riskBlockId"],
            "collateral_pool_id": m["collateralPoolId"],
        }
        self.state("market_storage", row | log.where)

    def on_GlobalCollateralConfigurationUpdated(self, log: Log) -> None:
        address = log.args["collateralAddress"]
        name, short = self.config.tokens.get(address, (address, address))
        first = self.states["Asset"].get((address,), {"createdAt": log.date})["createdAt"]
        row = {"address": address, "name": name, "short": short, "decimals": log.args["collateralDecimals"]}
        self.state("Asset", row | {"createdAt": first, "updatedAt": log.date})

    def on_PoolCreated(self, log: Log) -> None:
        a = log.args
        row = {"pool_id": a["poolId"], "quote_token": a["quoteToken"], "account_id": a["accountId"]}
        self.state("pool_created", row | log.at)

    def on_CollateralParentConfigurationUpdated(self, log: Log) -> None:
        a, c = log.args, log.args["newConfig"]
        row = {
            "collateral_pool_id": a["collateralPoolId"],
            "collateral_address": a["collateralAddress"],
            "price_haircut": c["priceHaircut"],
            "auto_exchange_discount": c["autoExchangeDiscount"],
            "oracle_node_id": "0x" + c["oracleNodeId"].hex(),
        }
        self.state("collateral_configuration", row | log.where)

    def on_LiquidationConfigurationUpdated(self, log: Log) -> None:
        self.pool_settings("liquidation_configuration", log)

    def on_RiskMultipliersUpdated(self, log: Log) -> None:
        self.pool_settings("risk_multipliers_configuration", log)

    def pool_settings(self, table: str, log: Log) -> None:
        """The columns are the fields in snake case."""
        snake = {
            "".join("_" + c.lower() if c.isupper() else c for c in name): value
            for name, value in log.args["newConfig"].items()
        }
        self.state(table, {"collateral_pool_id": log.args["collateralPoolId"]} | snake | log.where)

    def on_RiskMatrixCreation(self, log: Log) -> None:
        a = log.args
        row = {"collateral_pool_id": a["collateralPoolId"], "risk_block_id": a["riskBlockId"]}
        matrix = json.dumps([[str(n) for n in line] for line in a["riskMatrix"]])
        self.state("risk_matrix", row | {"risk_matrix": matrix} | log.where)

    def on_AutoExchangeConfigurationUpdated(self, log: Log) -> None:
        a, c = log.args, log.args["newConfig"]
        row = {
            "collateral_pool_id": a["collateralPoolId"],
            "total_auto_exchange_threshold_in_usd": c["totalAutoExchangeThresholdInUSD"],
            "negative_collateral_balances_multiplier": c["negativeCollateralBalancesMultiplier"],
            "quote_buffer_percentage": c["quoteBufferPercentage"],
        }
        self.state("auto_exchange_configrations", row | log.where)

    def on_SpotMarketInfoUpdated(self, log: Log) -> None:
        a, c = log.args, log.args["config"]
        row = {
            "spot_market_id": a["spotMarketId"],
            "base_token": a["baseToken"],
            "quote_token": a["quoteToken"],
            "symbol": a["symbol"],
            "config_oracle_deviation": c["oracleDeviation"],
            "config_minimum_order_base": c["minimumOrderBase"],
            "config_base_spacing": c["baseSpacing"],
            "config_price_spacing": c["priceSpacing"],
            "config_oracle_node_id": "0x" + c["oracleNodeId"].hex(),
            "event_sequence_number": a["eventSequenceNumber"],
        }
        self.state("spot_market_definitions", row | log.at)

    def on_BackstopLPConfigurationUpdated(self, log: Log) -> None:
        self.backstops[log.args["collateralPoolId"]] = log.args["newConfig"]["accountId"]
