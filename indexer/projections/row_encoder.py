r"""Encodes rows as COPY text, or names their misfit (integers stay integers: an incident, never a stall). Pure.

Every row that is written passes through here: it is checked and written in COPY's text format in one pass, by a
function generated for its columns and the classes of its values. Text beats the binary format for numeric(78,0).

For columns `{"id": "text not null", "amount": "numeric not null", "sender": "text"}` and values (str, int, None) the
generated encoder is this (with 10**78 written out):

    def write(values):
        v0, v1, _,  = values
        if not ('\0' not in v0 and -10**78 < v1 < 10**78): return None
        if BACKSLASH in v0 or '\t' in v0 or '\n' in v0 or '\r' in v0: v0 = escaped(v0)
        return (f"{v0}\t{v1}\t\\N\n",)
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
MAX_ENCODERS = 4096  # Generated functions kept; one more, and all are generated again.
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# Kind -> the class of a value that is not None, and what else must hold for a value v. To PostgreSQL's COPY a bool is
# not an integer. Four characters have a meaning in COPY text; searching for each is faster than any one search for all.
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
# Kind -> a statement that turns the value into the text of its field, where formatting alone does not.
_TEXT = {
    "text": "if BACKSLASH in {v} or '\\t' in {v} or '\\n' in {v} or '\\r' in {v}: {v} = escaped({v})",
    "bool": "{v} = 't' if {v} else 'f'",
    "timestamp": "{v} = iso({v})",
    "json": "{v} = escaped(to_json({v}))",
}
Encoder = Callable[[Sequence[Any]], "tuple[str, ...] | None"]


class RowLayout:
    """Rows built together from one tuple of values: a row of one table, or a row in each of several that share values.

    `names`: names of the values, in their order. `tables`: table -> column -> name of the value that it holds; columns
    that are not named are NULL. A layout is looked up by identity: it is created once, not per row.
    """

    __slots__ = ("name", "names", "rows", "sources", "tables")

    def __init__(self, tables: Mapping[str, Mapping[str, str]]) -> None:
        self.tables = {table: dict(columns) for table, columns in tables.items()}
        self.name = next(iter(tables))  # The name of the first table.
        self.names = tuple(dict.fromkeys(name for columns in tables.values() for name in columns.values()))
        # For each value, the first table that has it (by number) and its column there.
        first_use = {
            name: (n, column)
            for n, columns in reversed([*enumerate(tables.values())])
            for column, name in columns.items()
        }
        self.sources = tuple(first_use[name] for name in self.names)
        self.rows = _rows(self)  # values -> one row per table

    @classmethod
    def plain(cls, table: str, columns: Iterable[str]) -> RowLayout:
        """Return the layout of one table whose values are named like its columns."""
        return cls({table: {column: column for column in columns}})

    def row(self, table: str, values: Sequence[Any]) -> Row:
        """Return the row of one of the tables."""
        return self.rows(values)[list(self.tables).index(table)]


def _rows(layout: RowLayout) -> Callable[[Sequence[Any]], tuple[Row, ...]]:
    variables = {name: f"v{n}" for n, name in enumerate(layout.names)}
    rows = [
        "{" + ", ".join(f"{column!r}: {variables[name]}" for column, name in columns.items()) + "}"
        for columns in layout.tables.values()
    ]
    source = f"def rows(values):\n    {_unpacked(variables.values())} = values\n    return ({', '.join(rows)},)"
    scope: dict[str, Any] = {}
    exec(source, scope)
    build_rows: Callable[[Sequence[Any]], tuple[Row, ...]] = scope["rows"]
    return build_rows


def _unpacked(names: Iterable[str]) -> str:
    return "".join(f"{name}, " for name in names) or "()"


class RowEncoder:
    """Encodes rows as COPY text. `columns`: table -> column -> kind."""

    def __init__(self, columns: Mapping[str, Kinds]) -> None:
        self.columns = columns
        self._plain: dict[tuple[str, tuple[str, ...]], RowLayout] = {}
        self._writers: dict[tuple[RowLayout, tuple[type, ...]], Encoder] = {}

    def plain(self, table: str, columns: tuple[str, ...]) -> RowLayout:
        """Return the layout of one table's rows with these columns, always the same object."""
        layout = self._plain.get((table, columns))
        if layout is None:
            layout = self._plain[table, columns] = RowLayout.plain(table, columns)
        return layout

    def encode(self, layout: RowLayout, values: Sequence[Any]) -> tuple[str, ...] | None:
        """Return one line of COPY text per table of the layout, or None when any of the rows does not fit.

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
        """Return the first column, in the table's order, whose value in the row does not fit; None when all fit."""
        return next((c for c, kind in self.columns[table].items() if not _fits(kind, row.get(c))), None)


def _fits(kind: str, value: Any) -> bool:
    plain = kind.removesuffix(" not null")
    if value is None:
        return plain == kind
    return value.__class__ is _CLASS[plain] and (plain not in _HOLDS or _HOLDS[plain](value))


def _compiled(columns: Mapping[str, Kinds], layout: RowLayout, classes: Sequence[type]) -> Encoder:
    """Generate the encoder for values of these classes."""
    indices = {name: n for n, name in enumerate(layout.names)}
    uses: dict[tuple[int, str], int] = {}  # (number of the value, kind) -> number of its fields
    lines = []
    for table, names_by_column in layout.tables.items():
        if unknown := names_by_column.keys() - columns[table].keys():
            raise KeyError(*unknown)  # A value without a column would be lost silently.
        fields = []
        for column, kind in columns[table].items():
            n = indices[names_by_column[column]] if column in names_by_column else None
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
    scope: dict[str, Any] = {"BACKSLASH": "\\", "escaped": escape_copy_text, "to_json": to_json, "iso": _iso}
    exec(_source(len(classes), uses, lines), scope)
    write: Encoder = scope["write"]
    return write


def _nothing_fits(values: Sequence[Any]) -> None:
    return None


def _source(count: int, uses: Mapping[tuple[int, str], int], lines: Sequence[str]) -> str:
    """Return the function as text. `uses`: (number of a value, kind) -> number of its fields; `lines`: f-strings."""
    used = {n for n, _ in uses}
    conditions = [_FITS[kind].format(v=f"v{n}") for n, kind in uses if kind in _FITS]
    targets = _unpacked(f"v{n}" if n in used else "_" for n in range(count))
    source = ["def write(values):", f"    {targets} = values"]
    if conditions:
        source.append(f"    if not ({' and '.join(conditions)}): return None")
    texts: dict[int, str] = {}
    for (n, kind), times in uses.items():
        if kind in _TEXT:
            texts[n] = _TEXT[kind].format(v=f"v{n}")
        elif times > 1:  # An integer in several fields is formatted once.
            texts[n] = f'v{n} = f"{{v{n}}}"'
    source += [f"    {text}" for text in texts.values()]
    source.append(f"    return ({', '.join(lines)},)")
    return "\n".join(source)


@lru_cache(maxsize=256)
def _iso(value: datetime) -> str:
    return value.isoformat()


def escape_copy_text(text: str) -> str:
    """Escape the four characters that have a meaning in COPY text."""
    return text.translate(_ESCAPES)
