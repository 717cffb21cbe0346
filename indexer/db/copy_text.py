"""Rows in PostgreSQL's text COPY format, as `indexer.projections.row_encoder` writes them, read by SQL. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def rowset_sql(kinds: Mapping[str, str]) -> str:
    """What stands for these columns' rows in a FROM clause, as r, when the parameter $1 is their COPY text.

    COPY itself cannot replace rows. By way of a temporary table it would be four statements, no faster and a right more
    that the writing role needs; rows of JSON take the server half as long again.
    """
    fields = []
    for n, (column, kind) in enumerate(kinds.items(), 1):
        named = sql_type(kind)
        field = _unescaped(f"a[{n}]") if named in ("text", "jsonb") else f"a[{n}]"
        fields.append(f'{field}::{named} AS "{column}"')
    lines = r"SELECT string_to_array(l, E'\t', E'\\N') AS a FROM string_to_table($1, E'\n') l WHERE l <> ''"
    return f"(SELECT {', '.join(fields)} FROM ({lines} OFFSET 0) l) AS r"  # OFFSET: split once, not for each field


def sql_type(kind: str) -> str:
    """Of a column's kind, see `facts.COLUMNS`."""
    plain = kind.removesuffix(" not null")
    return {"json": "jsonb"}.get(plain, plain)


def _unescaped(field: str) -> str:
    """What COPY makes of a field. Escaped backslashes get a form that is none of the others before those are read."""
    text = rf"replace({field}, E'\\\\', E'\\B')"
    for code, character in (("t", r"\t"), ("n", r"\n"), ("r", r"\r"), ("B", r"\\")):
        text = rf"replace({text}, E'\\{code}', E'{character}')"
    return rf"CASE WHEN strpos({field}, E'\\') > 0 THEN {text} ELSE {field} END"
