"""Every scenario has its tests, and every test of the tables exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.scenarios import CORE, END_TO_END

TESTS = Path(__file__).parents[1]


def defined(module: str) -> set[str]:
    tree = ast.parse((TESTS / module).read_text())
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_scenario_names_tests_that_exist() -> None:
    assert [name.split()[0] for name in END_TO_END] == [f"S{n}" for n in range(1, 24)]
    for scenario, tests in END_TO_END.items():
        assert tests, scenario
        for test in tests:
            module, name = test.split("::")
            assert name in defined(module), f"{scenario}: {test}"


def test_each_scenario_is_tested_by_its_name() -> None:
    for number in range(1, 24):
        scenario = next(tests for name, tests in END_TO_END.items() if name.startswith(f"S{number} "))
        assert any(f"::test_s{number:02d}_" in test for test in scenario), number
    assert {test.split("::")[1] for test in CORE.values()} == {
        name for name in defined("scenarios/test_core.py") if re.fullmatch(r"test_s\d\d_core", name)
    }


def test_no_test_of_a_scenario_is_left_out_of_the_table() -> None:
    named = {test for tests in END_TO_END.values() for test in tests}
    for path in (TESTS / "scenarios").glob("test_*.py"):
        for name in defined(f"scenarios/{path.name}"):
            if re.match(r"test_s\d\d_(?!core$)", name):
                assert f"scenarios/{path.name}::{name}" in named, name
