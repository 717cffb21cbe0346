r"""Rows of the change log as changes of single rows, with exact values (integers stay integers). Pure.

Values of a row, by the kind of their column: integers as int, numeric as text in decimal notation with every digit,
bool as bool, text and timestamps as text, json as parsed by `indexer.runtime.exact_json`, NULL as None.

COPY text is decoded by a function generated for its table, as `indexer.projections.row_encoder` encodes it. For columns
`{"id": "bigint not null", "amount": "numeric", "sender": "text"}` with the key `id` it is this, for a body that has a
backslash; in one without there is neither NULL nor anything to unescape, and a value is taken as it is:

    def decode(lines, seq, ord_, op, table):
        return [
            new(Change, (seq, ord_, op, table, (k0 := int(v0),), {
                "id": k0, "amount": None if v1 == NULL else v1, "sender": v2 if BACKSLASH not in v2 else unescaped(v2),
            }, i))
            for i, (v0, v1, v2, ) in enumerate(map(split, lines))
        ]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import IntEnum
from functools import cache
from operator import methodcaller
from typing import Any, NamedTuple

from indexer.db.catalog import COLUMNS, KEYS
from indexer.errors import StoreDamagedError
from indexer.runtime.exact_json import from_json

Row = dict[str, Any]
Key = tuple[Any, ...]


class Op(IntEnum):
    """What happened to a row."""

    DELETE = -1
    VOID = 0  # Every row of every projected table is void; the change has neither table nor key.
    INSERT = 1  # There was no row of this key before.
    UPDATE = 2  # Insert or replace: there may have been one.


class ChangeRecord(NamedTuple):
    """A row of `indexer.change_log`, with the names of its columns: `n` changed rows of one table in one commit."""

    seq: int
    ord: int
    op: int
    encoding: str
    table_name: str
    n: int
    body: str


class Change(NamedTuple):
    """A change of one row. Table and key name the row; of two changes of it, the one with higher (seq, ord) is later.

    `key`: values of the primary key. `row`: the new row; of a DELETE, the old row or only its key columns. `item`:
    place in the body, so (seq, ord, item) is unique to a change and the same whenever it is read.
    """

    seq: int
    ord: int
    op: Op
    table: str
    key: Key
    row: Row
    item: int = 0

    @property
    def key_text(self) -> str:
        """The key as one text: its values joined by `|`."""
        return "|".join(map(str, self.key))


Decoder = Callable[[Iterable[str], int, int, Op, str], list[Change]]


def decode(record: ChangeRecord) -> list[Change]:
    """Return the changes of a row of the change log, in the order of its body.

    Raises StoreDamagedError when the body is not what the table's columns, as this release knows them, make of `n`
    rows.
    """
    seq, ord_, op, encoding, table, n, body = record
    try:
        if op == Op.VOID:
            return [Change(seq, ord_, Op.VOID, "", (), {})]
        if encoding == "copy":
            lines = body.removesuffix("\n").split("\n") if body else []
            changes = _decoder(table, "\\" in body)(lines, seq, ord_, Op(op), table)
        elif encoding == "json":
            changes = [_change_of(old, (seq, ord_, Op(op), table), index) for index, old in enumerate(from_json(body))]
        else:
            raise ValueError(f"unknown encoding {encoding}")
        if len(changes) != n:
            raise ValueError(f"{len(changes)} rows instead of {n}")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreDamagedError(
            f"change {seq}-{ord_} of {table or 'no table'} cannot be decoded: {error!r}",
            "Take a new snapshot of the tables: another release may have written it, or somebody changed it",
        ) from error
    return changes


# Kind -> expression for the value of a field v: in a body without a backslash, and in one with. A field that is NULL
# contains a backslash, and so does text that was escaped.
_PLAIN = {
    "numeric": "{v}", "bigint": "int({v})", "integer": "int({v})", "smallint": "int({v})", "text": "{v}",
    "bool": "{v} == 't'", "timestamp": "{v}", "json": "from_json({v})",
}  # fmt: skip
_ESCAPED = {kind: f"None if {{v}} == NULL else {plain}" for kind, plain in _PLAIN.items()} | {
    "text": "{v} if BACKSLASH not in {v} else unescaped({v})",
    "json": "None if {v} == NULL else from_json(unescaped({v}))",
}


@cache
def _decoder(table: str, backslash: bool) -> Decoder:  # noqa: FBT001
    """Generate the function that decodes COPY text of a table. `backslash`: for bodies that contain one."""
    key, items, fields = KEYS[table], [], dict[str, str]()
    for n, (column, kind) in enumerate(COLUMNS[table].items()):
        plain, nullable = kind.removesuffix(" not null"), not kind.endswith(" not null")
        value = (_ESCAPED if backslash and (nullable or plain in ("text", "json")) else _PLAIN)[plain].format(v=f"v{n}")
        if column in key:
            fields[column], value = f"(k{n} := {value})", f"k{n}"
        items.append(f"{column!r}: {value}")
    values = f"({''.join(f'{fields[column]}, ' for column in key)}), {{{', '.join(items)}}}"
    names = "".join(f"v{n}, " for n in range(len(items)))
    source = (
        "def decode(lines, seq, ord_, op, table):\n"
        f"    return [new(Change, (seq, ord_, op, table, {values}, i))"
        f" for i, ({names}) in enumerate(map(split, lines))]"
    )
    scope: dict[str, Any] = {
        "BACKSLASH": "\\", "Change": Change, "NULL": r"\N", "from_json": from_json, "new": tuple.__new__,
        "split": methodcaller("split", "\t"), "unescaped": _unescaped,
    }  # fmt: skip
    exec(source, scope)
    decoder: Decoder = scope["decode"]
    return decoder


_CHARACTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_escape_sequence = re.compile(r"\\(.)", re.DOTALL)


def _unescaped(field: str) -> str | None:
    if field == r"\N":
        return None
    return _escape_sequence.sub(lambda match: _CHARACTERS.get(match[1], match[1]), field)


def _change_of(values: Mapping[str, Any], place: tuple[int, int, Op, str], index: int) -> Change:
    """Return the change of a JSON row. Columns that projections do not write are left out, as in COPY text.

    A column that the JSON lacks is NULL, as for the server that restored the row: a before-image has what a projection
    gave its row.
    """
    _, _, op, table = place
    row = {
        column: _value(kind, values.get(column))
        for column, kind in COLUMNS[table].items()
        if op is not Op.DELETE or column in values
    }
    return Change(*place, tuple([row[column] for column in KEYS[table]]), row, index)


_JSON_CLASSES: dict[str, tuple[type, ...]] = {
    "numeric": (int, str, Decimal), "bigint": (int, str), "integer": (int, str), "smallint": (int, str),
    "text": (str,), "bool": (bool,), "timestamp": (str,), "json": (list, dict, str, int, Decimal, bool),
}  # fmt: skip


def _value(kind: str, value: Any) -> Any:
    plain = kind.removesuffix(" not null")
    if value is None and plain == kind:
        return None
    class_: type = type(value)
    if class_ not in _JSON_CLASSES[plain]:
        raise TypeError(f"{value!r} is no {kind}")
    if plain == "numeric":
        # Decimal notation whatever the notation of the number; never through float, which keeps 16 digits.
        return str(value) if class_ is int else format(Decimal(value), "f")
    return int(value) if plain in ("bigint", "integer", "smallint") else value
