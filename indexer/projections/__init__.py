"""Events to rows: one module per table family, all pure. `state_keys` first, then `project`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType

from indexer.projections import (
    accounts,
    balances,
    markets,
    orders,
    positions,
    prices,
    settings,
    tokens,
    undecoded,
    upgrades,
)
from indexer.projections.base import Event, Ledger, StateKey, Transaction, transactions

_MODULES: tuple[ModuleType, ...] = (accounts, balances, markets, settings, tokens, orders, positions, prices, upgrades)
_FAMILIES: dict[str, list[ModuleType]] = {}
for _module in _MODULES:
    for _name in _module.EVENTS:
        _FAMILIES.setdefault(_name, []).append(_module)

# Read whole: a handful of rows that any liquidation may need.
WHOLE_TABLES = ("indexer.backstop_account",)


def _families(event: Event) -> list[ModuleType]:
    return [undecoded] if event.name is None else _FAMILIES.get(event.name, [])


def state_keys(events: Iterable[Event]) -> set[StateKey]:
    """Every state row that projecting these events reads or changes."""
    wanted: set[StateKey] = set()
    for event in events:
        for family in _families(event):
            keys: Callable[[Event], Iterable[StateKey]] = family.keys
            wanted.update(keys(event))
    return wanted


def project(ledger: Ledger, events: Iterable[Event], only: Callable[[Event], bool] = lambda event: True) -> None:
    """Writes the rows of events in chain order into the ledger. Whole transactions only; `only` leaves out events whose
    rows are not wanted, while the others of their transaction still see them."""
    for tx in transactions(events):
        for event in filter(only, tx.events):
            for family in _families(event):
                apply: Callable[[Ledger, Transaction, Event], None] = family.apply
                apply(ledger, tx, event)
