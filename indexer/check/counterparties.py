"""Counterparties of the order rows, compared with what the logs state. Pure, and shares no code with the projections.

Two generations of executions name their counterparty. A bare match order does not, but the position events before it
do, if the last four of them that belong to no earlier execution tell one trade: two of its account, two of another, in
its market, which move by the order's base and by its opposite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from indexer.check.position_replay import Drift
from indexer.projections.events import EXECUTIONS, Event, Transaction

CHECK = "counterparties are those that the logs state"


class _Statement(NamedTuple):
    """What a position event states. Base is (1e18)."""

    market: int
    account: int
    base: int


def counterparty_drifts(tx: Transaction, rows: Mapping[int, int | None]) -> list[Drift]:
    """Return the rows of `orders` that name another counterparty than the logs, or one that no log states.

    `rows`: counterparty_account_id by unique_id. An execution without a row is left to the replay of positions.
    """
    drifts = []
    for event, stated in _stated_counterparties(tx):
        found = rows.get(event.unique_id, stated)
        if found != stated and event.log_index not in tx.superseded:
            detail = f"counterparty_account_id {found}, the logs state {stated}"
            drifts.append(Drift(CHECK, event.id, detail))
    return drifts


def _stated_counterparties(tx: Transaction) -> Iterator[tuple[Event, int | None]]:
    """Yield each execution with the counterparty that the logs state, None where they state none."""
    free: list[_Statement] = []  # Position events that belong to no execution so far.
    for event in tx.events:
        args = event.args
        if event.name == "PositionDataUpdated":
            free.append(_Statement(args["marketId"], args["accountId"], args["positionData"]["base"]))
        elif event.name in EXECUTIONS:
            stated = args["counterpartyAccountId"] if "counterpartyAccountId" in args else _named(event, free)
            yield event, stated
            # A match order without a stated counterparty is taken to move the pool's position.
            sides = {(args["marketId"], args["accountId"]), (args["marketId"], stated or event.counterparty)}
            free = [s for s in free if (s.market, s.account) not in sides]


def _named(order: Event, free: Sequence[_Statement]) -> int | None:
    """Return the counterparty that position events name. None if several trades could be the order's."""
    trades = [n for n in range(len(free) - 3) if _is_trade(order, *free[n : n + 4])]
    return free[-1].account if trades == [len(free) - 4] else None


def _is_trade(order: Event, *four: _Statement) -> bool:
    """Return whether statements of two positions, each before and after, tell the trade of a match order."""
    market, taker, size = (order.args[name] for name in ("marketId", "accountId", "orderBase"))
    maker = four[3].account
    if size == 0 or maker in (0, taker):
        return False
    places = [(statement.market, statement.account) for statement in four]
    moved = [after.base - before.base for before, after in (four[:2], four[2:])]
    return places == [(market, taker)] * 2 + [(market, maker)] * 2 and moved == [size, -size]
