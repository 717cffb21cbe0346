"""Replay of positions from events, compared with the chain's own statements and with the rows.

Pure, and shares no code with the accounting that it checks. Every position is followed through the executions on either
side of it, auto-deleveraging, and the chain's statements. There are two results. A *drift* is a row that differs from
what the events give. A *contradiction* is a statement of the chain that does not follow from its earlier ones: an event
is missing, or has a meaning that this release does not know. The rows follow the chain then, but the PnL of that
session is not proven.

Units: base, prices, funding values, multipliers and PnL (1e18). Every division may round by one unit; `tolerance` adds
these up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from indexer.check.position_math import (
    E18,
    Fill,
    PositionReplay,
    Stated,
    deleverage,
    execution_of,
    live_base,
    realized_after,
    side_of,
    stated_around,
    trunc_div,
)
from indexer.projections.events import EXECUTIONS, Event, Row, Transaction, parties

MAX_REPORTED = 100  # contradictions
PositionKey = tuple[int, int]  # market, account


class Drift(NamedTuple):
    """A row that is not what it must be; `check` names the invariant or comparison that it violates."""

    check: str
    subject: str
    detail: str


@dataclass(slots=True)
class ReconcileCounts:
    """Counts of a replay. `compared`: realized PnL values stated by the chain; `sessions`: closed sessions compared."""

    compared: int = 0
    sessions: int = 0
    contradictions: int = 0
    markets: int = 0  # whose open interest is the sum of their positions


@dataclass(slots=True)
class Reconciliation:
    """A replay of all positions: `add` transactions in chain order, then `compare` the rows."""

    unfit: frozenset[str] = frozenset()  # ids of events with a value that does not fit its column
    positions: dict[PositionKey, PositionReplay] = field(default_factory=dict)
    markets: dict[int, Row] = field(default_factory=dict)
    counted: ReconcileCounts = field(default_factory=ReconcileCounts)
    contradictions: list[Drift] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    tainted: set[int] = field(default_factory=set)  # markets with a contradiction
    rounded: Counter[int] = field(default_factory=Counter)  # per market, what deleveraging may have rounded off

    def add(self, tx: Transaction, pnl: dict[int, int | None]) -> None:
        """Replay a transaction. Executions pop their `pnl` (r_pnl by unique_id); one without a row is a drift."""
        for event in tx.events:
            if event.name == "PositionDataUpdated":
                if event.log_index not in tx.statements.consumed:
                    position = self._position_of(event, event.args["accountId"])
                    self._catch_up(event, event.args["accountId"], position, event.args["positionData"])
            elif event.name == "MarketDataUpdated":
                self.markets[event.args["marketData"]["id"]] = event.args["marketData"]
            elif event.name in EXECUTIONS and event.log_index not in tx.superseded:
                if event.unique_id not in pnl and event.id not in self.unfit:
                    self.drifts.append(Drift("every execution has its row", event.id, "no row in order_history"))
                self._execution(tx, event, pnl.pop(event.unique_id, None))

    def rows_without_execution(self, pnl: Iterable[int]) -> None:
        """Report rows without an execution: the entries left in a `pnl` after all transactions of its blocks."""
        for unique_id in sorted(pnl):
            self.drifts.append(Drift("every execution has its row", str(unique_id), "no execution stands there"))

    # -- one position

    def _position_of(self, event: Event, account: int) -> PositionReplay:
        position = self.positions.setdefault((event.args["marketId"], account), PositionReplay())
        position.unsure |= event.id in self.unfit
        return position

    def _execution(self, tx: Transaction, event: Event, pnl: int | None) -> None:
        size, price, stated = execution_of(event)
        market = tx.market_data(event.args["marketId"], event.log_index)
        for n, account in enumerate(parties(event)):
            fill = Fill(size, price, pnl, market) if n == 0 else Fill(-size, price, None, market)
            pending = tx.statements.by_execution.get((event.log_index, account), ())
            before, after = stated_around(pending, stated[2 * n : 2 * n + 2], fill.size)
            position = self._position_of(event, account)
            position.unsure |= any(e.id in self.unfit for e in pending)
            if before is not None:
                self._catch_up(event, account, position, before)
            elif deleverage(position, fill, after):
                self.rounded[event.args["marketId"]] += abs(position.base) // E18 + 1
            self._execute(event, account, position, fill, after, charged=before is not None)
        if stated[3] is not None and event.args["counterpartyAccountId"] == event.args["accountId"]:
            self._position_of(event, event.args["accountId"]).apply_statement(stated[3])

    def _catch_up(self, event: Event, account: int, position: PositionReplay, stated: Stated) -> None:
        """Check an update by the chain: deleveraging shrinks the base, price and funding move the realized PnL."""
        trackers, live = stated["trackers"], self._base_left(event, position, stated)
        if abs(stated["base"] - live) > abs(position.base) // E18 + 1:
            self._contradict(event, account, position, f"base {stated['base']}, the executions leave {live}")
        elif stated["base"] != position.base:
            position.session = None  # No row has the part that was unwound.
            self.rounded[event.args["marketId"]] += abs(position.base) // E18 + 1
        elif position.realized is not None and position.price is not None and position.funding is not None:
            expected = position.realized + trunc_div(live * (stated["lastPriceData"]["price"] - position.price), E18)
            expected -= trunc_div(
                live * (trackers["fundingValue"] - position.funding), trackers["baseMultiplier"] or E18
            )
            self._expect(event, account, position, expected, stated["realizedPnL"], live)
        position.apply_statement(stated)

    def _base_left(self, event: Event, position: PositionReplay, stated: Stated) -> int:
        """Return the base that deleveraging left. A position that is flat now has the trackers of another side."""
        if stated["base"] * position.base > 0:
            return live_base(position, stated["trackers"]["baseMultiplier"])
        side = side_of(self.markets.get(event.args["marketId"]), position.base)
        return live_base(position, side["baseMultiplier"] if side else None)

    def _execute(
        self, event: Event, account: int, position: PositionReplay, fill: Fill, after: Stated | None, *, charged: bool
    ) -> None:  # fmt: skip
        """Apply a fill. `charged`: the position was just updated by the chain, so no funding is due."""
        base_before, base = position.base, position.base + fill.size
        closes = base_before != 0 and fill.size != 0 and (base_before > 0) != (fill.size > 0)
        if closes and position.session is not None:
            position.session = None if fill.pnl is None else position.session + fill.pnl
        if after is not None and after["base"] != base:
            self._contradict(event, account, position, f"base {after['base']} after {base_before} + {fill.size}")
        elif after is not None and (expected := realized_after(position, fill, after, charged=charged)) is not None:
            self._expect(event, account, position, expected, after["realizedPnL"], base)
        else:  # Nothing to compare, but the chain rounded here, too.
            position.tolerance += 2 * (abs(base) + abs(base_before)) // E18 + 8
        realized = after["realizedPnL"] if after is not None else None
        if closes and (base == 0 or (base > 0) != (base_before > 0)):
            self._close(event, account, position, realized)
        if base != 0 and (base_before == 0 or (base > 0) != (base_before > 0)):
            position.session, position.opened, position.tolerance = 0, realized, 0
        if after is not None:
            position.apply_statement(after)
        else:
            position.apply_unstated(base, side_of(fill.market, base))

    def _close(self, event: Event, account: int, position: PositionReplay, realized: int | None) -> None:
        """Check an ended session: the PnL that the chain realized in it must be the sum of its rows."""
        if position.session is None or position.opened is None or realized is None:
            return
        self.counted.sessions += 1
        chain = realized - position.opened
        if abs(chain - position.session) > position.tolerance:
            detail = f"r_pnl adds up to {position.session}, the chain realised {chain}, until {event.id}"
            self.drifts.append(Drift("realized PnL of closed sessions", _subject(event, account), detail))

    def _expect(
        self, event: Event, account: int, position: PositionReplay, expected: int, stated: int, base: int
    ) -> None:
        rounding = (abs(base) + abs(position.base)) // E18 + 4
        position.tolerance += 2 * rounding
        self.counted.compared += 1
        if abs(expected - stated) > rounding:
            self._contradict(event, account, position, f"realized PnL {stated}, should be {expected}")

    def _contradict(self, event: Event, account: int, position: PositionReplay, detail: str) -> None:
        position.session = None
        self.tainted.add(event.args["marketId"])
        self._report(_subject(event, account), f"{detail}, in {event.id}")

    def _report(self, subject: str, detail: str) -> None:
        self.counted.contradictions += 1
        if len(self.contradictions) < MAX_REPORTED:
            self.contradictions.append(Drift("the chain's own statements", subject, detail))

    # -- the rows

    def compare(self, rows: Iterable[Mapping[str, Any]]) -> list[Drift]:
        """Return drifts of `positions`: base from executions and statements, realized PnL from the last statement."""
        drifts, unseen = [], set(self.positions)
        for row in rows:
            key = row["market_id"], row["account_id"]
            unseen.discard(key)
            subject, position = f"{key[0]} {key[1]}", self.positions.get(key)
            if position is None:
                drifts.append(Drift("positions are their executions", subject, "no event tells of it"))
            elif not position.unsure and row["base"] != position.base:
                detail = f"base {row['base']}, the executions and statements give {position.base}"
                drifts.append(Drift("positions are their executions", subject, detail))
            elif not position.unsure and row["realized_pnl"] != position.realized:
                detail = f"realized_pnl {row['realized_pnl']}, the chain stated {position.realized}"
                drifts.append(Drift("positions are their executions", subject, detail))
        missing = sorted(key for key in unseen if not self.positions[key].unsure)
        return drifts + [Drift("positions are their executions", f"{m} {a}", "no row") for m, a in missing]

    def open_interest(self, rows: Iterable[Mapping[str, Any]]) -> list[Drift]:
        """Return drifts of the stored longs and shorts from the open interest in each market's last MarketDataUpdated.

        Only markets without a contradiction are compared. If the chain's own positions do not add up to its open
        interest, that is a contradiction.
        """
        drifts = []
        replayed = _sums((m, p.base, p.multiplier) for (m, _), p in self.positions.items())
        stored = _sums((r["market_id"], r["base"], r["base_multiplier"]) for r in rows)
        for market, data in self.markets.items():
            if market in self.tainted or market not in replayed:
                continue
            expected, (long, short, rounding) = data["openInterest"], replayed[market].live(data)
            rounding += self.rounded[market]
            if max(abs(long - expected), abs(short - expected)) > rounding:
                detail = f"open interest {expected}, the positions are {long} long and {short} short"
                self._report(f"market {market}", detail)
                continue
            self.counted.markets += 1
            long, short, _ = stored.get(market, _Sum()).live(data)
            if max(abs(long - expected), abs(short - expected)) > rounding:
                detail = f"positions are {long} long and {short} short, the chain says {expected} each"
                drifts.append(Drift("one-sided open interest", f"market {market}", detail))
        return drifts


@dataclass(slots=True)
class _Sum:
    """Bases of one market, long and short, by their multiplier."""

    bases: dict[tuple[bool, int | None], int] = field(default_factory=dict)
    count: int = 0

    def live(self, data: Row) -> tuple[int, int, int]:
        """Return longs and shorts scaled by the market's multipliers, and how far rounding may move them."""
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
            total = sums.setdefault(market, _Sum())
            key = base > 0, multiplier
            total.bases[key] = total.bases.get(key, 0) + abs(base)
            total.count += 1
        else:
            sums.setdefault(market, _Sum())
    return sums


def _subject(event: Event, account: int) -> str:
    return f"{event.args['marketId']} {account}"
