"""One position as replayed, and what an execution does to it. Pure, and shares no code with the accounting it checks.

Units: base, prices, funding values, multipliers and PnL (1e18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from indexer.projections.events import Event, Row

E18 = 10**18
Stated = Mapping[str, Any]  # the contract's PerpPosition struct, decoded


@dataclass(slots=True)
class PositionReplay:
    """A position as replayed so far. `realized` to `multiplier` are None if the last event did not state them."""

    base: int = 0
    realized: int | None = None
    price: int | None = None
    funding: int | None = None
    multiplier: int | None = None
    session: int | None = None  # realized PnL of the rows since it opened; None: unknown
    opened: int | None = None  # the chain's realized PnL when it opened
    tolerance: int = 0
    unsure: bool = False  # one of its rows had a value that does not fit its column

    def apply_statement(self, stated: Stated) -> None:
        """Take over the chain's statement, which overrules what was replayed."""
        last, trackers = stated["lastPriceData"], stated["trackers"]
        self.base, self.realized, self.price = stated["base"], stated["realizedPnL"], last["price"]
        self.funding, self.multiplier = trackers["fundingValue"], trackers["baseMultiplier"]

    def apply_unstated(self, base: int, side: Row | None) -> None:
        """Move to `base` by an execution that states no position; `side`: the trackers, if the transaction has them."""
        self.base, self.realized, self.price = base, None, None
        self.funding = side["fundingValue"] if side else None
        self.multiplier = side["baseMultiplier"] if side else None


class Fill(NamedTuple):
    """One side of an execution. `pnl`: r_pnl of its row, None for the counterparty. `market`: market data around it."""

    size: int
    price: int
    pnl: int | None
    market: Row | None


def trunc_div(product: int, by: int) -> int:
    """Divide, truncating toward zero as the contracts do."""
    whole = abs(product) // abs(by)
    return whole if (product < 0) == (by < 0) else -whole


def live_base(position: PositionReplay, multiplier: int | None) -> int:
    """Return the base after deleveraging, which lowers a side's multiplier and every base on it in proportion."""
    if not position.multiplier or multiplier is None or multiplier >= position.multiplier:
        return position.base
    return trunc_div(position.base * multiplier, position.multiplier)


def deleverage(position: PositionReplay, fill: Fill, after: Stated | None) -> bool:
    """Deleverage a position that the chain did not update before this execution. Return whether its base changed."""
    side = _closing_side(position.base, fill, after)
    live = live_base(position, side["baseMultiplier"] if side else None)
    if live == position.base:
        return False
    if after is not None and abs(after["base"] - fill.size - live) <= abs(position.base) // E18 + 1:
        live = after["base"] - fill.size
    position.base, position.session, position.realized = live, None, None
    return True


def _closing_side(base: int, fill: Fill, after: Stated | None) -> Row | None:
    """Return the trackers, at the execution, of the side that a base is on."""
    side = side_of(fill.market, base)
    if side is None and after is not None and after["base"] * base > 0:
        trackers: Row = after["trackers"]
        return trackers
    return side


def realized_after(position: PositionReplay, fill: Fill, after: Stated, *, charged: bool) -> int | None:
    """Return the realized PnL that must follow from an execution; None if an input is not known.

    Args:
        position: the position before.
        fill: the execution.
        after: the position as the chain states it afterwards.
        charged: whether the chain just updated the position, so that no funding is due.
    """
    if position.realized is None or position.price is None:
        return None
    base_before, last = position.base, after["lastPriceData"]["price"]
    expected = position.realized + trunc_div(base_before * (last - position.price), E18)
    expected += trunc_div(fill.size * (last - fill.price), E18)
    if charged or base_before == 0:
        return expected
    side = _closing_side(base_before, fill, after)
    if side is None or position.funding is None or not side["baseMultiplier"]:
        return None
    return expected - trunc_div(base_before * (side["fundingValue"] - position.funding), side["baseMultiplier"])


def side_of(data: Row | None, base: int) -> Row | None:
    """Return the trackers of the side that the base is on; None if the transaction has none or the base is 0."""
    if data is None or base == 0:
        return None
    side: Row = data["longTrackers" if base > 0 else "shortTrackers"]
    return side


def execution_of(event: Event) -> tuple[int, int, tuple[Stated | None, ...]]:
    """Return signed size, price, and the positions stated: the account's before and after, then the counterparty's."""
    args = event.args
    if event.name == "PassivePerpMatchOrder":
        return args["orderBase"], args["executedOrderPrice"], (None,) * 4
    if event.name == "PassivePerpOrderAndPositionUpdate":
        stated = (None, args["positionData"], None, args["counterpartyPositionData"])
        return args["executedBase"], args["executedPrice"], stated
    payload = args["payload"]
    names = (f"{who}Position{when}" for who in ("account", "counterparty") for when in ("Before", "After"))
    return payload["executedBase"], payload["price"], tuple(payload[name] for name in names)


def stated_around(
    pending: Sequence[Event], stated: Sequence[Stated | None], size: int
) -> tuple[Stated | None, Stated | None]:  # fmt: skip
    """Return the stated positions before and after an execution, from the event or else from preceding statements.

    A single statement is the position after it, unless it differs from the event's by just the execution.
    """
    before, after = stated
    stated_before = [event.args["positionData"] for event in pending]
    if before is None and stated_before:
        joins = after is not None and size != 0 and stated_before[0]["base"] + size == after["base"]
        before = stated_before[0] if len(stated_before) > 1 or joins else None
    return before, stated_before[-1] if after is None and stated_before else after
