"""What is decoded from the change log is what was written: both encodings, every kind of column, every character."""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.db.catalog import COLUMNS, KEYS
from indexer.errors import StoreDamagedError
from indexer.feed.changes import Change, ChangeRecord, Op, decode
from indexer.projections.row_encoder import RowEncoder
from indexer.runtime.exact_json import from_json, to_json

ENCODER = RowEncoder(COLUMNS)
LIMIT = 10**78 - 1
BITS = {"smallint": 16, "integer": 32, "bigint": 64}
# Every character but NUL and halves of surrogate pairs, and often the ones that have a meaning somewhere.
texts = st.text(
    st.one_of(
        st.sampled_from("\\\t\n\r\b\f\v|N\"',{}\x1f\x7f\x85\u2028\u2029\ufeff🦀"),
        st.characters(exclude_characters="\0", codec="utf-8"),
    )
) | st.sampled_from(["\\N", "\\\\N", "N", "", "\\", "\\.", "a\\", "null", "\\x00", "\\101"])
numerics = st.integers(-LIMIT, LIMIT) | st.sampled_from([LIMIT, -LIMIT, 0, -1, 2**53 + 1, 2**63, 10**77])
lists = st.recursive(
    st.none() | st.booleans() | texts | numerics, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)
)


def values(kind: str) -> st.SearchStrategy[Any]:
    plain = kind.removesuffix(" not null")
    bits = BITS.get(plain, 16)
    strategy: st.SearchStrategy[Any] = {
        "numeric": numerics,
        "text": texts,
        "bool": st.booleans(),
        "timestamp": st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1)),
        "json": st.lists(lists),
    }.get(plain, st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    return strategy if plain != kind else st.none() | strategy


def rows_of(table: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries({c: values(kind) for c, kind in COLUMNS[table].items()}), max_size=4)


tables_and_rows = st.sampled_from(sorted(COLUMNS)).flatmap(lambda table: st.tuples(st.just(table), rows_of(table)))


def expected(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind.startswith("numeric"):
        return str(value)
    return value.isoformat() if kind.startswith("timestamp") else value


def copy_record(table: str, rows: list[dict[str, Any]], op: Op = Op.UPDATE) -> ChangeRecord:
    layout = ENCODER.plain(table, tuple(COLUMNS[table]))
    encoded = [ENCODER.encode(layout, [row[column] for column in COLUMNS[table]]) for row in rows]
    return ChangeRecord(4, 2, op, "copy", table, len(rows), "".join(line for lines in encoded for line in lines or ()))


def json_record(table: str, rows: list[dict[str, Any]], op: Op = Op.UPDATE) -> ChangeRecord:
    return ChangeRecord(4, 2, op, "json", table, len(rows), to_json(rows))


@settings(max_examples=300)
@given(tables_and_rows, st.sampled_from([Op.INSERT, Op.UPDATE, Op.DELETE]))
def test_both_encodings_give_the_rows_that_were_written(case: tuple[str, list[dict[str, Any]]], op: Op) -> None:
    table, rows = case
    want = [{c: expected(COLUMNS[table][c], value) for c, value in row.items()} for row in rows]
    changes = decode(copy_record(table, rows, op))
    assert [change.row for change in changes] == want
    assert changes == decode(json_record(table, rows, op))
    for change in changes:
        assert (change.seq, change.ord, change.op, change.table) == (4, 2, op, table)
        assert change.key == tuple(change.row[column] for column in KEYS[table])
        assert not any(isinstance(value, float) for value in change.row.values())
        assert list(change.row) == list(COLUMNS[table])


def state_row(**changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        column: None if "not null" not in kind else 7 if kind.startswith(("numeric", *BITS)) else "x"
        for column, kind in COLUMNS["positions"].items()
    }
    return row | changed


def test_a_key_is_the_primary_key_in_its_order() -> None:
    (change,) = decode(copy_record("positions", [state_row(market_id=3, account_id=10**30)]))
    assert change.key_text == f"3|{10**30}"
    assert KEYS["positions"] == ("market_id", "account_id")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"), ('"1"', "1"), (str(LIMIT), str(LIMIT)), (f'"{-LIMIT}"', str(-LIMIT)), ("1e20", "1" + "0" * 20),
        ("1E+2", "100"), ('"12.50"', "12.50"), ("0.1", "0.1"), (f"{LIMIT}.5", f"{LIMIT}.5"),
    ],
)  # fmt: skip
def test_a_number_is_decimal_text_with_every_digit(text: str, value: str) -> None:
    body = json.dumps([{"collateral_pool_id": "@", "account_id": 5}]).replace('"@"', text)
    columns = COLUMNS["indexer.backstop_account"]
    assert columns["collateral_pool_id"].startswith("numeric")
    (change,) = decode(ChangeRecord(1, 0, Op.UPDATE, "json", "indexer.backstop_account", 1, body))
    assert change.row["collateral_pool_id"] == value


def test_numbers_inside_json_are_exact() -> None:
    assert from_json(f"[{10**200}, 0.1, 1e400]") == [10**200, Decimal("0.1"), Decimal("1e400")]
    assert [type(number) for number in from_json("[1, 0.5]")] == [int, Decimal]
    for text in ("[NaN]", "[Infinity]", "[1", ""):
        with pytest.raises(ValueError):
            from_json(text)


def test_a_delete_of_a_state_row_may_have_its_key_only_and_a_column_of_others_is_left_out() -> None:
    body = to_json([{"account_id": 5, "market_id": "2", "of_an_application": True}])
    (change,) = decode(ChangeRecord(1, 0, Op.DELETE, "json", "positions", 1, body))
    assert change == Change(1, 0, Op.DELETE, "positions", ("2", "5"), {"market_id": "2", "account_id": "5"})


def test_a_column_that_a_restored_row_lacks_is_null() -> None:
    """A before-image has the columns that a projection gave its row; the server restores the others as NULL."""
    body = to_json([{"account_id": 5, "market_id": 2}])
    (change,) = decode(ChangeRecord(1, 0, Op.UPDATE, "json", "positions", 1, body))
    assert change.row == dict.fromkeys(COLUMNS["positions"]) | {"market_id": "2", "account_id": "5"}


def test_a_void_is_one_change_without_a_row() -> None:
    assert decode(ChangeRecord(9, 0, 0, "copy", "", 0, "")) == [Change(9, 0, Op.VOID, "", (), {})]


def test_what_the_server_escapes_beyond_us_is_read_too() -> None:
    record = copy_record("indexer.feature_flag", [dict.fromkeys(COLUMNS["indexer.feature_flag"], True)
                         | {"address": "a", "feature": "@"}])  # fmt: skip
    (change,) = decode(record._replace(body=record.body.replace("@", r"\b\f\v\x")))
    assert change.row["feature"] == "\b\f\vx"


SOUND = copy_record("positions", [state_row(market_id=1), state_row(market_id=2)])


@pytest.mark.parametrize(
    "damage",
    [
        {"body": SOUND.body[:-20]},
        {"body": SOUND.body.replace("\t", "", 1)},
        {"body": SOUND.body + SOUND.body},
        {"body": SOUND.body + "\n"},
        {"body": ""},
        {"n": 3},
        {"op": 5},
        {"encoding": "binary"},
        {"table_name": "orders"},
        {"table_name": "no_such_table"},
        {"encoding": "json"},
        {"encoding": "json", "n": 1, "body": '[{"market_id": 1}]'},
        {"encoding": "json", "n": 1, "body": '[["market_id"]]'},
        {"encoding": "json", "n": 1, "op": -1, "body": '[{"market_id": 1}]'},
        {"encoding": "json", "n": 1, "op": -1, "body": '[{"market_id": null, "account_id": 2}]'},
        {"encoding": "json", "n": 1, "op": -1, "body": '[{"market_id": true, "account_id": 2}]'},
        {"encoding": "json", "n": 1, "op": -1, "body": '[{"market_id": "x", "account_id": 2}]'},
        {"encoding": "json", "n": 1, "op": -1, "body": '[["market_id"]]'},
        {"encoding": "json", "n": 1, "op": -1, "body": '[{"market_id": 1'},
    ],
)
def test_a_body_that_does_not_fit_is_refused_and_never_decoded_in_part(damage: dict[str, Any]) -> None:
    assert len(decode(SOUND)) == 2
    with pytest.raises(StoreDamagedError, match=re.escape("change 4-2 of ")):
        decode(SOUND._replace(**damage))
