"""Whether PostgreSQL takes a row (rule 13: a misfit is an incident, never a stall). Pure; one function per table,
generated, because every row that is written passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

NUMERIC_LIMIT = 10**78  # numeric(78,0)

# Kind -> whether the value v, which is not None, does not fit. A bool is no integer to PostgreSQL's COPY.
_MISFIT = {
    "numeric": f"v.__class__ is not int or not {-NUMERIC_LIMIT} < v < {NUMERIC_LIMIT}",
    "bigint": f"v.__class__ is not int or not {-(1 << 63)} <= v < {1 << 63}",
    "integer": f"v.__class__ is not int or not {-(1 << 31)} <= v < {1 << 31}",
    "smallint": f"v.__class__ is not int or not {-(1 << 15)} <= v < {1 << 15}",
    "text": "not isinstance(v, str) or '\\x00' in v",
    "bool": "v is not True and v is not False",
    "timestamp": "not isinstance(v, datetime)",
    "json": "not isinstance(v, list)",
}

Misfit = Callable[[Mapping[str, Any]], "str | None"]


def misfit_of(columns: Mapping[str, str]) -> Misfit:
    """For a table's columns and kinds ("numeric", "text not null", ...): row -> the first column that does not fit."""
    return _compiled(tuple(columns.items()))


@lru_cache(maxsize=1024)
def _compiled(columns: tuple[tuple[str, str], ...]) -> Misfit:
    lines = ["def misfit(row):", "    get = row.get"]
    for column, kind in columns:
        plain = kind.removesuffix(" not null")
        lines.append(f"    v = get({column!r})")
        missing = "v is None or " if plain != kind else "v is not None and "
        lines.append(f"    if {missing}({_MISFIT[plain]}): return {column!r}")
    lines.append("    return None")
    scope: dict[str, Any] = {"datetime": datetime}
    exec("\n".join(lines), scope)
    compiled: Misfit = scope["misfit"]
    return compiled
