"""The oracle is independent of the program, and would see a wrong row."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.oracle.compare import differences

ORACLE = Path(__file__).parents[1] / "oracle"


def test_the_oracle_imports_nothing_of_the_program() -> None:
    for path in ORACLE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "indexer" for name in names), path


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"id": "a", "amount": 1}, {"id": "b", "amount": 2}], []),
        ([{"id": "a", "amount": 1}], ["token_transfer ('b',): missing"]),
        ([{"id": "a", "amount": 1}] * 2 + [{"id": "b", "amount": 2}], ["token_transfer ('a',): there 2 times"]),
        ([{"id": "a", "amount": 3}, {"id": "b", "amount": 2}], ["token_transfer ('a',) amount: 3, should be 1"]),
        (
            [{"id": i, "amount": n, "memo": "x"} for i, n in (("a", 1), ("b", 2))],
            [f"token_transfer ('{i}',) memo: 'x', should be None" for i in "ab"],
        ),
        (
            [{"id": i, "amount": n} for i, n in (("a", 1), ("b", 2), ("c", 3))],
            ["token_transfer ('c',): not on the chain"],
        ),
    ],
)
def test_every_kind_of_difference_is_found(rows: list[dict[str, object]], found: list[str]) -> None:
    expected = {"token_transfer": [{"id": "a", "amount": 1}, {"id": "b", "amount": 2}]}
    assert differences(expected, {"token_transfer": rows}) == found
