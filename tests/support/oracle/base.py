"""What a recompute collects: decoded logs in, rows out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.support.oracle.decode import Config

Row = dict[str, Any]
TABLES = [
    "order_history", "orders", "account_owner_updated_history", "account_collateral_balance_entries",
    "margin_accounts_balance_entries", "lp_account_balance_entries", "lp_unified_account_balance_entries",
    "auto_exchange", "liquidation_history_details", "rebate_fee_history", "market_trackers_history", "token_transfer",
]  # fmt: skip
STATES = {
    "account_owner_updated_snapshot": ("account_id",),
    "account_balances": ("account_id", "collateral"),
    "position_raw": ("market_id", "account_id"),
    "positions": ("market_id", "account_id"),
    "pool_price_snapshot": ("market_id",),
    "pool_price_history": ("market_id", "block_number"),
    "market_trackers": ("market_data_id",),
    "market_storage": ("market_id",),
    "Asset": ("address",),
    "pool_created": ("pool_id",),
    "collateral_configuration": ("collateral_pool_id", "collateral_address"),
    "liquidation_configuration": ("collateral_pool_id",),
    "risk_multipliers_configuration": ("collateral_pool_id",),
    "risk_matrix": ("collateral_pool_id", "risk_block_id"),
    "auto_exchange_configrations": ("collateral_pool_id",),
    "spot_market_definitions": ("spot_market_id",),
    "indexer.undecoded": ("address", "topic0", "reason"),
    "indexer.proxy_upgrade": ("address",),
}


def fits(row: Row) -> bool:
    """Nothing that numeric(78,0), a bigint unique_id or text refuses: such a row is left out whole."""
    if any("\0" in v for v in row.values() if isinstance(v, str)):
        return False
    numbers = [v for v in row.values() if isinstance(v, int)]
    return all(abs(n) < 10**78 for n in numbers) and abs(row.get("unique_id", 0)) < 2**63


class Log:
    """A decoded log and the columns that say where it stands."""

    def __init__(self, config: Config, log: dict[str, Any]) -> None:
        self.name, self.args, self.reason = config.read(log)
        self.address = log["address"]
        self.topic0 = log["topics"][0] if log["topics"] else ""
        block, index = int(log["blockNumber"], 16), int(log["logIndex"], 16)
        seconds = int(log["blockTimestamp"], 16)
        self.id, self.seconds = f"{log['transactionHash']}-{index}", seconds
        self.date = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
        self.where = {
            "block_timestamp": self.args.get("blockTimestamp", seconds),
            "block_number": block,
            "unique_id": block * 100_000 + index,
        }
        self.at = self.where | {"transaction_hash": log["transactionHash"]}


class Tables:
    """Append tables as lists, state tables by key."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lists: dict[str, list[Row]] = {t: [] for t in TABLES}
        self.states: dict[str, dict[tuple[Any, ...], Row]] = {t: {} for t in STATES}
        self.backstops: dict[int, int] = {}
        self.balances: dict[tuple[int, str], int] = {}

    def append(self, table: str, row: Row) -> None:
        if fits(row):
            self.lists[table].append(row)

    def state(self, table: str, row: Row) -> None:
        """The key's row from now on; a row that does not fit leaves the one before."""
        if fits(row):
            self.states[table][tuple(row[k] for k in STATES[table])] = row
