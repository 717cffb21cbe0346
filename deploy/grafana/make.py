"""The Grafana dashboard, as code: python deploy/grafana/make.py > deploy/grafana/dashboard.json

Import the JSON in Grafana (10 or newer) and choose the Prometheus data source there. A test compares the file with
what this prints, and the metrics in it with those that the program has.
"""

from __future__ import annotations

import json
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = 'job="$job", instance=~"$instance"'
ROWS: list[tuple[str, list[tuple[Any, ...]]]] = [
    # title of a row, then panels: title, kind, unit, width of 24, [(query, legend)]
    ("Now", [
        ("Ready", "stat", "none", 4, [("min(reya_indexer_ready{OF})", "")]),
        ("Lag, blocks", "stat", "locale", 4, [('min(reya_indexer_lag_blocks{OF, tag="latest"})', "")]),
        ("Lag, time", "stat", "s", 4, [("min(reya_indexer_lag_seconds{OF})", "")]),
        ("Projectors", "stat", "none", 4, [("sum(reya_indexer_lease_held{OF})", "")]),
        ("Open incidents", "stat", "none", 4, [("max(sum by (instance) (reya_indexer_incidents_open{OF})) or vector(0)", "")]),
        ("Reorgs, 24 h", "stat", "none", 4, [("sum(increase(reya_indexer_reorgs_total{OF}[24h]))", "")]),
        ("State", "state-timeline", "none", 24, [("reya_indexer_state{OF} == 1", "{{instance}} {{state}}")]),
    ]),
    ("Where it stands", [
        ("Blocks", "timeseries", "locale", 12, [("max by (kind) (reya_indexer_block{OF})", "{{kind}}"),
            ("max by (grade) (reya_indexer_attested_block{OF})", "{{grade}}")]),
        ("Lag by tag", "timeseries", "locale", 12, [("min by (tag) (reya_indexer_lag_blocks{OF})", "{{tag}}"),
            ("min by (grade) (reya_indexer_attested_lag_blocks{OF})", "not {{grade}}"),
            ("min(reya_indexer_head_proof_lag_blocks{OF})", "proven head")]),
        ("Age of the head, of the last look, of the last commit", "timeseries", "s", 12, [
            ("reya_indexer_head_age_seconds{OF}", "{{instance}} head"),
            ("reya_indexer_look_age_seconds{OF}", "{{instance}} look"),
            ("reya_indexer_step_age_seconds{OF}", "{{instance}} commit")]),
        ("Blocks not ingested", "timeseries", "locale", 12, [("max by (contract) (reya_indexer_uncovered_blocks{OF})", "{{contract}}")]),
    ]),
    ("Work", [
        ("Logs and events a second", "timeseries", "cps", 8, [("sum(rate(reya_indexer_logs_total{OF}[$__rate_interval]))", "logs ingested"),
            ("sum(rate(reya_indexer_events_total{OF}[$__rate_interval]))", "logs projected")]),
        ("Rows a second by table", "timeseries", "cps", 8, [("topk(8, sum by (table) (rate(reya_indexer_rows_total{OF}[$__rate_interval])))", "{{table}}")]),
        ("Commits a second", "timeseries", "cps", 8, [("sum by (kind) (rate(reya_indexer_steps_total{OF}[$__rate_interval]))", "{{kind}}")]),
        ("Commit time, median and 99 of 100", "timeseries", "s", 12, [
            ("histogram_quantile(0.5, sum by (le, kind) (rate(reya_indexer_commit_seconds_bucket{OF}[$__rate_interval])))", "{{kind}} median"),
            ("histogram_quantile(0.99, sum by (le, kind) (rate(reya_indexer_commit_seconds_bucket{OF}[$__rate_interval])))", "{{kind}} p99")]),
        ("Blocks of a commit, mean", "timeseries", "locale", 12, [
            ("sum by (kind) (rate(reya_indexer_step_blocks_sum{OF}[$__rate_interval])) / sum by (kind) (rate(reya_indexer_step_blocks_count{OF}[$__rate_interval]))", "{{kind}}")]),
    ]),
    ("Endpoints", [
        ("Requests a second", "timeseries", "reqps", 8, [("sum by (endpoint) (rate(reya_indexer_rpc_requests_total{OF}[$__rate_interval]))", "{{endpoint}}")]),
        ("Calls a second by method", "timeseries", "reqps", 8, [("sum by (method) (rate(reya_indexer_rpc_calls_total{OF}[$__rate_interval]))", "{{method}}")]),
        ("Calls that failed, a second", "timeseries", "reqps", 8, [
            ('sum by (endpoint, outcome) (rate(reya_indexer_rpc_calls_total{OF, outcome!="ok"}[$__rate_interval]))', "{{endpoint}} {{outcome}}")]),
        ("Blocks of a request for logs", "timeseries", "locale", 8, [("reya_indexer_endpoint_range_blocks{OF}", "{{endpoint}}")]),
        ("In use", "state-timeline", "none", 8, [("reya_indexer_endpoint_current{OF}", "{{instance}} {{endpoint}}")]),
        ("Set aside for", "timeseries", "s", 8, [("reya_indexer_endpoint_aside_seconds{OF}", "{{endpoint}}: {{reason}}")]),
    ]),
    ("Reorgs", [
        ("Reorgs an hour", "timeseries", "none", 8, [("sum(increase(reya_indexer_reorgs_total{OF}[1h]))", "reorgs"),
            ("sum(increase(reya_indexer_head_regressions_total{OF}[1h]))", "heads that went back")]),
        ("Depth, largest range reached in the hour", "timeseries", "locale", 8, [
            ("histogram_quantile(1, sum by (le) (increase(reya_indexer_reorg_depth_blocks_bucket{OF}[1h])))", "blocks")]),
        ("Before-images", "timeseries", "locale", 8, [("max(reya_indexer_before_images{OF})", "rows")]),
    ]),
    ("Trouble", [
        ("Waits", "timeseries", "s", 12, [("reya_indexer_waiting_seconds{OF}", "{{instance}} {{name}}"),
            ("sum by (name) (rate(reya_indexer_waited_seconds_total{OF}[$__rate_interval]))", "share of time: {{name}}")]),
        ("Waits begun an hour, errors waited out an hour", "timeseries", "none", 12, [
            ("sum by (name) (increase(reya_indexer_waits_total{OF}[1h]))", "{{name}}"),
            ("sum by (class) (increase(reya_indexer_errors_total{OF}[1h]))", "{{class}}")]),
        ("Open incidents", "timeseries", "none", 8, [("max by (kind) (reya_indexer_incidents_open{OF})", "{{kind}}")]),
        ("Logs that no ABI reads", "timeseries", "locale", 8, [("max by (reason) (reya_indexer_undecoded_logs{OF})", "{{reason}}")]),
        ("Upgrades of watched proxies: last one", "table", "dateTimeAsIso", 8, [("max by (contract) (reya_indexer_proxy_upgraded_timestamp_seconds{OF}) * 1000", "")]),
    ]),
    ("The process", [
        ("Memory", "timeseries", "bytes", 8, [("process_resident_memory_bytes{OF}", "{{instance}}")]),
        ("CPU", "timeseries", "percentunit", 8, [("rate(process_cpu_seconds_total{OF}[$__rate_interval])", "{{instance}}")]),
        ("File descriptors", "timeseries", "none", 8, [("process_open_fds{OF}", "{{instance}}")]),
    ]),
]  # fmt: skip


def panel(number: int, place: dict[str, int], described: tuple[Any, ...]) -> dict[str, Any]:
    title, kind, unit, _, queries = described
    made: dict[str, Any] = {
        "id": number,
        "title": title,
        "type": kind,
        "gridPos": place,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": query.replace("OF", OF),
                "legendFormat": legend,
                "instant": kind == "table",
                "format": "table" if kind == "table" else "time_series",
            }
            for i, (query, legend) in enumerate(queries)
        ],
    }
    if kind == "timeseries":
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return made


def variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "multi": several, "includeAll": several,
        **({"current": {"text": "All", "value": "$__all"}} if several else {}),
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    x = y = 0
    for title, described in ROWS:
        y += 8 if x else 0
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "title": title, "type": "row", "gridPos": place, "collapsed": False, "panels": []}
        )
        x, y = 0, y + 1
        for one in described:
            height = 4 if one[1] == "stat" else 8
            if x + one[3] > 24:
                x, y = 0, y + panels[-1]["gridPos"]["h"]
            panels.append(panel(len(panels) + 1, {"x": x, "y": y, "w": one[3], "h": height}, one))
            x += one[3]
    return {
        "uid": "reya-indexer", "title": "reya-indexer", "tags": ["reya-indexer"], "schemaVersion": 39, "version": 1,
        "editable": True, "timezone": "utc", "refresh": "15s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            variable("job", "job", "label_values(reya_indexer_info, job)", several=False),
            variable("instance", "process", 'label_values(reya_indexer_info{job="$job"}, instance)', several=True),
        ]},
        "annotations": {"list": []}, "links": [], "panels": panels,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
