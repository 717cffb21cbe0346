"""The endpoints' numbers in Prometheus' text format, read from the pool at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.follow.progress import Progress
from indexer.rpc.pool import Pool
from indexer.rpc.purpose import PURPOSES
from indexer.rpc.score import Score

_COUNTS = {
    "disagreements": "Times an endpoint contradicted what is final or what others serve",
    "omissions": "Times an endpoint was found to leave logs out",
    "limited": "Requests that an endpoint refused for their rate",
    "failures": "Requests without a usable answer",
    "set_aside": "Times an endpoint was set aside",
}


class Endpoints(Collector):
    """Label `endpoint` is its URL without secrets."""

    def __init__(self, progress: Progress, pool: Pool) -> None:
        self.progress, self.pool = progress, pool

    def collect(self) -> Iterable[Metric]:
        scores = {reader.name: reader.endpoint.score for reader in self.pool.readers}
        yield from self._gauges(scores)
        for name, text in _COUNTS.items():
            family = CounterMetricFamily(f"reya_indexer_endpoint_{name}", text, labels=["endpoint"])
            for endpoint, score in scores.items():
                family.add_metric([endpoint], score.counts[name])
            yield family
        yield from self._budgets()
        yield from self._watchdog()

    def _gauges(self, scores: dict[str, Score]) -> Iterable[Metric]:
        now = self.pool.clock()
        well = GaugeMetricFamily("reya_indexer_endpoint_well", "1 unless it is set aside", labels=["endpoint"])
        aside = GaugeMetricFamily(
            "reya_indexer_endpoint_aside", "Seconds it will be asked last, by reason", labels=["endpoint", "reason"]
        )
        head = GaugeMetricFamily("reya_indexer_endpoint_head", "Newest block it showed", labels=["endpoint"])
        lag = GaugeMetricFamily(
            "reya_indexer_endpoint_lag_blocks", "Blocks behind the best of all", labels=["endpoint"]
        )
        errors = GaugeMetricFamily(
            "reya_indexer_endpoint_error_rate", "Share of requests that failed lately, 0 to 1", labels=["endpoint"]
        )
        latency = GaugeMetricFamily(
            "reya_indexer_endpoint_latency_seconds", "Time of an answer, smoothed", labels=["endpoint"]
        )
        best = max((score.head.number for score in scores.values() if score.head), default=0)
        for endpoint, score in scores.items():
            held = score.aside if score.aside and now < score.aside.until else None
            well.add_metric([endpoint], int(held is None))
            if held:
                aside.add_metric([endpoint, held.reason], held.until - now)
            if score.head:
                head.add_metric([endpoint], score.head.number)
                lag.add_metric([endpoint], best - score.head.number)  # one that answers no more lags ever further
            errors.add_metric([endpoint], score.error_rate(now))
            if score.latency is not None:
                latency.add_metric([endpoint], score.latency)
        yield from (well, aside, head, lag, errors, latency)

    def _budgets(self) -> Iterable[Metric]:
        budgets = self.pool.budgets
        spent = CounterMetricFamily("reya_indexer_rpc_spent", "HTTP requests by purpose", labels=["purpose"])
        waited = CounterMetricFamily(
            "reya_indexer_rpc_budget_waited_seconds", "Time requests waited for their budget", labels=["purpose"]
        )
        caps = GaugeMetricFamily(
            "reya_indexer_rpc_budget", "Most HTTP requests a second for a purpose", labels=["purpose"]
        )
        for purpose in PURPOSES:
            spent.add_metric([purpose], budgets.spent[purpose])
            if purpose in budgets.caps:
                waited.add_metric([purpose], budgets.waited[purpose])
                caps.add_metric([purpose], budgets.caps[purpose])
        yield from (spent, waited, caps)

    def _watchdog(self) -> Iterable[Metric]:
        stuck = GaugeMetricFamily("reya_indexer_stuck", "1 for what is stuck now", labels=["name"])
        for name in self.progress.stuck:
            stuck.add_metric([name], 1)
        found = CounterMetricFamily("reya_indexer_found_stuck", "Times something was found stuck", labels=["name"])
        for name, times in sorted(self.progress.found_stuck.items()):
            found.add_metric([name], times)
        yield from (stuck, found)
