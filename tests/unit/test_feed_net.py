"""The net change of a window and its marker, case by case."""

from __future__ import annotations

from datetime import datetime

import pytest

from indexer.feed.changes import Change, Op
from indexer.feed.commits import Commit, CommitKind
from indexer.feed.marker import marker_of
from indexer.feed.net import NetChange, net

INSERT, UPDATE, DELETE, VOID = Op.INSERT, Op.UPDATE, Op.DELETE, Op.VOID


def changes(*ops: Op, table: str = "t", key: int = 1) -> list[Change]:
    """Return changes of one row, in a commit each, with the number of the commit in the row."""
    return [Change(n, 0, op, "" if op is VOID else table, (key,), {"id": key, "n": n}) for n, op in enumerate(ops, 1)]


@pytest.mark.parametrize(
    ("ops", "void", "result"),
    [
        ([INSERT], False, INSERT),
        ([UPDATE], False, UPDATE),
        ([DELETE], False, DELETE),
        ([INSERT, UPDATE], False, INSERT),
        ([INSERT, DELETE], False, None),
        ([INSERT, UPDATE, DELETE], False, None),
        ([INSERT, DELETE, INSERT], False, INSERT),
        ([UPDATE, DELETE], False, DELETE),
        ([DELETE, INSERT], False, UPDATE),
        ([DELETE, INSERT, DELETE], False, DELETE),
        ([VOID], True, None),
        ([INSERT, VOID], True, None),
        ([VOID, UPDATE], True, INSERT),
        ([VOID, UPDATE, DELETE], True, None),
        ([UPDATE, VOID, INSERT, UPDATE], True, INSERT),
        ([VOID, INSERT, VOID], True, None),
    ],
)
def test_the_net_change_of_one_row(ops: list[Op], void: bool, result: Op | None) -> None:
    found = net(changes(*ops))
    assert found.void is void
    assert [change.op for change in found.changes] == ([result] if result is not None else [])
    for change in found.changes:
        assert change.seq == len(ops)
        assert change.op is DELETE or change.row == {"id": 1, "n": len(ops)}


@pytest.mark.parametrize("ops", [[INSERT, DELETE], [VOID, INSERT, DELETE], [INSERT, UPDATE, DELETE]])
def test_a_redelivery_leaves_no_delete_out(ops: list[Op]) -> None:
    assert [change.op for change in net(changes(*ops), redelivery=True).changes] == [DELETE]


def test_a_delete_has_the_row_that_a_consumer_knows() -> None:
    (delete,) = net(changes(DELETE, INSERT, DELETE)).changes
    assert (delete.seq, delete.row["n"]) == (3, 1)
    (delete,) = net(changes(UPDATE, DELETE)).changes
    assert delete.row["n"] == 2


def test_deletes_come_first_and_the_rest_in_the_order_of_the_last_changes() -> None:
    log = [
        Change(1, 0, UPDATE, "a", (1,), {}), Change(1, 0, UPDATE, "a", (2,), {}), Change(1, 1, UPDATE, "b", (1,), {}),
        Change(2, 0, DELETE, "b", (2,), {}), Change(2, 1, UPDATE, "a", (1,), {}), Change(3, 0, DELETE, "a", (9,), {}),
    ]  # fmt: skip
    names = [(change.table, change.key[0]) for change in net(log).changes]
    assert names == [("b", 2), ("a", 9), ("a", 2), ("b", 1), ("a", 1)]


def test_keys_of_two_tables_are_two_rows() -> None:
    assert len(net([*changes(INSERT), *changes(DELETE, table="u")]).changes) == 2


def commit(seq: int, kind: CommitKind, first: int, last: int, reorg: int | None = None) -> Commit:
    return Commit(seq, 5, kind, first, last, 1, datetime(2026, 1, seq), True, 107, bytes([seq]), reorg, 90, 95)


def test_a_marker_says_what_its_window_holds() -> None:
    window = [
        commit(3, "forward", 101, 105),
        commit(4, "rollback", 103, 105, reorg=8),
        commit(6, "forward", 103, 107),
    ]
    change = NetChange(False, changes(INSERT, table="b") + changes(INSERT, UPDATE, table="a"))
    assert marker_of(window, change, 2)._asdict() == {
        "seq": 6, "generation": 2, "epoch": 5, "kind": "rollback", "from_block": 101, "to_block": 107,
        "to_hash": b"\6", "safe": 95, "finalized": 90, "counts": {"a": 2, "b": 1}, "reorg": 8,
        "at": datetime(2026, 1, 6),
    }  # fmt: skip


def test_a_void_window_begins_a_generation() -> None:
    window = [commit(3, "forward", 101, 105), commit(4, "reproject", 10, 105), commit(5, "heal", 50, 60, reorg=9)]
    window[-1] = window[-1]._replace(checkpoint=None, checkpoint_hash=None)
    marker = marker_of(window, NetChange(True, []), 2)
    assert (marker.generation, marker.kind, marker.counts) == (3, "reproject", {})
    assert (marker.from_block, marker.to_block, marker.to_hash) == (10, None, None)
