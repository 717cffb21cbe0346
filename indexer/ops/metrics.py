"""The process's numbers in Prometheus' text format, read from Progress at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.follow.progress import Progress
from indexer.ops.attested import attested
from indexer.ops.endpoint_metrics import Endpoints
from indexer.rpc.pool import Pool


class _Progress(Collector):
    def __init__(self, progress: Progress, pool: Pool) -> None:
        self.progress, self.pool = progress, pool

    def collect(self) -> Iterable[Metric]:
        p = self.progress
        blocks = GaugeMetricFamily("reya_indexer_block", "Block numbers by kind, -1 while unknown", labels=["kind"])
        for kind in ("head", "safe", "finalized", "ingested", "projected", "origin"):
            blocks.add_metric([kind], getattr(p, kind))
        yield blocks
        yield GaugeMetricFamily("reya_indexer_lag_blocks", "Head minus projected, in blocks", p.lag_blocks)
        yield GaugeMetricFamily("reya_indexer_lag_seconds", "Head minus projected, in seconds", p.lag_seconds)
        yield GaugeMetricFamily("reya_indexer_lease_held", "1 when this process is the projector", int(p.holder))
        yield GaugeMetricFamily("reya_indexer_ready", "1 when /ready answers 200", int(not p.not_ready()))
        state = GaugeMetricFamily("reya_indexer_state", "1 for what the process is doing", labels=["state"])
        state.add_metric([p.mode], 1)
        yield state
        yield GaugeMetricFamily(
            "reya_indexer_before_images", "Rows kept to take unfinalized blocks back", p.before_images
        )
        waiting = GaugeMetricFamily("reya_indexer_waiting_seconds", "How long the named wait lasts", labels=["name"])
        if p.waiting:
            waiting.add_metric([p.waiting.split(":")[0]], p.clock() - p.waiting_since)
        yield waiting
        yield from attested(p.attest)
        yield from self._counters()

    def _counters(self) -> Iterable[Metric]:
        p = self.progress
        for name, text, label, counter in (
            ("steps", "Committed steps", "kind", p.steps),
            ("rows", "Rows written", "table", p.rows),
            ("errors", "Errors that were waited out", "class", p.errors),
        ):
            family = CounterMetricFamily(f"reya_indexer_{name}", text, labels=[label])
            for key, value in sorted(counter.items()):
                family.add_metric([key], value)
            yield family
        yield CounterMetricFamily("reya_indexer_logs", "Raw logs ingested or projected", value=p.logs)
        yield CounterMetricFamily("reya_indexer_reorgs", "Rollbacks since the start", value=p.reorgs)
        yield CounterMetricFamily(
            "reya_indexer_head_regressions", "Looks at a head lower than the one before", value=p.regressions
        )
        yield CounterMetricFamily("reya_indexer_rpc_requests", "HTTP requests to endpoints", value=self.pool.requests)


def registry(progress: Progress, pool: Pool) -> CollectorRegistry:
    """A registry of this process's metrics only."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Progress(progress, pool))
    collected.register(Endpoints(progress, pool))
    return collected


def render(collected: CollectorRegistry) -> bytes:
    return generate_latest(collected)
