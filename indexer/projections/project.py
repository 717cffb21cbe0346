"""Hands each event to the modules that project it. Call `state_keys` first, load those rows, then `project`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from types import ModuleType

from indexer.projections import (
    accounts,
    balances,
    markets,
    orders,
    positions,
    prices,
    proxy_upgrades,
    settings,
    tokens,
    undecoded,
)
from indexer.projections.events import Event, Row, StateKey, Transaction, transactions
from indexer.projections.row_encoder import RowLayout
from indexer.projections.write_set import StateRow, WriteSet

_Keys = Callable[[Event], Iterable[StateKey]]
_Apply = Callable[[WriteSet, Transaction, Event], None]

_MODULES: tuple[ModuleType, ...] = (
    accounts,
    balances,
    markets,
    settings,
    tokens,
    orders,
    positions,
    prices,
    proxy_upgrades,
)
# By event name. A log that no decoder reads is an event without a name.
_KEYS: dict[str | None, list[_Keys]] = {None: [undecoded.keys]}
_APPLY: dict[str | None, list[_Apply]] = {None: [undecoded.apply]}
for _module in _MODULES:
    for _name in _module.EVENTS:
        _KEYS.setdefault(_name, []).append(_module.keys)
        _APPLY.setdefault(_name, []).append(_module.apply)

# State rows that are a row in each of several tables, by the first table, whose key they share: the layout of the
# values that the write set stores for them.
SHARED_LAYOUTS: dict[str, RowLayout] = {positions.ROWS.name: positions.ROWS}

# Tables read whole: a handful of rows, any of which a liquidation may need.
WHOLE_TABLES = ("indexer.backstop_account",)


@cache
def tables_of(name: str) -> tuple[str, ...]:
    """Return the tables of the state rows of this name."""
    return tuple(SHARED_LAYOUTS[name].tables) if name in SHARED_LAYOUTS else (name,)


def split_row(name: str, state_row: StateRow) -> tuple[Row | None, ...]:
    """Return a state row as one row per table of `tables_of(name)`, each None where there is none."""
    if state_row is None:
        return (None,) * len(tables_of(name))
    return (state_row,) if isinstance(state_row, dict) else SHARED_LAYOUTS[name].rows(state_row)


def merge_rows(name: str, rows: Sequence[Row | None]) -> StateRow:
    """Return the state row that `split_row` splits into these rows."""
    if name not in SHARED_LAYOUTS or rows[0] is None:
        return rows[0]
    return tuple((rows[n] or {}).get(column) for n, column in SHARED_LAYOUTS[name].sources)


def state_keys(events: Iterable[Event]) -> set[StateKey]:
    """Return the keys of every state row that projecting these events reads or changes."""
    wanted: set[StateKey] = set()
    for event in events:
        for keys in _KEYS.get(event.name, ()):
            wanted.update(keys(event))
    return wanted


def project(write_set: WriteSet, events: Iterable[Event], only: Callable[[Event], bool] | None = None) -> None:
    """Write the rows of events, in chain order and of whole transactions, into the write set.

    `only` leaves out events whose rows are not wanted; the other events of their transaction still see them.
    """
    for tx in transactions(events):
        for event in tx.events if only is None else filter(only, tx.events):
            for apply in _APPLY.get(event.name, ()):
                apply(write_set, tx, event)
    positions.flush_drafts(write_set)
