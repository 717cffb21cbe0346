"""Rows to PostgreSQL's text COPY format. Pure. Text beats the binary format for numeric(78,0) columns.

One writer per table, generated from its columns and kinds: every row that is written passes through it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from indexer.chain.types import Header, Log

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"

# Kind -> what stands for a value v, which is not None, in its field. Printable text without a backslash stands for
# itself in COPY's text format, and that is nearly every text there is.
_FIELD = {
    "numeric": "v",
    "bigint": "v",
    "integer": "v",
    "smallint": "v",
    "text": "v if v.isprintable() and BACKSLASH not in v else escape(v)",
    "bool": "'t' if v else 'f'",
    "timestamp": "v.isoformat()",
    "json": "escape(to_json(v))",
}

Writer = Callable[[Iterable[Mapping[str, Any]]], bytes]


def writer_of(columns: Mapping[str, str]) -> Writer:
    """For a table's columns and kinds ("numeric", "text not null", ...): rows -> one line each, absent values NULL.

    A row must fit (`indexer.projections.fit`): a missing value of a NOT NULL column is a KeyError.
    """
    return _compiled(tuple(columns.items()))


@lru_cache(maxsize=1024)
def _compiled(columns: tuple[tuple[str, str], ...]) -> Writer:
    source = ["def line(row):", "    get = row.get"]
    for n, (column, kind) in enumerate(columns):
        plain = kind.removesuffix(" not null")
        if plain != kind:
            source += [f"    v = row[{column!r}]", f"    f{n} = {_FIELD[plain]}"]
        else:
            source += [f"    v = get({column!r})", f"    f{n} = NULL if v is None else {_FIELD[plain]}"]
    fields = "\\t".join(f"{{f{n}}}" for n in range(len(columns)))
    source += [f'    return f"{fields}\\n"', "def lines(rows):", "    return ''.join(map(line, rows)).encode()"]
    scope: dict[str, Any] = {"BACKSLASH": "\\", "NULL": _NULL, "escape": _escape, "to_json": to_json}
    exec("\n".join(source), scope)
    compiled: Writer = scope["lines"]
    return compiled


def log_lines(logs: Iterable[Log]) -> bytes:
    """Rows of indexer.raw_log: the columns of `Log` up to `data`."""
    return "".join(
        [
            f"{number}\t{index}\t\\\\x{address.hex()}\t\\\\x{transaction.hex()}\t{position}"
            f"\t\\\\x{b''.join(topics).hex()}\t\\\\x{data.hex()}\n"
            for number, index, address, transaction, position, topics, data, *_ in logs
        ]
    ).encode()


def block_lines(blocks: Iterable[Header]) -> bytes:
    """Rows of indexer.block: number, hash, parent hash (NULL when it is not known), timestamp."""
    return "".join([f"{n}\t{_bytea(h)}\t{_bytea(p) if p else _NULL}\t{t}\n" for n, h, p, t, *_ in blocks]).encode()


def _bytea(value: bytes) -> str:
    return f"\\\\x{value.hex()}"


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


def to_json(value: Any) -> str:
    """JSON with integers of any size in full: jsonb keeps them exact. Bytes are not expected."""
    return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")
