"""The consumers' queries (tests/data/queries.sql) over recomputed rows: dictionaries, integers and fractions.

Time is in microseconds. `Near` marks what PostgreSQL itself rounds: its division of numerics keeps 16 digits or more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.support.oracle.base import Row

DAY = 86_400 * 10**6
POOL_ACCOUNT = 2
TRADES = ("order", "liquidation")
Answer = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Near:
    """Equal to what differs from the exact value by less than 1e-12 of it."""

    exact: Fraction

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Near):
            other = other.exact
        if not isinstance(other, int | Decimal | Fraction):
            return NotImplemented
        return abs(Fraction(other) - self.exact) <= abs(self.exact) / 10**12

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Facts:
    """`rows` by table, those of applications included; `now` in microseconds; what the queries' parameters say."""

    rows: dict[str, list[Row]]
    now: int
    wallet: str = "0x6c51275fd01d5dbd2da194e92f920f8598306df2"
    account: int = 95681
    market: int = 1

    def owners(self) -> dict[int, str | None]:
        return {r["account_id"]: r["new_owner"] for r in self.rows["account_owner_updated_snapshot"]}

    def by(self, table: str, column: str) -> dict[str, Row]:
        return {row[column]: row for row in self.rows[table]}

    def history(self, first: Fraction | int, before: Fraction | int | None = None) -> list[Row]:
        """Executions of these seconds."""
        return [
            row
            for row in self.rows["order_history"]
            if row["block_timestamp"] >= first and (before is None or row["block_timestamp"] < before)
        ]

    def since_created(self) -> list[Row]:
        return [r for r in self.rows["order_history"] if microseconds(r["created_at"]) >= self.now - DAY]


def microseconds(moment: datetime) -> int:
    """Of a datetime without zone, which is UTC."""
    return round((moment - datetime(1970, 1, 1)) / timedelta(microseconds=1))


def seconds(moment: int) -> int:
    """To whole seconds as a cast to bigint does: halves away from zero."""
    return (moment + 500_000) // 10**6


def places(value: int, unit: int, digits: int = 8) -> Fraction:
    """value / unit, rounded to so many places, halves away from zero."""
    scaled = abs(value) * 10**digits
    whole = (2 * scaled + unit) // (2 * unit)
    return Fraction(-whole if value < 0 else whole, 10**digits)


def trades(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["type"] in TRADES]


def turnover(row: Row) -> Fraction:
    return Fraction(abs(row["order_base"]) * row["price"], 10**36)


def q01(f: Facts) -> Answer:
    return [(len(trades(f.history(seconds(f.now - DAY), seconds(f.now)))),)]


def q02(f: Facts) -> Answer:
    traded = {row["account_id"] for row in trades(f.history(seconds(f.now - DAY), seconds(f.now)))}
    return [(len({owner or "unknown" for account, owner in f.owners().items() if account in traded}),)]


def q03(f: Facts) -> Answer:
    owners, details, links = f.owners(), f.by("WalletDetails", "wallet"), f.by("WalletDiscordLink", "walletAddress")
    by_wallet: dict[str, list[Row]] = defaultdict(list)
    for row in f.history(seconds(f.now - DAY), seconds(f.now)):
        if row["account_id"] != POOL_ACCOUNT:
            by_wallet[owners.get(row["account_id"]) or "unknown"].append(row)
    answer: Answer = []
    for wallet, rows in by_wallet.items():
        accounts = sorted({row["account_id"] for row in rows})
        pnl = [(row, places(row["r_pnl"], 10**18)) for row in rows if row["r_pnl"] is not None]
        won = sum(row["type"] == "order" and gain > 0 for row, gain in pnl)
        counted = len(trades(rows))
        detail, link = details.get(wallet, {}), links.get(wallet, {})
        kind = detail.get("type") or "not_defined"
        shown = detail.get("name") or link.get("discordUsername") or wallet
        answer.append(
            (
                wallet, shown, accounts, len(accounts), sum(map(turnover, rows)), sum(gain for _, gain in pnl),
                won / counted if counted else 0.0, len(rows), max(row["block_timestamp"] for row in rows),
                sum(places(row["fee"], 10**6) for row in rows if row["fee"] is not None), detail.get("name"), kind,
                link.get("discordUsername"), link.get("tradingRank"), kind, 1, False, False,
            )
        )  # fmt: skip
    return answer


def q04(f: Facts) -> Answer:
    rows = trades(f.history(Fraction(f.now - DAY, 10**6)))
    wallets = {row["new_owner"] for row in f.rows["account_owner_updated_snapshot"]} - {None}
    interest = sum(row["open_interest"] or 0 for row in f.rows["market_trackers"])
    volume = Near(sum(map(turnover, rows), Fraction()))
    accounts = {row["account_id"] for row in rows}
    return [(volume, len(rows), len(accounts), len(wallets), Near(Fraction(interest, 10**18)))]


def markets(f: Facts, rows: Sequence[Row]) -> Answer:
    """Volume and number of trades by market, with the market's latest open interest and funding rate."""
    tracked = {row["market_data_id"]: row for row in f.rows["market_trackers"]}
    answer: Answer = []
    for market in {row["market_id"] for row in rows}:
        mine = [row for row in rows if row["market_id"] == market]
        latest = [
            Near(Fraction((tracked[market][name] if market in tracked else None) or 0, 10**18))
            for name in ("open_interest", "last_funding_rate")
        ]
        answer.append((market, Near(sum(map(turnover, mine), Fraction())), len(mine), *latest))
    return sorted(answer, key=lambda row: -row[1].exact)[:50]


def q06(f: Facts) -> Answer:
    return markets(f, trades(f.history(seconds(f.now - DAY))))


def q07(f: Facts) -> Answer:
    owners = f.owners()
    rows = [row for row in trades(f.history(seconds(f.now - DAY))) if row["market_id"] == f.market]
    return markets(f, [row for row in rows if owners.get(row["account_id"]) == f.wallet])


def traders(f: Facts, rows: Iterable[Row]) -> Answer:
    """By owner, over the time of writing."""
    owners, links = f.owners(), f.by("WalletDiscordLink", "walletAddress")
    settings = f.by("account_owner_configuration", "owner_address")
    by_wallet: dict[str | None, list[Row]] = defaultdict(list)
    for row in rows:
        if row["account_id"] in owners:
            by_wallet[owners[row["account_id"]]].append(row)
    answer: Answer = []
    for wallet, mine in by_wallet.items():
        link = links.get(wallet or "", {})
        answer.append(
            (
                wallet, sorted({row["account_id"] for row in mine}), link.get("discordUsername"), link.get("rank"),
                settings.get(wallet or "", {}).get("tier_id"), sum(row["order_base"] * row["price"] for row in mine),
                len(mine), Fraction(max(microseconds(row["created_at"]) for row in mine), 1000), 0, 0, 0, 0, 0,
            )
        )  # fmt: skip
    return answer


def q10(f: Facts) -> Answer:
    rows = [r for r in f.since_created() if (r["market_id"], r["account_id"]) == (f.market, f.account)]
    return [row for row in traders(f, rows) if row[0] == f.wallet]


def q11(f: Facts) -> Answer:
    return traders(f, f.since_created())


def q12(f: Facts) -> Answer:
    return [(account, owner) for account, owner in f.owners().items() if account == f.account]


def q13(f: Facts) -> Answer:
    staked = {
        row["action_metadata_on_behalf_of"]
        for row in f.rows["lp_unified_account_balance_entries"]
        if row["action_metadata_action"] in (6, 8)
    }
    mine = [row for row in f.rows["account_owner_configuration"] if row["owner_address"] == f.wallet]
    return [(row["tier_id"], row["og_status"] is True, f.wallet in staked) for row in mine]


ANSWERS: dict[str, Callable[[Facts], Answer]] = {
    "Q01": q01, "Q02": q02, "Q03": q03, "Q04": q04, "Q05": q04, "Q06": q06, "Q07": q07, "Q10": q10, "Q11": q11,
    "Q12": q12, "Q13": q13,
}  # fmt: skip
