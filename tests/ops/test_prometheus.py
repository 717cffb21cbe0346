"""Alert rules, dashboard and /metrics, as Prometheus' own tool reads them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from indexer.ops import metrics
from tests.ops.conftest import program
from tests.support.waiting import PATIENCE
from tests.unit.test_signals import told

pytestmark = pytest.mark.ops
DEPLOY = Path(__file__).parents[2] / "deploy"


def promtool(*arguments: str, given: bytes = b"", code: int = 0) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], input=given, capture_output=True, timeout=PATIENCE, check=False
    )
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == code, text
    return text


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "rules", str(DEPLOY / "prometheus" / "alerts.yml"))
    promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_each_alert_fires_on_its_series_and_none_on_those_of_a_healthy_daemon(tmp_path: Path) -> None:
    promtool("test", "rules", str(DEPLOY / "prometheus" / "alerts.test.yml"))
    # The cases can fail: where no rule is ever true none fires, where each always is the healthy one fails.
    shutil.copy(DEPLOY / "prometheus" / "alerts.test.yml", tmp_path)
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    for expr in ("vector(1) > 2", "vector(1)"):
        for rule in rules["groups"][0]["rules"]:
            rule["expr"] = expr
            rule.pop("for", None)
        (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
        said = promtool("test", "rules", str(tmp_path / "alerts.test.yml"), code=1)
        if expr == "vector(1)":
            assert "count(ALERTS)" in said
        else:
            assert all(f"alertname: {rule['alert']}," in said for rule in rules["groups"][0]["rules"])


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    recorded = [
        {"record": f"query:{n}", "expr": query.replace("$__rate_interval", "5m")} for n, query in enumerate(queries)
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(tmp_path / "queries.yml"))


def test_the_scraped_page_has_no_fault_that_promtool_knows() -> None:
    text = metrics.render(metrics.registry(told()))
    assert promtool("check", "metrics", given=text) == ""
