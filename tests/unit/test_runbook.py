"""The runbook knows everything that can turn red: alerts, incidents, states, waits, exit codes. Read from the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from indexer import errors
from indexer.cli.main import EXIT_CODES
from indexer.db.database_errors import database_wait_name
from indexer.errors import RangeTooLargeError, RateLimitedError, RpcCallError, TransientRpcError
from indexer.follow.state_machine import Mode
from indexer.ops.metric_catalog import CATALOG, PROCESS
from indexer.rpc.error_classifier import endpoint_wait_name
from indexer.runtime.progress import STARTING, wait_name

ROOT = Path(__file__).parents[2]
RUNBOOK_PATH = ROOT / "docs" / "runbook.md"
RUNBOOK = RUNBOOK_PATH.read_text()
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = ROOT / "deploy" / "prometheus" / "alerts.test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"


def entries(section: str) -> set[str]:
    """Headings of the third level under one of the second."""
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)
    return set(re.findall(r"^### (.+)$", body, re.M))


def alerts() -> dict[str, str]:
    """Expression by alert."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


Constant = ast.expr | None


def _words(node: Constant, module: ast.Module) -> list[str]:
    """The strings that an expression may be: constants, the fixed beginning of an f-string, both sides of a choice, and
    what a name stands for in its module. Empty when it cannot be told."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return [text]
        case ast.IfExp(body=first, orelse=second):
            return _words(first, module) + _words(second, module)
        case ast.Name(id=name):
            given = [
                n.value for n in ast.walk(module) if isinstance(n, ast.Assign) and name in map(ast.unparse, n.targets)
            ]
            return [word for value in given for word in _words(value, module)]
    return []


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).split(".")[-1]


def _sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "indexer").rglob("*.py")):
        yield path, ast.parse(path.read_text())


def incident_kinds() -> dict[str, Path]:
    """First arguments of `.incident(...)` and `Incident(...)`, and "kind" of dictionaries that have a "subject" too."""
    found: dict[str, Path] = {}
    for path, module in _sources():
        for node in ast.walk(module):
            kind: Constant = None
            if (
                isinstance(node, ast.Call)
                and node.args
                and ast.unparse(node.func).split(".")[-1] in ("incident", "Incident")
            ):
                kind = node.args[0]
            elif isinstance(node, ast.Dict):
                named = {k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
                kind = named["kind"] if {"kind", "subject", "detail"} <= set(named) else None
            if kind is None or (ast.unparse(kind) in ("kind", "one.kind") and not _words(kind, module)):
                continue  # handed on: whoever names it is found too
            words = _words(kind, module)
            assert words, f"{path}:{node.lineno}: which kind of incident? The runbook's test cannot tell"  # type: ignore[attr-defined]
            found |= dict.fromkeys(words, path)
    return found


def waits() -> dict[str, Path]:
    """First arguments of what names a wait: DaemonProgress.set_wait, Runner._wait_out, and the state machine's Wait."""
    found: dict[str, Path] = {}
    for path, module in _sources():
        for node in ast.walk(module):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if isinstance(node.args[0], ast.Name):  # handed on: whoever words it is found too
                continue
            if ast.unparse(node.func).endswith(("progress.set_wait", "p.set_wait")) or _called(node) in (
                "_wait_out",
                "Wait",
            ):
                # What is wrong with the database is worded by one function, behind the same words always.
                of_database = ast.unparse(node.args[0]) == "database_wait_name(error)"
                words = {wait_name(database_wait_name(OSError()))} if of_database else _words(node.args[0], module)
                found |= {wait_name(word).strip(): path for word in words if word}
    return found


def test_every_alert_has_an_entry_and_a_unit_test() -> None:
    assert entries("Alerts") == set(alerts())
    tests = yaml.safe_load(CASES.read_text())["tests"]
    fired = [case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]]
    assert sorted(fired) == sorted(alerts())
    assert len(tests) == len(fired) + 1  # and one in which none fires


def test_every_kind_of_incident_in_the_code_has_an_entry() -> None:
    kinds = incident_kinds()
    assert {"unknown_topic", "undecodable_log", "value_misfit", "before_images_grow"} <= set(kinds)
    missing = {kind: path.name for kind, path in kinds.items() if kind not in entries("Incidents")}
    assert not missing, f"docs/runbook.md, Incidents: {missing}"


def test_every_state_and_every_wait_has_an_entry() -> None:
    assert entries("States") == {STARTING, *(mode.value for mode in Mode)}
    named = waits()
    assert {"the database", "a replacement of blocks", "endpoints that agree with themselves"} <= set(named)
    for error in (TransientRpcError("x"), RateLimitedError("x"), RpcCallError("x"), RangeTooLargeError("x")):
        named[endpoint_wait_name(error)] = RUNBOOK_PATH
    missing = {wait: path.name for wait, path in named.items() if wait not in entries("Waits")}
    assert not missing, f"docs/runbook.md, Waits: {missing}"


def test_every_exit_code_has_an_entry() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.FatalError)]
    codes = {c.exit_code for c in classes} | {2, 30, 33}
    told = set(map(int, re.findall(r"^\| (\d+) \|", RUNBOOK, re.M)))
    assert codes <= told
    assert told <= set(map(int, re.findall(r"(?:^|\s)(\d+) [a-z]", EXIT_CODES)))


@pytest.mark.parametrize("path", [RULES, CASES, DASHBOARD], ids=lambda p: p.name)
def test_rules_and_dashboard_ask_for_metrics_that_exist(path: Path) -> None:
    exported = {f"{told.exported}{part}" for told in CATALOG.values()
                for part in (("_bucket", "_sum", "_count") if told.kind == "histogram" else ("",))}  # fmt: skip
    asked = set(re.findall(r"\b(?:reya_indexer|process)_[a-z_]+", path.read_text())) - {"reya_indexer"}
    assert asked and asked <= exported | set(PROCESS), asked - exported - set(PROCESS)
