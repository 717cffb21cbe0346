"""Markets: market_trackers and its history, market_storage, and the rows that tell the "Market" view which are active.

In the order-book generation of MarketDataUpdated the old fields are frozen: fundingRate goes into last_funding_rate,
as consumers of the schema expect, while last_mtm_* stay as emitted because mark_price has columns of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from eth_hash.auto import keccak

from indexer.projections.events import Event, Row, StateKey, Transaction
from indexer.projections.write_set import WriteSet

FLAGS = {"FeatureFlagAllowAllSet": ("allow_all", "allowAll"), "FeatureFlagDenyAllSet": ("deny_all", "denyAll")}
EVENTS = ("MarketDataUpdated", "MarketRegistered", "MarketUpdated", *FLAGS)
_MARKET_ENABLED = keccak(b"marketEnabled")


def market_feature(market_id: int) -> str:
    """Return the feature flag of an active market: keccak256(abi.encode(keccak256("marketEnabled"), id))."""
    return "0x" + keccak(_MARKET_ENABLED + market_id.to_bytes(32)).hex()


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the tracker, flag or storage rows of the market."""
    if event.name == "MarketDataUpdated":
        yield "market_trackers", (event.args["marketData"]["id"],)
    elif event.name in FLAGS:
        yield "indexer.feature_flag", (event.address, "0x" + event.args["feature"].hex())
    else:
        yield "market_storage", (_market_id(event),)
        yield "indexer.market_feature", (_market_id(event),)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Write the tracker, flag or storage rows of the market."""
    if event.name == "MarketDataUpdated":
        _trackers(write_set, event)
    elif event.name in FLAGS:
        _flag(write_set, event)
    else:
        _storage(write_set, event)


def _market_id(event: Event) -> int:
    market_id: int = event.args["marketId"] if event.name == "MarketRegistered" else event.args["market"]["id"]
    return market_id


def _trackers(write_set: WriteSet, event: Event) -> None:
    data = {name.removesuffix("_DEPRECATED"): value for name, value in event.args["marketData"].items()}
    shared: Row = {
        "market_data_id": data["id"],
        "last_funding_velocity": data["lastFundingVelocity"],
        "last_funding_rate": data.get("fundingRate", data["lastFundingRate"]),
        "last_funding_timestamp": data["lastFundingTimestamp"],
        "last_mtm_price": data["lastMTM"]["price"],
        "last_mtm_timestamp": data["lastMTM"]["timestamp"],
        "open_interest": data["openInterest"],
    } | event.origin_columns(transaction=False)
    for side in ("long", "short"):
        trackers = data[f"{side}Trackers"]
        shared[f"{side}_trackers_funding_value"] = trackers["fundingValue"]
        shared[f"{side}_trackers_base_multiplier"] = trackers["baseMultiplier"]
        shared[f"{side}_trackers_adl_unwind_price"] = trackers["adlUnwindPrice"]
    write_set.append("market_trackers_history", {"id": event.id} | shared, event)
    row = shared | {
        "passive_pool_id": data["passivePoolId"],
        "pool_account_id": data["poolAccountId"],
        "quote_token": data["quoteToken"],
        "quote_token_decimals": data["quoteTokenDecimals"],
        "mark_price": data.get("markPrice"),
        "mark_price_timestamp": data.get("markPriceTimestamp"),
        "funding_rate_timestamp": data.get("fundingRateTimestamp"),
        "event_sequence_number": event.args.get("eventSequenceNumber"),
    }
    write_set.put("market_trackers", (data["id"],), row, event)


def _storage(write_set: WriteSet, event: Event) -> None:
    market_id = _market_id(event)
    known = write_set.get("market_storage", (market_id,)) or {}
    if event.name == "MarketRegistered":
        row = {
            "quote_collateral": event.args["quoteCollateral"],
            "instrument_address": event.args["instrument"],
            "name": event.args["name"],
            "risk_block_id": known.get("risk_block_id"),
            "collateral_pool_id": known.get("collateral_pool_id"),
        }
    else:
        market = event.args["market"]
        row = {
            "quote_collateral": market["quoteCollateral"],
            "instrument_address": market["instrumentAddress"],
            "name": market["name"],
            "risk_block_id": market["riskBlockId"],
            "collateral_pool_id": market["collateralPoolId"],
        }
    row |= {"market_id": market_id} | event.origin_columns(transaction=False)
    write_set.put("market_storage", (market_id,), row, event)
    feature = {"market_id": market_id, "feature": market_feature(market_id)}
    write_set.put("indexer.market_feature", (market_id,), feature, event)


def _flag(write_set: WriteSet, event: Event) -> None:
    column, argument = FLAGS[event.name or ""]
    key = (event.address, "0x" + event.args["feature"].hex())
    known = write_set.get("indexer.feature_flag", key) or {"allow_all": False, "deny_all": False}
    row = known | {"address": key[0], "feature": key[1], column: event.args[argument]}
    write_set.put("indexer.feature_flag", key, row, event)
