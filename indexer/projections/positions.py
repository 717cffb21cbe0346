"""position_raw: the on-chain fields of the last position that an event of the chain states, per (market, account).

PositionDataUpdated states one, PassivePerpOrderAndPositionUpdate both sides after the execution, V3 both sides before
and after. The derived columns (entry price, trackers at entry, session snapshot) stay NULL here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from indexer.projections.base import Event, Ledger, StateKey, Transaction

EVENTS = ("PositionDataUpdated", "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3")


def _positions(event: Event) -> list[tuple[int, dict[str, Any]]]:
    args = event.args
    if event.name == "PositionDataUpdated":
        return [(args["accountId"], args["positionData"])]
    if event.name == "PassivePerpOrderAndPositionUpdate":
        return [
            (args["accountId"], args["positionData"]),
            (args["counterpartyAccountId"], args["counterpartyPositionData"]),
        ]
    payload = args["payload"]
    return [
        (args["accountId"], payload["accountPositionAfter"]),
        (args["counterpartyAccountId"], payload["counterpartyPositionAfter"]),
    ]


def keys(event: Event) -> Iterable[StateKey]:
    for account, _ in _positions(event):
        yield "position_raw", (event.args["marketId"], account)


def apply(ledger: Ledger, tx: Transaction, event: Event) -> None:
    market = event.args["marketId"]
    for account, position in _positions(event):
        row = {
            "market_id": market,
            "account_id": account,
            "base": position["base"],
            "realized_pnl": position["realizedPnL"],
            "last_price": position["lastPriceData"]["price"],
            "position_data_last_price_data_timestamp": position["lastPriceData"]["timestamp"],
            "funding_value": position["trackers"]["fundingValue"],
            "base_multiplier": position["trackers"]["baseMultiplier"],
            "adl_unwind_price": position["trackers"]["adlUnwindPrice"],
        } | event.position()
        ledger.put("position_raw", (market, account), row, event)
