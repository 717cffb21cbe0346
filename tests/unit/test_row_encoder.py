"""Which rows are written at all: a plain second opinion on every kind of column, at its limits and beyond."""

from __future__ import annotations

import textwrap
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.projections import row_encoder
from indexer.projections.row_encoder import RowEncoder, RowLayout

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


def some_that_fit(kind: str) -> st.SearchStrategy[Any]:
    plain = kind.removesuffix(" not null")
    values: st.SearchStrategy[Any] = {
        "text": st.sampled_from(["", "plain", "a\tb", "\\", "\u0085"]),
        "bool": st.booleans(),
        "timestamp": st.just(datetime(2026, 1, 2)),
        "json": st.just([1, {"a": 2}]),
        "numeric": st.integers(1 - 10**78, 10**78 - 1),
    }.get(plain, st.integers(-(1 << BITS.get(plain, 1) - 1), (1 << BITS.get(plain, 1) - 1) - 1))
    return values if plain != kind else st.none() | values


@given(st.permutations(list(COLUMNS)), st.integers(0, len(COLUMNS)), st.data())
def test_a_row_is_written_or_its_first_misfit_named(order: list[str], present: int, data: st.DataObject) -> None:
    row = {column: data.draw(anything) for column in order[:present]}
    misfits = [column for column, kind in COLUMNS.items() if not fits(kind, row.get(column))]
    lines = RowEncoder({"t": COLUMNS})
    written = lines.encode(lines.plain("t", tuple(row)), tuple(row.values()))
    assert lines.first_misfit("t", row) == (misfits[0] if misfits else None)
    if misfits:
        assert written is None
    else:
        assert written is not None
        fields = written[0].removesuffix("\n").split("\t")
        assert [f == "\\N" for f in fields] == [row.get(column) is None for column in COLUMNS]


@given(st.data())
def test_rows_made_together_are_the_rows_made_one_by_one(data: st.DataObject) -> None:
    kinds = {"one": COLUMNS, "two": {f"{column} too": kind for column, kind in COLUMNS.items()}}
    shared = data.draw(st.sets(st.sampled_from(list(COLUMNS))))
    layout = RowLayout({
        "one": {column: column for column in COLUMNS},
        "two": {f"{column} too": column if column in shared else f"own {column}" for column in COLUMNS},
    })  # fmt: skip
    values = [data.draw(some_that_fit(COLUMNS[name.removeprefix("own ")])) for name in layout.names]
    if data.draw(st.booleans()):
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(anything)
    lines = RowEncoder(kinds)
    alone = [layout.row(table, values) for table in kinds]
    singly = [
        lines.encode(lines.plain(table, tuple(row)), tuple(row.values()))
        for table, row in zip(kinds, alone, strict=True)
    ]
    together = lines.encode(layout, values)
    assert together == (None if None in singly else tuple(line for one in singly if one for line in one))


def test_a_column_that_the_table_does_not_have_is_an_error_of_ours() -> None:
    lines = RowEncoder({"t": {"a": "numeric"}})
    with pytest.raises(KeyError):
        lines.encode(lines.plain("t", ("b",)), (1,))


def test_a_generated_encoder_is_the_one_that_the_docstring_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    generated: list[str] = []

    def source(*parts: Any) -> str:
        generated.append(original(*parts))
        return generated[-1]

    original = row_encoder._source
    monkeypatch.setattr(row_encoder, "_source", source)
    encoder = RowEncoder({"t": {"id": "text not null", "amount": "numeric not null", "sender": "text"}})
    layout = encoder.plain("t", ("id", "amount", "sender"))
    assert encoder.encode(layout, ("a\tb", 7, None)) == ("a\\tb\t7\t\\N\n",)
    shown = str(row_encoder.__doc__).partition("    def write(values):")
    assert textwrap.dedent(shown[1] + shown[2]).strip() == generated[0].replace(str(10**78), "10**78")


def test_the_functions_that_are_kept_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_encoder, "MAX_ENCODERS", 3)
    lines = RowEncoder({"t": {"a": "numeric"}})
    plain = lines.plain("t", ("a",))
    for value in (1, None, "x", 1.5, b"", True):
        lines.encode(plain, (value,))
        assert len(lines._writers) <= 3
    assert lines.encode(plain, (7,)) == ("7\n",)
