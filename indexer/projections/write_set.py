"""What projections work on: decoded events grouped by transaction, and the ledger that collects their rows.

A projection is a pair of pure functions per event: `keys(event)` names the state rows it reads or changes, so that the
store can load them first; `apply(ledger, tx, event)` writes rows into the ledger. Nothing here does I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from indexer.projections.events import Event, Key, Row, StateKey, Values
from indexer.projections.row_encoder import RowEncoder, RowLayout

StateRow = Any  # a state row: Row, or the Values of one that several tables have; None where there is none


@dataclass(frozen=True, slots=True)
class Incident:
    """A named condition that a person must see; work goes on. One open incident per (kind, subject)."""

    kind: str
    subject: str
    detail: str
    block_number: int


# A new row of a table, as values, and its line of COPY text. A plain tuple: there is one for each row that is written.
Appended = tuple[RowLayout, Values, str]


@dataclass(slots=True)
class WriteSet:
    """Collects what one step changes. `lines` knows the tables' columns.

    `state` holds the state rows loaded for this step (None: no such row). Of blocks above `floor`, the value that a row
    had before the block's first change is kept as a before-image. `tokens`: address -> (name, symbol); `rusd`: the
    quote token's address. `accounting`: addresses of the contracts whose events move positions.

    `appended`: new rows by table. `changed`: state rows and their lines, one for each table of theirs; `created`: those
    of them that had no row before. A state row of several tables is kept as the values of its layout and named by the
    first of them (`projections.TOGETHER`). `drafts` is for state that changes often (`positions`): rows are made of it
    when the step ends.
    """

    lines: RowEncoder
    state: dict[StateKey, StateRow]
    floor: int
    tokens: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    rusd: str | None = None
    accounting: frozenset[str] = frozenset()
    appended: dict[str, list[Appended]] = field(default_factory=lambda: defaultdict(list))
    changed: dict[StateKey, tuple[str, ...]] = field(default_factory=dict)
    created: set[StateKey] = field(default_factory=set)
    before: dict[tuple[int, StateKey], StateRow] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    drafts: dict[tuple[int, int], Any] = field(default_factory=dict)
    _tables: dict[str, dict[Key, StateRow]] = field(default_factory=dict)

    def get(self, table: str, key: Key) -> StateRow:
        """A state row. KeyError when the projection's `keys` did not name it: guessing would drop what is stored."""
        return self.state[table, key]

    def table(self, table: str) -> Iterable[StateRow]:
        """All rows of a table that is read whole (`projections.WHOLE_TABLES`)."""
        if table not in self._tables:
            self._tables[table] = {key: row for (name, key), row in self.state.items() if name == table}
        return self._tables[table].values()

    def rows(self, table: str) -> list[Row]:
        """What was appended to a table."""
        return [layout.row(table, values) for layout, values, _ in self.appended.get(table, ())]

    def append(self, table: str, row: Row, event: Event) -> None:
        """Adds a row that nothing changes later."""
        self.append_values(self.lines.plain(table, tuple(row)), tuple(row.values()), event)

    def append_values(self, layout: RowLayout, values: Values, event: Event) -> None:
        """The same for a row in each table of a layout: rows of the most frequent events are never made dicts."""
        lines = self.lines.encode(layout, values)
        if lines is not None:
            for table, line in zip(layout.tables, lines, strict=True):
                self.appended[table].append((layout, values, line))
        elif len(layout.tables) > 1:
            for table in layout.tables:  # each for itself: one that fits is not lost with another
                self.append(table, layout.row(table, values), event)
        else:
            self._report_misfits(layout, values, event)

    def put(self, table: str, key: Key, row: Row, event: Event) -> None:
        """Sets a state row. A value that fits no column leaves the previous row and opens an incident."""
        self._put(self.lines.plain(table, tuple(row)), key, tuple(row.values()), row, event)

    def put_values(self, layout: RowLayout, key: Key, values: Values, event: Event) -> None:
        """The same for one that is a row in each table of the layout. It is set in all of them or in none."""
        self._put(layout, key, values, values, event)

    def _put(self, layout: RowLayout, key: Key, values: Values, kept: StateRow, event: Event) -> None:
        lines = self.lines.encode(layout, values)
        if lines is None:
            self._report_misfits(layout, values, event)
            return
        place = layout.name, key
        previous = self.state[place]
        if event.block_number > self.floor:
            self.before.setdefault((event.block_number, place), previous)
        if previous is None:
            self.created.add(place)
        self.state[place] = kept
        if place[0] in self._tables:
            self._tables[place[0]][place[1]] = kept
        self.changed[place] = lines

    def incident(self, kind: str, subject: str, detail: str, event: Event) -> None:
        self.incidents.append(Incident(kind, subject, detail, event.block_number))

    def _report_misfits(self, layout: RowLayout, values: Values, event: Event) -> None:
        """The incident of each row of the layout that does not fit its table."""
        for table, row in zip(layout.tables, layout.rows(values), strict=True):
            column = self.lines.first_misfit(table, row)
            if column is not None:
                self.incident(
                    "value_misfit",
                    f"{table}.{column} {event.id}",
                    f"{repr(row.get(column))[:120]} does not fit {self.lines.columns[table][column]}; the row was not"
                    " written",
                    event,
                )
