"""The write set: collects everything that one projected step changes. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from indexer.projections.events import Event, Key, Row, StateKey, Values
from indexer.projections.row_encoder import RowEncoder, RowLayout

# A state row: a Row, or the Values of one that several tables share (`project.SHARED_LAYOUTS`). None: there is none.
StateRow = Row | Values | None


@dataclass(frozen=True, slots=True)
class Incident:
    """A named condition that a person must see; work continues meanwhile. One open incident per (kind, subject)."""

    kind: str
    subject: str
    detail: str
    block_number: int


# A new row of a table: its layout, its values, its line of COPY text. A plain tuple, because there is one per row.
Appended = tuple[RowLayout, Values, str]


@dataclass(slots=True)
class WriteSet:
    """Collects everything that one projected step changes.

    A state row of several tables is stored as the values of its layout, under the name of the first of them
    (`project.SHARED_LAYOUTS`).

    Args:
        encoder: knows the tables' columns and renders rows as COPY text.
        state: state rows loaded for this step (None: no such row), updated by `put`.
        floor: for each block above it, keep a before-image: the row as it was before that block first changed it.
        tokens: address -> (name, symbol).
        rusd: the quote token's address.
        accounting: addresses of the contracts whose events move positions.
        appended: new rows by table.
        changed: changed state rows and their lines of COPY text, one line for each of the row's tables.
        created: those of `changed` that had no row before.
        before: before-images by block number and state row.
        incidents: conditions found by projections, in chain order.
        drafts: state that changes often (`positions`); rows are built from it when the step ends.
    """

    encoder: RowEncoder
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
    _tables: dict[str, dict[Key, Any]] = field(default_factory=dict)

    def get(self, table: str, key: Key) -> Row | None:
        """Return a state row, None where there is none.

        Raises KeyError when the projection's `keys` did not name it: guessing would drop what is stored.
        """
        return self.state[table, key]  # type: ignore[return-value]  # put() set it, or it was loaded as a Row.

    def get_values(self, layout: RowLayout, key: Key) -> Values | None:
        """Return the values of a state row that several tables share, None where there is none. Raises KeyError."""
        return self.state[layout.name, key]  # type: ignore[return-value]  # put_values() set it.

    def table(self, table: str) -> Iterable[Row]:
        """Return all rows of a table that is read whole (`project.WHOLE_TABLES`)."""
        if table not in self._tables:
            self._tables[table] = {key: row for (name, key), row in self.state.items() if name == table}
        return self._tables[table].values()

    def rows(self, table: str) -> list[Row]:
        """Return the rows appended to a table."""
        return [layout.row(table, values) for layout, values, _ in self.appended.get(table, ())]

    def append(self, table: str, row: Row, event: Event) -> None:
        """Append a row that nothing changes later."""
        self.append_values(self.encoder.plain(table, tuple(row)), tuple(row.values()), event)

    def append_values(self, layout: RowLayout, values: Values, event: Event) -> None:
        """Append a row to each table of a layout. Rows of the most frequent events never become dicts."""
        lines = self.encoder.encode(layout, values)
        if lines is not None:
            for table, line in zip(layout.tables, lines, strict=True):
                self.appended[table].append((layout, values, line))
        elif len(layout.tables) > 1:
            # Each row on its own, so that one that fits is not lost with another.
            for table in layout.tables:
                self.append(table, layout.row(table, values), event)
        else:
            self._report_misfits(layout, values, event)

    def put(self, table: str, key: Key, row: Row, event: Event) -> None:
        """Set a state row. A value that does not fit its column leaves the previous row and opens an incident.

        Args:
            table: the row's table.
            key: the values of its key columns.
            row: column -> value.
            event: the event that changes it.
        """
        self._put(self.encoder.plain(table, tuple(row)), key, tuple(row.values()), row, event)

    def put_values(self, layout: RowLayout, key: Key, values: Values, event: Event) -> None:
        """Set a state row that is a row in each table of the layout: in all of them, or in none and with incidents.

        Args:
            layout: the row's tables and columns.
            key: the values of its key columns.
            values: the row's values, in the order of `layout.names`.
            event: the event that changes it.
        """
        self._put(layout, key, values, values, event)

    def _put(self, layout: RowLayout, key: Key, values: Values, state_row: StateRow, event: Event) -> None:
        lines = self.encoder.encode(layout, values)
        if lines is None:
            self._report_misfits(layout, values, event)
            return
        state_key = layout.name, key
        previous = self.state[state_key]
        if event.block_number > self.floor:
            self.before.setdefault((event.block_number, state_key), previous)
        if previous is None:
            self.created.add(state_key)
        self.state[state_key] = state_row
        if state_key[0] in self._tables:
            self._tables[state_key[0]][state_key[1]] = state_row
        self.changed[state_key] = lines

    def incident(self, kind: str, subject: str, detail: str, event: Event) -> None:
        """Record an incident.

        Args:
            kind: name of the condition.
            subject: what has it; incidents of equal kind and subject become one.
            detail: text for a person.
            event: the event that revealed it.
        """
        self.incidents.append(Incident(kind, subject, detail, event.block_number))

    def _report_misfits(self, layout: RowLayout, values: Values, event: Event) -> None:
        """Record an incident for each row of the layout that does not fit its table."""
        for table, row in zip(layout.tables, layout.rows(values), strict=True):
            column = self.encoder.first_misfit(table, row)
            if column is not None:
                self.incident(
                    "value_misfit",
                    f"{table}.{column} {event.id}",
                    f"{repr(row.get(column))[:120]} does not fit {self.encoder.columns[table][column]}; the row was not"
                    " written",
                    event,
                )
