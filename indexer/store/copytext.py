"""Rows to PostgreSQL's text COPY format. Pure. Text beats the binary format for numeric(78,0) columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """One line per row, the columns in order; absent columns are NULL."""
    return "".join("\t".join(map(_field, map(row.get, columns))) + "\n" for row in rows).encode()


def copy_tuples(rows: Iterable[Iterable[Any]]) -> bytes:
    """The same for rows that are tuples in column order."""
    return "".join("\t".join(map(_field, row)) + "\n" for row in rows).encode()


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is str:
        return _escape(value)
    if kind is bytes:
        return f"\\\\x{value.hex()}"
    if kind is bool:
        return "t" if value else "f"
    if kind is datetime:
        return str(value.isoformat())
    raise TypeError(f"no COPY form for {kind.__name__}")


def to_json(value: Any) -> str:
    """JSON with integers of any size in full: jsonb keeps them exact. Bytes are not expected."""
    return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")
