"""The endpoints' numbers, the budgets and what is stuck, as Prometheus reads them; names without secrets."""

from __future__ import annotations

from indexer import config
from indexer.chain.types import Header
from indexer.errors import InconsistentResponseError
from indexer.ops import metrics
from indexer.ops.live_status import LiveStatus
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress


def test_each_endpoint_each_budget_and_what_is_stuck_is_a_sample() -> None:
    progress = DaemonProgress()
    pool = Pool(["https://a.example/v2/SECRET", "https://b.example"], 1729, budgets={"attest": 2})
    a, b = pool.readers
    pool.observe_head(b.name, Header(200, bytes(32), bytes(32), 1000))
    pool.observe_head(a.name, Header(100, bytes(32), bytes(32), 900))
    pool.set_aside(b.name, "left out log 1", "omitting")
    a.endpoint.health.answered(pool.clock(), 0.25)
    pool.failed(a, InconsistentResponseError("log 3 of block 100 names another block hash", a.name))
    pool.budgets.spent["attest"] = 7
    progress.stuck["poll"] = "http://a has not answered"
    progress.found_stuck["poll"] = 1
    text = metrics.render(metrics.registry(LiveStatus(config.load("devnet"), progress, pool))).decode()
    assert "SECRET" not in text
    for line in (
        'reya_indexer_endpoint_well{endpoint="https://a.example/…"} 0.0',
        'reya_indexer_endpoint_aside_seconds{endpoint="https://a.example/…",reason="lagging"}',
        'reya_indexer_endpoint_head{endpoint="https://b.example"} 200.0',
        'reya_indexer_endpoint_lag_blocks{endpoint="https://a.example/…"} 100.0',
        'reya_indexer_endpoint_latency_seconds{endpoint="https://a.example/…"} 0.25',
        'reya_indexer_endpoint_error_rate{endpoint="https://b.example"} 0.0',
        'reya_indexer_endpoint_omissions_total{endpoint="https://b.example"} 1.0',
        'reya_indexer_endpoint_disagreements_total{endpoint="https://b.example"} 0.0',
        'reya_indexer_endpoint_failed_work_total{class="Inconsistent",endpoint="https://a.example/…"} 1.0',
        'reya_indexer_rpc_spent_total{purpose="attest"} 7.0',
        'reya_indexer_rpc_budget{purpose="attest"} 2.0',
        'reya_indexer_rpc_budget_waited_seconds_total{purpose="attest"} 0.0',
        'reya_indexer_stuck{name="poll"} 1.0',
        'reya_indexer_found_stuck_total{name="poll"} 1.0',
        "reya_indexer_ready 0.0",
    ):
        assert line in text, line
    assert any("poll: http://a has not answered" in reason for reason in progress.reasons_not_ready())
