"""What the chain says of positions, against itself and against the rows. Pure, and no code of the accounting.

Every position is followed through the executions on either side of it, auto-deleveraging and the statements of the
chain. Two things come out. A *drift* is a row that is not what the events give. A *contradiction* is a statement of the
chain that does not follow from what it stated before: an event is missing, or has a meaning that this release does not
know; the rows follow the chain, but PnL of that session is not proven.

base, prices, funding values, multipliers and PnL 1e18. Every division may round by one unit; `slack` adds these up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from indexer.projections.events import EXECUTIONS, Event, Row, Transaction, parties

E18 = 10**18
MAX_REPORTED = 100  # contradictions told
Place = tuple[int, int]  # market, account
Stated = Mapping[str, Any]


class Drift(NamedTuple):
    """What is not as it must be; `check` says by which identity or comparison."""

    check: str
    subject: str
    detail: str


@dataclass(slots=True)
class PositionReplay:
    """A position. `realized` to `multiplier` are None where the last event told none. `session`: realised PnL of our
    rows since it opened, None when it is not known; `opened`: the chain's when it opened."""

    base: int = 0
    realized: int | None = None
    price: int | None = None
    funding: int | None = None
    multiplier: int | None = None
    session: int | None = None
    opened: int | None = None
    tolerance: int = 0
    unsure: bool = False  # a row about it fits no column

    def take(self, stated: Stated) -> None:
        """The chain's statement overrules."""
        last, trackers = stated["lastPriceData"], stated["trackers"]
        self.base, self.realized, self.price = stated["base"], stated["realizedPnL"], last["price"]
        self.funding, self.multiplier = trackers["fundingValue"], trackers["baseMultiplier"]

    def leave_to(self, base: int, side: Row | None) -> None:
        """After an execution that states nothing: its side's trackers are known where the transaction tells them."""
        self.base, self.realized, self.price = base, None, None
        self.funding = side["fundingValue"] if side else None
        self.multiplier = side["baseMultiplier"] if side else None


class Fill(NamedTuple):
    """One side of an execution. `pnl`: r_pnl of its row, None for the counterparty. `market`: its data around it."""

    size: int
    price: int
    pnl: int | None
    market: Row | None


@dataclass(slots=True)
class ReconcileCounts:
    """`compared`: statements of the chain that followed from the ones before; `sessions`: closed ones whose PnL was."""

    compared: int = 0
    sessions: int = 0
    contradictions: int = 0
    markets: int = 0  # whose open interest is the sum of their positions


@dataclass(slots=True)
class Reconciliation:
    """Feed transactions in chain order with `add`, then ask `drifts` of the rows. `unfit`: ids of events of which a row
    was refused by its column."""

    unfit: frozenset[str] = frozenset()
    positions: dict[Place, PositionReplay] = field(default_factory=dict)
    markets: dict[int, Row] = field(default_factory=dict)
    counted: ReconcileCounts = field(default_factory=ReconcileCounts)
    contradictions: list[Drift] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    tainted: set[int] = field(default_factory=set)  # markets with a contradiction
    rounded: Counter[int] = field(default_factory=Counter)  # by market, what deleveraging may have rounded off

    def add(self, tx: Transaction, pnl: dict[int, int | None]) -> None:
        """`pnl`: r_pnl of order_history by unique_id; executions take theirs out. One without a row is a drift."""
        for event in tx.events:
            if event.name == "PositionDataUpdated":
                if event.log_index not in tx.statements.consumed:
                    position = self._of(event, event.args["accountId"])
                    self._catch_up(event, event.args["accountId"], position, event.args["positionData"])
            elif event.name == "MarketDataUpdated":
                self.markets[event.args["marketData"]["id"]] = event.args["marketData"]
            elif event.name in EXECUTIONS and event.log_index not in tx.superseded:
                if event.unique_id not in pnl and event.id not in self.unfit:
                    self.drifts.append(Drift("every execution has its row", event.id, "no row in order_history"))
                self._execution(tx, event, pnl.pop(event.unique_id, None))

    def rows_without_execution(self, pnl: Iterable[int]) -> None:
        """What is left of a `pnl` after the transactions of its blocks."""
        for unique_id in sorted(pnl):
            self.drifts.append(Drift("every execution has its row", str(unique_id), "no execution stands there"))

    # -- one position

    def _of(self, event: Event, account: int) -> PositionReplay:
        position = self.positions.setdefault((event.args["marketId"], account), PositionReplay())
        position.unsure |= event.id in self.unfit
        return position

    def _execution(self, tx: Transaction, event: Event, pnl: int | None) -> None:
        size, price, told = _execution(event)
        market = tx.market_data(event.args["marketId"], event.log_index)
        for n, account in enumerate(parties(event)):
            fill = Fill(size, price, pnl, market) if n == 0 else Fill(-size, price, None, market)
            pending = tx.statements.by_execution.get((event.log_index, account), [])
            before, after = _around(pending, told[2 * n : 2 * n + 2], fill.size)
            position = self._of(event, account)
            if before is not None:
                self._catch_up(event, account, position, before)
            elif _deleverage(position, fill, after):
                self.rounded[event.args["marketId"]] += abs(position.base) // E18 + 1
            self._execute(event, account, position, fill, after, charged=before is not None)
        if told[3] is not None and event.args["counterpartyAccountId"] == event.args["accountId"]:
            self._of(event, event.args["accountId"]).take(told[3])

    def _catch_up(self, event: Event, account: int, position: PositionReplay, stated: Stated) -> None:
        """The chain brings a position up to date: the base is what deleveraging left; realised PnL moves with price and
        funding. With b = 0 both are nothing."""
        trackers, live = stated["trackers"], self._left(event, position, stated)
        if abs(stated["base"] - live) > abs(position.base) // E18 + 1:
            self._contradict(event, account, position, f"base {stated['base']}, the executions leave {live}")
        elif stated["base"] != position.base:
            position.session = None  # the part that was unwound is in no row
            self.rounded[event.args["marketId"]] += abs(position.base) // E18 + 1
        elif position.realized is not None and position.price is not None and position.funding is not None:
            meant = position.realized + trunc_div(live * (stated["lastPriceData"]["price"] - position.price), E18)
            meant -= trunc_div(live * (trackers["fundingValue"] - position.funding), trackers["baseMultiplier"] or E18)
            self._expect(event, account, position, meant, stated["realizedPnL"], live)
        position.take(stated)

    def _left(self, event: Event, position: PositionReplay, stated: Stated) -> int:
        """The base that deleveraging left. A position that is flat now carries the trackers of another side."""
        if stated["base"] * position.base > 0:
            return _live(position, stated["trackers"]["baseMultiplier"])
        side = _side(self.markets.get(event.args["marketId"]), position.base)
        return _live(position, side["baseMultiplier"] if side else None)

    def _execute(
        self, event: Event, account: int, position: PositionReplay, fill: Fill, after: Stated | None, *, charged: bool
    ) -> None:  # fmt: skip
        """`charged`: the position was brought up to date before, so that no funding is due."""
        held, base = position.base, position.base + fill.size
        closes = held != 0 and fill.size != 0 and (held > 0) != (fill.size > 0)
        if closes and position.session is not None:
            position.session = None if fill.pnl is None else position.session + fill.pnl
        if after is not None and after["base"] != base:
            self._contradict(event, account, position, f"base {after['base']} after {held} + {fill.size}")
        elif after is not None:
            meant = _realized(position, fill, after, charged)
            if meant is not None:
                self._expect(event, account, position, meant, after["realizedPnL"], base)
        realized = after["realizedPnL"] if after is not None else None
        if closes and (base == 0 or (base > 0) != (held > 0)):
            self._close(event, account, position, realized)
        if base != 0 and (held == 0 or (base > 0) != (held > 0)):
            position.session, position.opened, position.tolerance = 0, realized, 0
        if after is not None:
            position.take(after)
        else:
            position.leave_to(base, _side(fill.market, base))

    def _close(self, event: Event, account: int, position: PositionReplay, realized: int | None) -> None:
        """A session ended: what the chain realised in it is the sum of its rows."""
        if position.session is None or position.opened is None or realized is None:
            return
        self.counted.sessions += 1
        chain = realized - position.opened
        if abs(chain - position.session) > position.tolerance:
            detail = f"r_pnl adds up to {position.session}, the chain realised {chain}, until {event.id}"
            self.drifts.append(Drift("realized PnL of closed sessions", _subject(event, account), detail))

    def _expect(self, event: Event, account: int, position: PositionReplay, meant: int, stated: int, base: int) -> None:
        room = (abs(base) + abs(position.base)) // E18 + 4
        position.tolerance += 2 * room
        self.counted.compared += 1
        if abs(meant - stated) > room:
            self._contradict(event, account, position, f"realized PnL {stated}, should be {meant}")

    def _contradict(self, event: Event, account: int, position: PositionReplay, detail: str) -> None:
        position.session = None
        self.tainted.add(event.args["marketId"])
        self._tell(_subject(event, account), f"{detail}, in {event.id}")

    def _tell(self, subject: str, detail: str) -> None:
        self.counted.contradictions += 1
        if len(self.contradictions) < MAX_REPORTED:
            self.contradictions.append(Drift("the chain's own statements", subject, detail))

    # -- the rows

    def compare(self, rows: Iterable[Mapping[str, Any]]) -> list[Drift]:
        """Drifts of `positions`: base against executions and statements, realised PnL against the last statement."""
        found, unseen = [], set(self.positions)
        for row in rows:
            place = row["market_id"], row["account_id"]
            unseen.discard(place)
            subject, position = f"{place[0]} {place[1]}", self.positions.get(place)
            if position is None:
                found.append(Drift("positions are their executions", subject, "no event tells of it"))
            elif not position.unsure and row["base"] != position.base:
                detail = f"base {row['base']}, the executions and statements give {position.base}"
                found.append(Drift("positions are their executions", subject, detail))
            elif not position.unsure and row["realized_pnl"] != position.realized:
                detail = f"realized_pnl {row['realized_pnl']}, the chain stated {position.realized}"
                found.append(Drift("positions are their executions", subject, detail))
        missing = sorted(place for place in unseen if not self.positions[place].unsure)
        return found + [Drift("positions are their executions", f"{m} {a}", "no row") for m, a in missing]

    def open_interest(self, rows: Iterable[Mapping[str, Any]]) -> list[Drift]:
        """Drifts of longs, and of shorts, against the open interest of each market's last MarketDataUpdated, for the
        markets whose own statements agree. Where the chain's positions do not add up to it, that is a contradiction."""
        found = []
        followed = _sums((m, p.base, p.multiplier) for (m, _), p in self.positions.items())
        stored = _sums((r["market_id"], r["base"], r["base_multiplier"]) for r in rows)
        for market, data in self.markets.items():
            if market in self.tainted or market not in followed:
                continue
            meant, (long, short, room) = data["openInterest"], followed[market].live(data)
            room += self.rounded[market]
            if max(abs(long - meant), abs(short - meant)) > room:
                told = f"open interest {meant}, the positions are {long} long and {short} short"
                self._tell(f"market {market}", told)
                continue
            self.counted.markets += 1
            long, short, _ = stored.get(market, _Sum()).live(data)
            if max(abs(long - meant), abs(short - meant)) > room:
                detail = f"positions are {long} long and {short} short, the chain says {meant} each"
                found.append(Drift("one-sided open interest", f"market {market}", detail))
        return found


@dataclass(slots=True)
class _Sum:
    """Bases of one market by their multiplier, long and short."""

    bases: dict[tuple[bool, int | None], int] = field(default_factory=dict)
    count: int = 0

    def live(self, data: Row) -> tuple[int, int, int]:
        """Both sides as the market's multipliers leave them, and how far rounding may move them."""
        totals = {True: 0, False: 0}
        for (long, multiplier), base in self.bases.items():
            now = data["longTrackers" if long else "shortTrackers"]["baseMultiplier"]
            scaled = base * now // multiplier if multiplier and now < multiplier else base
            totals[long] += scaled
        return totals[True], totals[False], sum(totals.values()) // E18 + 2 * self.count + 2


def _sums(positions: Iterable[tuple[int, int, int | None]]) -> dict[int, _Sum]:
    sums: dict[int, _Sum] = {}
    for market, base, multiplier in positions:
        if base:
            one = sums.setdefault(market, _Sum())
            key = base > 0, multiplier
            one.bases[key] = one.bases.get(key, 0) + abs(base)
            one.count += 1
        else:
            sums.setdefault(market, _Sum())
    return sums


def trunc_div(product: int, by: int) -> int:
    """Towards zero, as the contracts divide."""
    whole = abs(product) // abs(by)
    return whole if (product < 0) == (by < 0) else -whole


def _live(position: PositionReplay, multiplier: int | None) -> int:
    """Deleveraging makes a side's multiplier fall, and every base on it with it."""
    if not position.multiplier or multiplier is None or multiplier >= position.multiplier:
        return position.base
    return trunc_div(position.base * multiplier, position.multiplier)


def _deleverage(position: PositionReplay, fill: Fill, after: Stated | None) -> bool:
    """What deleveraging left of a position that nothing brought up to date before its execution. Whether it did."""
    side = _closing_side(position.base, fill, after)
    live = _live(position, side["baseMultiplier"] if side else None)
    if live == position.base:
        return False
    if after is not None and abs(after["base"] - fill.size - live) <= abs(position.base) // E18 + 1:
        live = after["base"] - fill.size
    position.base, position.session, position.realized = live, None, None
    return True


def _closing_side(base: int, fill: Fill, after: Stated | None) -> Row | None:
    """The trackers of the side that a base is on, at the execution."""
    side = _side(fill.market, base)
    if side is None and after is not None and after["base"] * base > 0:
        trackers: Row = after["trackers"]
        return trackers
    return side


def _realized(position: PositionReplay, fill: Fill, after: Stated, charged: bool) -> int | None:
    """What the chain's realised PnL must be after an execution; None where something before it is not known."""
    if position.realized is None or position.price is None:
        return None
    held, last = position.base, after["lastPriceData"]["price"]
    meant = position.realized + trunc_div(held * (last - position.price), E18)
    meant += trunc_div(fill.size * (last - fill.price), E18)
    if charged or held == 0:
        return meant
    side = _closing_side(held, fill, after)
    if side is None or position.funding is None or not side["baseMultiplier"]:
        return None
    return meant - trunc_div(held * (side["fundingValue"] - position.funding), side["baseMultiplier"])


def _subject(event: Event, account: int) -> str:
    return f"{event.args['marketId']} {account}"


def _side(data: Row | None, base: int) -> Row | None:
    """The trackers of the side that the base is on; None where the transaction tells none, or it is flat."""
    if data is None or base == 0:
        return None
    side: Row = data["longTrackers" if base > 0 else "shortTrackers"]
    return side


def _execution(event: Event) -> tuple[int, int, tuple[Stated | None, ...]]:
    """Signed size, price, and what the event states: the account's position before and after, the counterparty's."""
    args = event.args
    if event.name == "PassivePerpMatchOrder":
        return args["orderBase"], args["executedOrderPrice"], (None,) * 4
    if event.name == "PassivePerpOrderAndPositionUpdate":
        told = (None, args["positionData"], None, args["counterpartyPositionData"])
        return args["executedBase"], args["executedPrice"], told
    payload = args["payload"]
    names = (f"{who}Position{when}" for who in ("account", "counterparty") for when in ("Before", "After"))
    return payload["executedBase"], payload["price"], tuple(payload[name] for name in names)


def _around(
    pending: Sequence[Stated], told: Sequence[Stated | None], size: int
) -> tuple[Stated | None, Stated | None]:  # fmt: skip
    """The position up to date and after the execution: from the event, else from the statements that precede it. One
    statement alone is that after it, unless it and the event's differ by the execution."""
    before, after = told
    if before is None and pending:
        joins = after is not None and size != 0 and pending[0]["base"] + size == after["base"]
        if len(pending) > 1 or joins:
            before = pending[0]
    if after is None and pending:
        after = pending[-1]
    return before, after
