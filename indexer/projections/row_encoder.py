"""Rows as PostgreSQL takes them, or not at all (integers stay integers: a misfit is an incident, never a stall). Pure.

Every row that is written passes through here: it is checked and written in COPY's text format in one pass, by a
function generated for its columns and the classes of its values. Text beats the binary format for numeric(78,0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from indexer.runtime.exact_json import to_json

Row = dict[str, Any]
Kinds = Mapping[str, str]  # column -> "numeric", "text not null", ...
NUMERIC_LIMIT = 10**78  # numeric(78,0)
MAX_ENCODERS = 4096  # generated functions kept
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# Kind -> the class of a value that is not None, and what else must hold of a value v. A bool is no integer to
# PostgreSQL's COPY. Four characters have a meaning in COPY's text; looking for each is faster than any one look at all.
_CLASS: dict[str, type] = {
    "numeric": int, "bigint": int, "integer": int, "smallint": int, "text": str, "bool": bool, "timestamp": datetime,
    "json": list,
}  # fmt: skip
_FITS = {
    "numeric": f"{-NUMERIC_LIMIT} < {{v}} < {NUMERIC_LIMIT}",
    "bigint": f"{-(1 << 63)} <= {{v}} < {1 << 63}",
    "integer": f"{-(1 << 31)} <= {{v}} < {1 << 31}",
    "smallint": f"{-(1 << 15)} <= {{v}} < {1 << 15}",
    "text": "'\\0' not in {v}",
}
_HOLDS: dict[str, Callable[[Any], bool]] = {
    kind: eval(f"lambda v: {fits.format(v='v')}") for kind, fits in _FITS.items()
}
# Kind -> a statement that makes the value the text of its field, where formatting alone does not.
_TEXT = {
    "text": "if BACKSLASH in {v} or '\\t' in {v} or '\\n' in {v} or '\\r' in {v}: {v} = escaped({v})",
    "bool": "{v} = 't' if {v} else 'f'",
    "timestamp": "{v} = iso({v})",
    "json": "{v} = escaped(to_json({v}))",
}
Encoder = Callable[[Sequence[Any]], "tuple[str, ...] | None"]


class RowLayout:
    """Rows that are made together, of one table or of several that share values: `names` of the values in their order,
    and by table the value that each column holds. Columns that are not named are NULL.

    Found by its identity: it is made once, not per row.
    """

    __slots__ = ("name", "names", "rows", "sources", "tables")

    def __init__(self, tables: Mapping[str, Mapping[str, str]]) -> None:
        self.tables = {table: dict(columns) for table, columns in tables.items()}
        self.name = next(iter(tables))  # the first table's
        self.names = tuple(dict.fromkeys(name for columns in tables.values() for name in columns.values()))
        # Of each value the first table that has it, by number, and its column there.
        at = {
            name: (n, column)
            for n, columns in reversed([*enumerate(tables.values())])
            for column, name in columns.items()
        }
        self.sources = tuple(at[name] for name in self.names)
        self.rows = _rows(self)  # values -> a row for each table

    @classmethod
    def plain(cls, table: str, columns: Iterable[str]) -> RowLayout:
        """Of one table, whose values are named as its columns."""
        return cls({table: {column: column for column in columns}})

    def row(self, table: str, values: Sequence[Any]) -> Row:
        return self.rows(values)[list(self.tables).index(table)]


def _rows(layout: RowLayout) -> Callable[[Sequence[Any]], tuple[Row, ...]]:
    at = {name: f"v{n}" for n, name in enumerate(layout.names)}
    rows = [
        "{" + ", ".join(f"{column!r}: {at[name]}" for column, name in columns.items()) + "}"
        for columns in layout.tables.values()
    ]
    source = f"def rows(values):\n    {_unpacked(at.values())} = values\n    return ({', '.join(rows)},)"
    scope: dict[str, Any] = {}
    exec(source, scope)
    made: Callable[[Sequence[Any]], tuple[Row, ...]] = scope["rows"]
    return made


def _unpacked(names: Iterable[str]) -> str:
    return "".join(f"{name}, " for name in names) or "()"


class RowEncoder:
    """Writes rows of tables with these `columns`, by table."""

    def __init__(self, columns: Mapping[str, Kinds]) -> None:
        self.columns = columns
        self._plain: dict[tuple[str, tuple[str, ...]], RowLayout] = {}
        self._writers: dict[tuple[RowLayout, tuple[type, ...]], Encoder] = {}

    def plain(self, table: str, columns: tuple[str, ...]) -> RowLayout:
        """The layout of one table's rows with these columns."""
        layout = self._plain.get((table, columns))
        if layout is None:
            layout = self._plain[table, columns] = RowLayout.plain(table, columns)
        return layout

    def encode(self, layout: RowLayout, values: Sequence[Any]) -> tuple[str, ...] | None:
        """A line of COPY text for each table of the layout; None when any of the rows does not fit.

        Raises KeyError for a column that its table does not have.
        """
        classes = tuple(map(type, values))
        write = self._writers.get((layout, classes))
        if write is None:
            if len(self._writers) >= MAX_ENCODERS:
                self._writers.clear()
            write = self._writers[layout, classes] = _compiled(self.columns, layout, classes)
        return write(values)

    def first_misfit(self, table: str, row: Row) -> str | None:
        """The first column, in the table's order, that the row has no fitting value for."""
        return next((c for c, kind in self.columns[table].items() if not _fits(kind, row.get(c))), None)


def _fits(kind: str, value: Any) -> bool:
    plain = kind.removesuffix(" not null")
    if value is None:
        return plain == kind
    return value.__class__ is _CLASS[plain] and (plain not in _HOLDS or _HOLDS[plain](value))


def _compiled(columns: Mapping[str, Kinds], layout: RowLayout, classes: Sequence[type]) -> Encoder:
    """The function that writes values of these classes."""
    at = {name: n for n, name in enumerate(layout.names)}
    uses: dict[tuple[int, str], int] = {}  # (value, kind) -> how many fields it is in
    lines = []
    for table, named in layout.tables.items():
        if unknown := named.keys() - columns[table].keys():
            raise KeyError(*unknown)  # what is no column would be lost in silence
        fields = []
        for column, kind in columns[table].items():
            n = at[named[column]] if column in named else None
            plain = kind.removesuffix(" not null")
            if n is None or classes[n] is type(None):
                if plain != kind:
                    return _nothing_fits
                fields.append("\\\\N")
            elif classes[n] is not _CLASS[plain]:
                return _nothing_fits
            else:
                uses[n, plain] = uses.get((n, plain), 0) + 1
                fields.append(f"{{v{n}}}")
        lines.append('f"' + "\\t".join(fields) + '\\n"')
    return _generated(len(classes), uses, lines)


def _nothing_fits(values: Sequence[Any]) -> None:
    return None


def _generated(count: int, uses: Mapping[tuple[int, str], int], lines: Sequence[str]) -> Encoder:
    used = {n for n, _ in uses}
    conditions = [_FITS[kind].format(v=f"v{n}") for n, kind in uses if kind in _FITS]
    taken = _unpacked(f"v{n}" if n in used else "_" for n in range(count))
    source = ["def write(values):", f"    {taken} = values"]
    if conditions:
        source.append(f"    if not ({' and '.join(conditions)}): return None")
    texts: dict[int, str] = {}
    for (n, kind), times in uses.items():
        if kind in _TEXT:
            texts[n] = _TEXT[kind].format(v=f"v{n}")
        elif times > 1:  # an integer in several lines is made text once
            texts[n] = f'v{n} = f"{{v{n}}}"'
    source += [f"    {text}" for text in texts.values()]
    source.append(f"    return ({', '.join(lines)},)")
    scope: dict[str, Any] = {"BACKSLASH": "\\", "escaped": escape_copy_text, "to_json": to_json, "iso": _iso}
    exec("\n".join(source), scope)
    write: Encoder = scope["write"]
    return write


@lru_cache(maxsize=256)
def _iso(value: datetime) -> str:
    return value.isoformat()


def escape_copy_text(text: str) -> str:
    return text.translate(_ESCAPES)
