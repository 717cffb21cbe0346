"""The views over executions and balances, from the recomputed tables: for the account that traded or was liquidated,
and for who owned it then."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.support.oracle.base import Row

Tables = dict[str, list[Row]]
KEYS = {
    "trading_stats_account": ("account_id",),
    "trading_stats_account_market": ("account_id", "market_id"),
    "trading_stats_wallet": ("wallet_address",),
    "account_collateral_net_balance": ("account_id", "collateral"),
    "order_with_vol_price_impact": ("id",),
    "trades": ("id",),
}


def views(tables: Tables, now: int) -> Tables:
    """Rows by view; `now` in seconds."""
    counted = [row for row in tables["order_history"] if row["type"] in ("order", "liquidation")]
    found: Tables = {}
    for name in ("trading_stats_account", "trading_stats_account_market"):
        found[name] = _sums(counted, KEYS[name])
    owned = [row | {"wallet_address": _owner(tables, row)} for row in counted]
    owned = [row for row in owned if row["wallet_address"] is not None]
    found["trading_stats_wallet"] = _sums(owned, KEYS["trading_stats_wallet"])
    late = _sums([row for row in owned if row["block_timestamp"] >= now - 14 * 86_400], ("wallet_address",))
    volumes = {row["wallet_address"]: row["volume"] for row in late}
    for row in found["trading_stats_wallet"]:
        row["volume_14d"] = volumes.get(row["wallet_address"], Fraction(0))
    found["account_collateral_net_balance"] = [
        {
            "account_id": b["account_id"], "collateral": b["collateral"], "net_balance": b["balance"],
            "block_timestamp": max(e["block_timestamp"] for e in _entries(tables, b)),
        }
        for b in tables["account_balances"]
    ]  # fmt: skip
    found["order_with_vol_price_impact"] = [
        {"id": row["id"], "vol_price_impact": None, "block_timestamp": row["block_timestamp"]}
        for row in tables["order_history"]
    ]
    same = ("id", "market_id", "account_id", "price", "fee", "transaction_hash")
    place = ("block_timestamp", "block_number", "unique_id")
    found["trades"] = [{"base": r["executed_base"]} | {c: r[c] for c in (*same, *place)} for r in tables["orders"]]
    return found


def _entries(tables: Tables, balance: Row) -> list[Row]:
    key = balance["account_id"], balance["collateral"]
    return [e for e in tables["account_collateral_balance_entries"] if (e["account_id"], e["collateral"]) == key]


def _owner(tables: Tables, execution: Row) -> str | None:
    """The owner that the last log before the execution told; without any, that of the account's creation."""
    history = [h for h in tables["account_owner_updated_history"] if h["account_id"] == execution["account_id"]]
    if not history:
        history = [s for s in tables["account_owner_updated_snapshot"] if s["account_id"] == execution["account_id"]]
    told = [h for h in history if h["unique_id"] < execution["unique_id"]]
    owner: str | None = max(told, key=lambda h: int(h["unique_id"]))["new_owner"] if told else None
    return owner


def _sums(executions: list[Row], key: tuple[str, ...]) -> list[Row]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in executions:
        groups[tuple(row[k] for k in key)].append(row)
    made = []
    for values, rows in groups.items():
        realized = [row["r_pnl"] for row in rows if row["r_pnl"] is not None]
        made.append(
            dict(zip(key, values, strict=True))
            | {
                "volume": Fraction(sum(abs(row["order_base"]) * row["price"] for row in rows), 10**36),
                "number_of_trades": len(rows),
                "realized_pnl": Fraction(sum(realized), 10**18) if realized else None,
                "fees": Fraction(sum(row["fee"] for row in rows), 10**6),
                "updated_at": max(row["created_at"] for row in rows),
            }
        )
    return made


def different(expected: Tables, actual: Tables) -> list[str]:
    """One line each, by view."""
    found = []
    for name, key in KEYS.items():
        want = {tuple(row[k] for k in key): row for row in expected[name]}
        have = {tuple(row[k] for k in key): row for row in actual[name]}
        found += [f"{name} {k}: missing" for k in want.keys() - have.keys()]
        found += [f"{name} {k}: not on the chain" for k in have.keys() - want.keys()]
        for k in want.keys() & have.keys():
            columns = want[k].keys() | have[k].keys()
            found += [
                f"{name} {k} {c}: {have[k].get(c)!r}, should be {want[k].get(c)!r}"
                for c in sorted(columns)
                if not _equal(want[k].get(c), have[k].get(c))
            ]
    return found


def _equal(want: Any, have: Any) -> bool:
    if isinstance(want, Fraction):
        return isinstance(have, int | Decimal) and Fraction(have) == want
    return bool(want == have)
