"""Which rows are written at all: a plain second opinion on every kind of column, at its limits and beyond."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.projections.fit import Lines, Misfit

BITS = {"smallint": 16, "integer": 32, "bigint": 64}
KINDS = (*BITS, "numeric", "text", "bool", "timestamp", "json")
COLUMNS = {f"{kind}{rest}": f"{kind}{rest}" for kind in KINDS for rest in ("", " not null")}

edges = [10**78, *(1 << n for n in (15, 31, 63, 255, 256))]
anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.sampled_from([sign * edge + d for edge in edges for sign in (1, -1) for d in (-1, 0, 1)]),
    st.booleans(),
    st.sampled_from(["", "plain", "\0", "a\tb", "\\", "\u0085"]),
    st.just(datetime(2026, 1, 2)),
    st.just([1, {"a": 2}]),
    st.just(b"bytes"),
    st.just(1.5),
)


def fits(kind: str, value: Any) -> bool:
    if value is None:
        return not kind.endswith("not null")
    plain = kind.removesuffix(" not null")
    if plain in BITS:
        return type(value) is int and -(2 ** (BITS[plain] - 1)) <= value < 2 ** (BITS[plain] - 1)
    if plain == "numeric":
        return type(value) is int and len(str(abs(value))) <= 78
    if plain == "text":
        return type(value) is str and "\0" not in value
    return type(value) is {"bool": bool, "timestamp": datetime, "json": list}[plain]


@given(st.permutations(list(COLUMNS)), st.integers(0, len(COLUMNS)), st.data())
def test_a_row_is_written_or_its_first_misfit_named(order: list[str], present: int, data: st.DataObject) -> None:
    row = {column: data.draw(anything) for column in order[:present]}
    misfits = [column for column, kind in COLUMNS.items() if not fits(kind, row.get(column))]
    lines = Lines(COLUMNS)
    if misfits:
        with pytest.raises(Misfit) as misfit:
            lines.line(tuple(row), tuple(row.values()))
        assert misfit.value.column == misfits[0]
    else:
        line = lines.line(tuple(row), tuple(row.values()))
        fields = line.removesuffix("\n").split("\t")
        assert [f == "\\N" for f in fields] == [row.get(column) is None for column in COLUMNS]


def test_a_column_that_the_table_does_not_have_is_an_error_of_ours() -> None:
    with pytest.raises(KeyError):
        Lines({"a": "numeric"}).line(("b",), (1,))
