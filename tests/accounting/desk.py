"""An exchange that keeps its own books, as the contracts do: whatever it emits follows from what it emitted before.

The rules are the contract's: a position is brought up to date (auto-deleveraging, price, funding), then executed. All
numbers are integers of 1e18, divided towards zero. Nothing here is the program's or the oracle's code.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.support.anvil.emission import Abis, Emission

E18 = 10**18
Flow = list[Emission]
NOBODY = 0


def divided(product: int, by: int) -> int:
    whole = abs(product) // abs(by)
    return whole if (product < 0) == (by < 0) else -whole


@dataclass(frozen=True)
class Side:
    """Trackers of one side of a market."""

    funding: int = 0
    multiplier: int = E18
    unwind: int = 0


@dataclass(frozen=True)
class Market:
    id: int
    price: int
    time: int
    long: Side = Side()
    short: Side = Side(funding=7 * E18)  # apart from the long side's: a flip must not take one for the other

    def side(self, base: int) -> Side:
        """A flat position carries the long side's."""
        return self.short if base < 0 else self.long


@dataclass(frozen=True)
class Position:
    base: int = 0
    realized: int = 0
    price: int = 0
    time: int = 0
    side: Side = Side()

    def struct(self) -> dict[str, Any]:
        return {
            "base": self.base, "realizedPnL": self.realized,
            "lastPriceData": {"price": self.price, "timestamp": self.time},
            "trackers": _trackers(self.side),
        }  # fmt: skip

    def live(self, market: Market) -> int:
        return divided(self.base * market.side(self.base).multiplier, self.side.multiplier)

    def updated(self, market: Market) -> Position:
        """Brought up to date: what auto-deleveraging took is realised at its unwind price, the rest marked to the
        market's price and charged with the funding of its side."""
        side, live = market.side(self.base), self.live(market)
        realized = self.realized + divided((self.base - live) * (side.unwind - self.price), E18)
        realized += divided(live * (market.price - self.price), E18)
        realized -= divided(live * (side.funding - self.side.funding), side.multiplier)
        return Position(live, realized, market.price, market.time, side if live else market.long)

    def executed(self, market: Market, size: int, price: int) -> Position:
        """After an execution; the last price of an extension is the average by size."""
        held, base, last = self.base, self.base + size, self.price
        if held == 0 or (held > 0) == (size > 0):
            last = (abs(held) * last + abs(size) * price) // (abs(held) + abs(size))
        elif abs(size) > abs(held):
            last = price
        realized = self.realized + divided(held * (last - self.price), E18) + divided(size * (last - price), E18)
        return Position(base, realized, last, market.time, market.side(base))


@dataclass(frozen=True)
class Fill:
    """One execution: accounts, signed size and price, and each side's position brought up to date and after it."""

    market: int
    account: int
    other: int
    size: int
    price: int
    before: Position
    after: Position
    other_before: Position
    other_after: Position


def _trackers(side: Side) -> dict[str, Any]:
    return {"fundingValue": side.funding, "baseMultiplier": side.multiplier, "adlUnwindPrice": side.unwind}


class Desk:
    """`pool`: on the other side of AMM orders. Accounts are 101 and up; the state is small, `copy` is cheap."""

    def __init__(self, abis: Abis, rng: random.Random, markets: int = 2, accounts: int = 4) -> None:
        self.abis, self.rng, self.pool, self.backstop = abis, rng, 2, 3
        self.now, self.sequence = 1_740_000_000, 0
        self.rusd = abis.addresses["rusd"]
        self.accounts = [101 + n for n in range(accounts)]
        self.markets = {n: Market(n, (n + 1) * 1_000 * E18, self.now) for n in range(1, markets + 1)}
        self.positions: dict[tuple[int, int], Position] = {}

    def copy(self) -> Desk:
        twin = Desk.__new__(Desk)
        twin.__dict__.update(self.__dict__)
        twin.markets, twin.positions = dict(self.markets), dict(self.positions)
        return twin

    def log(self, contract: str, event: str, variant: int = 0, **args: Any) -> Emission:
        return self.abis.make(self.rng, contract, event, {"blockTimestamp": self.now} | args, variant)

    def position(self, market: int, account: int) -> Position:
        return self.positions.get((market, account), Position())

    def open_interest(self, market: int) -> int:
        live = [p.live(self.markets[market]) for (m, _), p in self.positions.items() if m == market]
        return sum(base for base in live if base > 0)

    # -- what happens

    def setup(self) -> Flow:
        configured = self.log(
            "core", "BackstopLPConfigurationUpdated", collateralPoolId=1, newConfig={"accountId": self.backstop}
        )
        markets = [
            self.log("core", "MarketRegistered", marketId=m, quoteCollateral=self.rusd, name=f"M{m}-rUSD")
            for m in self.markets
        ]
        made = self.log("passive_pool", "PoolCreated", poolId=1, quoteToken=self.rusd, accountId=self.pool)
        return [
            configured,
            made,
            *markets,
            *(log for account in (self.pool, *self.accounts) for log in self.own(account)),
        ]

    def own(self, account: int) -> Flow:
        """The account has another owner from now on; told twice, as the contracts do."""
        owner = "0x" + self.rng.randbytes(20).hex()
        return [self.log("core", "AccountOwnerUpdated", accountId=account, newOwner=owner)] * 2

    def move(self, market: int, percent: int, funding: int) -> None:
        """The price moves, and longs pay shorts `funding` (1e18) a unit."""
        m = self.markets[market]
        price = max(E18, m.price * (100 + percent) // 100 + self.rng.randrange(1000))
        long = replace(m.long, funding=m.long.funding + funding)
        short = replace(m.short, funding=m.short.funding + funding)
        self.markets[market] = replace(m, price=price, time=self.now, long=long, short=short)

    def fill(self, market: int, account: int, other: int, size: int, price: int | None = None) -> Fill:
        m = self.markets[market]
        price = m.price + self.rng.randrange(-E18, E18) if price is None else price
        before = self.position(market, account).updated(m)
        after = before.executed(m, size, price)
        self.positions[market, account] = after
        other_before = other_after = Position()
        if other != NOBODY:
            other_before = self.position(market, other).updated(m)
            other_after = self.positions[market, other] = other_before.executed(m, -size, price)
        return Fill(market, account, other, size, price, before, after, other_before, other_after)

    def deleverage(self, market: int, account: int) -> Fill | None:
        """The account is closed, or in part, against everybody on the other side, whose multiplier falls."""
        m = self.markets[market]
        live = {a: p.live(m) for (k, a), p in self.positions.items() if k == market}
        held = live.get(account, 0)
        against = sum(abs(base) for base in live.values() if base * held < 0)
        size = min(abs(held), against // 2)
        if size == 0:
            return None
        fill = self.fill(market, account, NOBODY, -size if held > 0 else size)
        side = m.side(-held)
        fallen = replace(side, multiplier=side.multiplier * (against - size) // against, unwind=fill.price)
        self.markets[market] = replace(m, short=fallen) if held > 0 else replace(m, long=fallen)
        return fill

    # -- how it is told

    def market_data(self, market: int, variant: int = 0) -> Emission:
        """As things are now. Variant 1 is the order book's."""
        m, old = self.markets[market], "_DEPRECATED" if variant else ""
        data: dict[str, Any] = {
            "id": market, "quoteToken": self.rusd, f"poolAccountId{old}": self.pool,
            "longTrackers": _trackers(m.long), "shortTrackers": _trackers(m.short),
            "openInterest": self.open_interest(market), f"lastMTM{old}": {"price": m.price, "timestamp": m.time},
        }  # fmt: skip
        return self.log("passive_perp", "MarketDataUpdated", variant, marketData=data)

    def _fees(self) -> dict[str, Any]:
        return {"makerPayments": [self.rng.randrange(10**6)], "referrerFeeCredit": self.rng.choice((0, 77))}

    def stated(self, market: int, account: int, *positions: Position) -> Flow:
        return [
            self.log("passive_perp", "PositionDataUpdated", marketId=market, accountId=account, positionData=p.struct())
            for p in positions
        ]

    def stated_sides(self, fill: Fill) -> Flow:
        """The account's position before and after, then the other's."""
        return [
            *self.stated(fill.market, fill.account, fill.before, fill.after),
            *(self.stated(fill.market, fill.other, fill.other_before, fill.other_after) if fill.other else []),
        ]

    def around(self, fill: Fill) -> Flow:
        """The four statements that precede an AMM order, the market and the pool's price."""
        return [
            *self.stated_sides(fill),
            self.market_data(fill.market),
            self.log("passive_perp", "PoolPSlippageUpdated", marketId=fill.market),
        ]

    def match(self, fill: Fill, variant: int = 0) -> Emission:
        return self.log(
            "passive_perp", "PassivePerpMatchOrder", variant, marketId=fill.market, accountId=fill.account,
            orderBase=fill.size, matchOrderFees=self._fees(), executedOrderPrice=fill.price,
            referrerAccountId=self.rng.choice((0, self.accounts[0])),
        )  # fmt: skip

    def update(self, fill: Fill, kind: int | None = None) -> Emission:
        """The order told in full; `kind` of a liquidation, None for an order."""
        return self.log(
            "passive_perp", "PassivePerpOrderAndPositionUpdate", marketId=fill.market, accountId=fill.account,
            counterpartyAccountId=fill.other, executedBase=fill.size, matchOrderFees=self._fees(),
            executedPrice=fill.price, isMatchOrder=kind is None, liquidationType=kind or 0,
            positionData=fill.after.struct(), counterpartyPositionData=fill.other_after.struct(),
        )  # fmt: skip

    def execution(self, fill: Fill, kind: int, variant: int) -> Emission:
        self.sequence += 1
        payload = {
            "executedBase": fill.size, "price": fill.price, "executionType": kind,
            "accountPositionBefore": fill.before.struct(), "accountPositionAfter": fill.after.struct(),
            "counterpartyPositionBefore": fill.other_before.struct(),
            "counterpartyPositionAfter": fill.other_after.struct(),
        }  # fmt: skip
        return self.log(
            "passive_perp", "PassivePerpExecutionV3", variant, marketId=fill.market, accountId=fill.account,
            counterpartyAccountId=fill.other, eventSequenceNumber=self.sequence, payload=payload,
        )  # fmt: skip

    def bid(self, account: int) -> Emission:
        return self.log("core", "AccountExecutedLiquidationBid", accountId=account, success=True)
