"""The accounting of one position: what an execution realises, what remains at which entry price. Pure, exact integers.

base, prices, funding values, multipliers and PnL 1e18. A position's average entry price and average entry funding value
are not on the chain: they follow from its executions. What is not known is None, and stays so until the position is
flat or opened anew: an average over a guess would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

E18 = 10**18

Stated = Mapping[str, Any]  # the contract's PerpPosition struct, decoded


def tdiv(a: int, b: int) -> int:
    """a / b towards zero, as Solidity divides."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


@dataclass(slots=True)
class Position:
    """`price` and `funding`: averages at entry. `snapshot`: realized PnL when the session opened. `session`: counts
    openings. `stated`: the fields that only an event of the chain gives; None after an execution that told none."""

    base: int = 0
    price: int | None = None
    funding: int | None = None
    session: int = 0
    snapshot: int | None = None
    stated: tuple[int | None, ...] = (None,) * 6  # realized PnL, last price and its time, funding, multiplier, unwind

    @property
    def multiplier(self) -> int | None:
        return self.stated[4]

    def forget(self) -> None:
        self.price = self.funding = self.snapshot = None


@dataclass(frozen=True, slots=True)
class Tracker:
    """Funding value and base multiplier of one side of a market; None where no event of the transaction tells it."""

    funding: int | None = None
    multiplier: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one execution gives: PnL columns (None where nothing is realised or an input is not known), the average
    entry price and the session after it. `proven`: nothing that should be known is unknown."""

    price_variation: int | None
    funding: int | None
    average_entry_price: int | None
    session: int
    proven: bool

    @property
    def realized(self) -> int | None:
        return None if self.price_variation is None or self.funding is None else self.price_variation + self.funding


def stated_fields(x: Stated) -> tuple[int | None, ...]:
    last, trackers = x["lastPriceData"], x["trackers"]
    return (
        x["realizedPnL"], last["price"], last["timestamp"],
        trackers["fundingValue"], trackers["baseMultiplier"], trackers["adlUnwindPrice"],
    )  # fmt: skip


def align(position: Position | None, x: Stated) -> Position:
    """The position as the chain states it. What we know of its entry is kept where both agree, or where it was
    auto-deleveraged (the multiplier moved and the base shrank); else it is forgotten: executions are missing."""
    base, fields = x["base"], stated_fields(x)
    if position is None:
        return Position(base, session=1 if base else 0, stated=fields)
    before = position.base
    same_side = base != 0 != before and (base > 0) == (before > 0)
    deleveraged = same_side and abs(base) < abs(before) and position.multiplier not in (None, fields[4])
    if base != before and not deleveraged:
        position.forget()
        if base and not same_side:
            position.session += 1
    position.base, position.stated = base, fields
    return position


def execute(
    position: Position | None, size: int, price: int, before: Stated | None, after: Stated | None,
    closing: Tracker, opening: Tracker,
) -> tuple[Position, Outcome]:  # fmt: skip
    """An execution of signed `size` at `price` on one side of it.

    `before`, `after`: the position as the chain states it, brought up to date and after the execution. `closing`,
    `opening`: the market's trackers for the side the position is on and for the one it will be on, used where no
    position is stated.
    """
    if before is not None:
        position = align(position, before)
        closing = Tracker(position.stated[3], position.stated[4])
    elif position is None:
        position = Position()
    if after is not None:
        opening = Tracker(after["trackers"]["fundingValue"])
    held, realises = position.base, False
    variation = funding = None
    opened = after["realizedPnL"] if after is not None else None
    if size and (held == 0 or (held > 0) == (size > 0)):
        _extend(position, held, size, price, opening.funding, opened)
    elif size:
        realises = True
        variation, funding = _realised(position, min(abs(size), abs(held)), price, closing)
        if abs(size) >= abs(held):
            position.forget()
        if abs(size) > abs(held):
            _open(position, price, opening.funding, opened)
    position.base = held + size
    position.stated = (None,) * 6
    if after is not None:
        if after["base"] != position.base:
            variation = funding = None
            position.forget()
            if _sign(after["base"]) != _sign(position.base):
                position.session += 1
            position.base = after["base"]
        position.stated = stated_fields(after)
    known = position.base == 0 or position.price is not None
    proven = not size or (known and (not realises or (variation is not None and funding is not None)))
    return position, Outcome(variation, funding, position.price, position.session, proven)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _open(position: Position, price: int, funding: int | None, realized: int | None) -> None:
    position.price, position.funding, position.snapshot = price, funding, realized
    position.session += 1


def _extend(
    position: Position, held: int, size: int, price: int, funding: int | None, realized: int | None
) -> None:  # fmt: skip
    if held == 0:
        _open(position, price, funding, realized)
        return
    position.price = _average(position.price, held, price, size)
    position.funding = _average(position.funding, held, funding, size)


def _average(held: int | None, weight: int, added: int | None, size: int) -> int | None:
    if held is None or added is None:
        return None
    return (abs(weight) * held + abs(size) * added) // (abs(weight) + abs(size))


def _realised(position: Position, size: int, price: int, closing: Tracker) -> tuple[int | None, int | None]:
    """Price variation and funding PnL of closing `size` units."""
    signed = size if position.base > 0 else -size
    variation = None if position.price is None else tdiv(signed * (price - position.price), E18)
    if position.funding is None or closing.funding is None or not closing.multiplier:
        return variation, None
    return variation, tdiv(-signed * (closing.funding - position.funding), closing.multiplier)
