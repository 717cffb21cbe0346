"""Accounting of one position: what an execution realizes, what remains at which entry price. Pure, exact integers.

Base, prices, funding values, multipliers and PnL are (1e18). A position's average entry price and average entry funding
value are not on the chain: they follow from its executions. An unknown value is None, and stays None until the position
is flat or opened anew: an average over a guess would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

E18 = 10**18

Stated = Mapping[str, Any]  # the contract's PerpPosition struct, decoded


class StatedPosition(NamedTuple):
    """The fields of a position that only an event of the chain gives. Each is None where no event gave it."""

    realized_pnl: int | None = None
    last_price: int | None = None
    last_price_timestamp: int | None = None
    funding: int | None = None
    multiplier: int | None = None
    unwind: int | None = None


UNSTATED = StatedPosition()


def trunc_div(a: int, b: int) -> int:
    """Return a / b rounded toward zero, as Solidity divides."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


@dataclass(slots=True)
class Position:
    """A position as far as its events are known.

    `price` and `funding`: averages at entry. `session`: counts openings. `snapshot`: realized PnL when the session
    opened. `stated`: the fields that only an event of the chain gives. After an execution that states none they are
    None, except for the trackers: the contract sets them to the market side's, which its transaction may give.
    """

    base: int = 0
    price: int | None = None
    funding: int | None = None
    session: int = 0
    snapshot: int | None = None
    stated: StatedPosition = UNSTATED

    @property
    def multiplier(self) -> int | None:
        return self.stated.multiplier

    def open(self, price: int, funding: int | None, realized: int | None) -> None:
        """Begin a session."""
        self.price, self.funding, self.snapshot = price, funding, realized
        self.session += 1

    def close(self) -> None:
        """Make it flat: no averages. The snapshot stays, because the session's realized PnL is read against it."""
        self.price = self.funding = None

    def discard_entry(self) -> None:
        """Forget what was known of the session."""
        self.price = self.funding = self.snapshot = None


class Tracker(NamedTuple):
    """Funding value, base multiplier and unwind price of auto-deleveraging of one side of a market.

    None where no event of the transaction gives them.
    """

    funding: int | None = None
    multiplier: int | None = None
    unwind: int | None = None


class Trackers(NamedTuple):
    """Both sides of a market, as the transaction of the execution gives them."""

    long: Tracker = Tracker()
    short: Tracker = Tracker()

    def side(self, base: int) -> Tracker:
        """Return the side that a position of this base is on."""
        return self.long if base > 0 else self.short


NO_TRACKER, NO_TRACKERS = Tracker(), Trackers()


class TradeResult(NamedTuple):
    """The result of one execution: PnL columns, and the average entry price and the session after it.

    PnL is None where nothing is realized or an input is not known. `proven`: nothing that should be known is unknown.
    """

    price_variation: int | None
    funding: int | None
    average_entry_price: int | None
    session: int
    proven: bool

    @property
    def realized(self) -> int | None:
        return None if self.price_variation is None or self.funding is None else self.price_variation + self.funding


def stated_fields(statement: Stated) -> StatedPosition:
    """Return the fields of a statement that `Position.stated` holds."""
    last, trackers = statement["lastPriceData"], statement["trackers"]
    return StatedPosition(
        statement["realizedPnL"], last["price"], last["timestamp"],
        trackers["fundingValue"], trackers["baseMultiplier"], trackers["adlUnwindPrice"],
    )  # fmt: skip


def apply_statement(position: Position | None, statement: Stated) -> Position:
    """Return the position as the chain states it.

    What is known of its entry is kept where both agree, or where the position was auto-deleveraged to this very base.
    Otherwise it is forgotten: executions are missing.
    """
    base, fields = statement["base"], stated_fields(statement)
    if position is None:
        return Position(base, session=1 if base else 0, stated=fields)
    live = _live(position, fields.multiplier)
    same_side = _sign(base) == _sign(position.base)
    if live != position.base and abs(base - live) <= _slack(position) and (same_side or base == 0):
        if base == 0:
            position.close()  # Deleveraged to nothing: the session ended, and nothing of it is missing.
    elif base != position.base:
        position.discard_entry()
        if base and not same_side:
            position.session += 1
    position.base, position.stated = base, fields
    return position


def apply_execution(
    position: Position | None, size: int, price: int, before: Stated | None, after: Stated | None, market: Trackers
) -> tuple[Position, TradeResult]:  # fmt: skip
    """Apply an execution to the position on one side of it.

    Args:
        position: the position before; None when it was never seen.
        size: signed base of the execution (1e18).
        price: its price (1e18).
        before: the position as the chain states it, brought up to date, before the execution.
        after: the position as the chain states it after the execution.
        market: the trackers that the transaction gives, used where no position is stated.

    Returns:
        The position after the execution, which may be the given one, changed; and the result of the execution.
    """
    if before is None and after is None and market is NO_TRACKERS:
        return _execute_unstated(position or Position(), size, price)
    if before is not None:
        position = apply_statement(position, before)
        closing = Tracker(position.stated.funding, position.stated.multiplier)
    else:
        position = position or _first_seen(size, after)
        closing = _closing(position, after, market)
        if closing.multiplier is not None:
            _deleverage(position, size, after, closing.multiplier)
    held = position.base
    opening = after["trackers"]["fundingValue"] if after is not None else market.side(held + size).funding
    variation, funding, realizes = _fill(position, size, price, closing, opening, after)
    contradicted = after is not None and after["base"] != position.base
    if contradicted:
        variation = funding = None
    position = _after(position, after, market)
    known = position.base == 0 or position.price is not None
    complete = known and not contradicted and (not realizes or (variation is not None and funding is not None))
    return position, TradeResult(variation, funding, position.price, position.session, not size or complete)


def _execute_unstated(position: Position, size: int, price: int) -> tuple[Position, TradeResult]:
    """Apply an execution whose transaction states nothing else, as with most match orders.

    Realized PnL then lacks the funding, so it is not complete.
    """
    variation, funding, realizes = _fill(position, size, price, NO_TRACKER, None, None)
    position.stated = UNSTATED
    complete = not realizes and (position.base == 0 or position.price is not None)
    return position, TradeResult(variation, funding, position.price, position.session, not size or complete)


def _first_seen(size: int, after: Stated | None) -> Position:
    """Return a position as it was before its first known execution: flat, unless the chain states it afterwards.

    A statement shows what it held before, at a price that nobody knows.
    """
    held = after["base"] - size if after is not None else 0
    return Position(held, session=1 if held else 0)


def _fill(
    position: Position, size: int, price: int, closing: Tracker, opening: int | None, after: Stated | None
) -> tuple[int | None, int | None, bool]:  # fmt: skip
    """Change the position by the execution. Return price variation, funding PnL, and whether it realizes any."""
    held, opened = position.base, after["realizedPnL"] if after is not None else None
    variation = funding = None
    realizes = size != 0 != held and (size > 0) != (held > 0)
    if realizes:
        variation, funding = _realized_pnl(position, min(abs(size), abs(held)), price, closing)
        if abs(size) >= abs(held):
            position.close()
        if abs(size) > abs(held):
            position.open(price, opening, opened)
    elif size and held == 0:
        position.open(price, opening, opened)
    elif size:
        position.price = _average(position.price, held, price, size)
        position.funding = _average(position.funding, held, opening, size)
    position.base = held + size
    return variation, funding, realizes


def _after(position: Position, after: Stated | None, market: Trackers) -> Position:
    """Overrule the computed position with what the chain states after the execution.

    Without a statement only the base is known, and the trackers of its side: without a multiplier the next
    auto-deleveraging would go unseen.
    """
    if after is None:
        if market is NO_TRACKERS or not position.base:
            position.stated = UNSTATED
        else:
            side = market.side(position.base)
            position.stated = StatedPosition(None, None, None, side.funding, side.multiplier, side.unwind)
        return position
    if after["base"] != position.base:
        position.discard_entry()
        if _sign(after["base"]) != _sign(position.base):
            position.session += 1
    position.base, position.stated = after["base"], stated_fields(after)
    return position


def _closing(position: Position, after: Stated | None, market: Trackers) -> Tracker:
    """Return the tracker of the side that the position is on.

    A position that stays on its side also carries it afterwards; one that was closed or flipped does not.
    """
    if market is NO_TRACKERS and after is None:
        return market.long
    tracker = market.side(position.base)
    if tracker.funding is None and after is not None and _sign(after["base"]) == _sign(position.base) != 0:
        return Tracker(after["trackers"]["fundingValue"], after["trackers"]["baseMultiplier"])
    return tracker


def _live(position: Position, multiplier: int | None) -> int:
    """Return the base that is left at this multiplier of the side. Multipliers only fall, by auto-deleveraging."""
    previous = position.multiplier
    if not previous or multiplier is None or multiplier >= previous:
        return position.base
    return trunc_div(position.base * multiplier, previous)


def _slack(position: Position) -> int:
    """Return how far rounding may move the chain's live base from ours: quotients of multipliers have 18 digits."""
    return abs(position.base) // E18 + 1


def _deleverage(position: Position, size: int, after: Stated | None, multiplier: int) -> None:
    """Set the live base of a position that no statement brought up to date. Entry averages stay as they are."""
    live, slack = _live(position, multiplier), _slack(position)
    if live == position.base:
        return
    if after is not None and abs(after["base"] - size - live) <= slack:
        live = after["base"] - size
    position.base = live
    if live == 0:
        position.close()


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _average(held: int | None, weight: int, added: int | None, size: int) -> int | None:
    if held is None or added is None:
        return None
    return (abs(weight) * held + abs(size) * added) // (abs(weight) + abs(size))


def _realized_pnl(position: Position, size: int, price: int, closing: Tracker) -> tuple[int | None, int | None]:
    """Return price variation and funding PnL of closing `size` units (1e18)."""
    signed = size if position.base > 0 else -size
    variation = None if position.price is None else trunc_div(signed * (price - position.price), E18)
    if position.funding is None or closing.funding is None or not closing.multiplier:
        return variation, None
    return variation, trunc_div(-signed * (closing.funding - position.funding), closing.multiplier)
