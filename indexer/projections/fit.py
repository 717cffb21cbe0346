"""Rows as PostgreSQL takes them, or not at all (rule 13: a misfit is an incident, never a stall). Pure.

One function per table, generated, because every row that is written passes through it: it checks a row and writes it
in COPY's text format in one pass. Text beats the binary format for numeric(78,0) columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

NUMERIC_LIMIT = 10**78  # numeric(78,0)
NULL = "\\N"

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

# Kind -> what a value v, which is not None, must be of, and what else must hold. A bool is no integer to PostgreSQL's
# COPY. Four characters have a meaning in COPY's text; looking for each is faster than any one look at all characters.
_CLASS = {"text": "str", "bool": "bool", "timestamp": "datetime", "json": "list"}
_FITS = {
    "numeric": f"{-NUMERIC_LIMIT} < v < {NUMERIC_LIMIT}",
    "bigint": f"{-(1 << 63)} <= v < {1 << 63}",
    "integer": f"{-(1 << 31)} <= v < {1 << 31}",
    "smallint": f"{-(1 << 15)} <= v < {1 << 15}",
    "text": "'\\0' not in v",
}
# Kind -> what stands for it in its field; itself where there is nothing here.
_FIELD = {
    "text": "escaped(v) if BACKSLASH in v or '\\t' in v or '\\n' in v or '\\r' in v else v",
    "bool": "'t' if v else 'f'",
    "timestamp": "iso(v)",
    "json": "escaped(to_json(v))",
}

Line = Callable[[Sequence[Any]], str]


class Misfit(Exception):
    """A value that fits no column; `column` is the first such."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


class Lines:
    """The lines of one table with these columns and kinds ("numeric", "text not null", ...).

    Rows that are made in one place have the same columns in the same order, and each such order gets a function of its
    own: columns that it lacks are NULL without a look.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = tuple(columns.items())
        self._of: dict[tuple[str, ...], Line] = {}

    def line(self, columns: tuple[str, ...], values: Sequence[Any]) -> str:
        """The line of COPY text of a row with these values.

        Raises Misfit when a value does not fit, or is missing where the column is NOT NULL; KeyError for a column that
        the table does not have.
        """
        write = self._of.get(columns)
        if write is None:
            write = self._of[columns] = _compiled(self._columns, columns)
        return write(values)


@lru_cache(maxsize=1024)
def _compiled(columns: tuple[tuple[str, str], ...], shape: tuple[str, ...]) -> Line:
    kinds, names = dict(columns), {column: f"v{n}" for n, column in enumerate(shape)}
    if unknown := names.keys() - kinds:
        raise KeyError(*unknown)  # what is no column would be lost in silence
    source = ["def line(values):", f"    {''.join(f'{names[column]}, ' for column in shape) or '()'} = values"]
    for column, kind in columns:
        if column in names:
            source += _field(names[column], column, kind)
        elif kind.endswith("not null"):
            source.append(f"    raise Misfit({column!r})")
    fields = "\\t".join(f"{{{names[column]}}}" if column in names else "\\\\N" for column in kinds)
    source.append(f'    return f"{fields}\\n"')
    scope: dict[str, Any] = {
        "BACKSLASH": "\\", "Misfit": Misfit, "datetime": datetime, "escaped": escaped, "to_json": to_json, "iso": _iso,
    }  # fmt: skip
    exec("\n".join(source), scope)
    compiled: Line = scope["line"]
    return compiled


def _field(v: str, column: str, kind: str) -> list[str]:
    """Statements that check the value `v` and make it the text of its field."""

    def of_v(expression: str) -> str:
        return _V.sub(v, expression)

    plain = kind.removesuffix(" not null")
    lines = [f"    if {v}.__class__ is {_CLASS.get(plain, 'int')}:"]
    if plain in _FITS:
        lines.append(f"        if not ({of_v(_FITS[plain])}): raise Misfit({column!r})")
    lines.append(f"        {v} = {of_v(_FIELD[plain])}" if plain in _FIELD else "        pass")
    if plain == kind:
        lines.append(f"    elif {v} is None: {v} = '\\\\N'")
    return [*lines, f"    else: raise Misfit({column!r})"]


_V = re.compile(r"\bv\b")


@lru_cache(maxsize=256)
def _iso(value: datetime) -> str:
    return value.isoformat()


def escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def to_json(value: Any) -> str:
    """JSON with integers of any size in full: jsonb keeps them exact. Bytes are not expected."""
    return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")
