"""Metrics in Prometheus' text format, from DaemonProgress and Pool at each scrape, and from the last status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer import __version__
from indexer.follow.state_machine import Mode
from indexer.ops.live_status import LiveStatus, endpoints
from indexer.ops.metric_catalog import CATALOG, PREFIX
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import PURPOSES
from indexer.runtime import shell
from indexer.runtime.progress import (
    ATTEST_OFF,
    STARTING,
    AttestProgress,
    DaemonProgress,
    HeadProofProgress,
    Histogram,
    wait_name,
)

STATES = (STARTING, *(mode.value for mode in Mode))


class _Signals(Collector):
    """Collects all metrics of the catalog, section by section."""

    def __init__(self, live: LiveStatus) -> None:
        self.live = live

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of one scrape."""
        yield from self._block_numbers()
        yield from self._doing()
        yield from self._work()
        yield from self._endpoints()
        yield from self._alarms()

    def _block_numbers(self) -> Iterator[Metric]:
        p, stored = self.live.progress, self.live.stored
        blocks = {k: getattr(p, k) for k in ("head", "safe", "finalized", "ingested", "projected")}
        known: dict[str, int] = {kind: number for kind, number in blocks.items() if number >= 0}
        if p.head >= 0:
            known["origin"] = p.origin
        yield family("block", by_label(known))
        tags = {"latest": known.get("head"), "safe": known.get("safe"), "finalized": known.get("finalized")}
        lags = [((tag,), max(0, at - p.projected)) for tag, at in tags.items() if at is not None]
        yield family("lag_blocks", lags)
        yield family("lag_seconds", unlabeled(p.lag_seconds))
        summaries = (stored.get("attested") or {}).items()
        grades = {grade: summary["up_to"] for grade, summary in summaries if summary["up_to"] is not None}
        yield family("attested_block", by_label(grades))
        behind = {grade: max(0, p.finalized - at) for grade, at in grades.items() if p.finalized >= 0}
        yield family("attested_lag_blocks", by_label(behind))
        yield from attested(p.attest)
        yield from head_proof(p.head_proof, p.head)
        uncovered: Counter[str] = Counter()
        for contract in stored.get("coverage", ()):
            uncovered[contract["contract"]] += sum(last - first + 1 for first, last in contract["gaps"])
        yield family("uncovered_blocks", by_label(uncovered))
        yield family("head_age_seconds", unlabeled(max(0.0, time.time() - p.head_time) if p.head_time else None))
        yield family("look_age_seconds", unlabeled(p.clock() - p.looked_at if p.looked_at else None))
        yield family("step_age_seconds", unlabeled(p.clock() - p.last_step_at if p.last_step_at else None))

    def _doing(self) -> Iterator[Metric]:
        p, read_at = self.live.progress, self.live.read_at
        yield family("info", [((__version__, self.live.deployment.name), 1)])
        yield family("ready", unlabeled(not p.reasons_not_ready()))
        yield family("state", [((state,), int(p.mode == state)) for state in STATES])
        yield family("lease_held", unlabeled(p.holder))
        waiting = [((wait_name(p.waiting),), p.clock() - p.waiting_since)] if p.waiting else []
        yield family("waiting_seconds", waiting)
        yield family("waits", by_label(p.waits))
        yield family("waited_seconds", by_label(p.waited))
        yield family("errors", by_label(p.errors))
        yield from found_stuck(p)
        yield family("status_age_seconds", unlabeled(None if read_at is None else time.monotonic() - read_at))
        yield family("log_lines_lost", unlabeled(shell.STDERR.lost))

    def _work(self) -> Iterator[Metric]:
        p = self.live.progress
        yield family("steps", by_label(p.steps))
        yield histogram("step_blocks", [((kind,), values) for kind, values in sorted(p.step_blocks.items())])
        yield histogram("commit_seconds", [((kind,), values) for kind, values in sorted(p.commit_seconds.items())])
        yield family("logs", unlabeled(p.logs))
        yield family("events", unlabeled(p.events))
        yield family("rows", by_label(p.rows))
        yield family("reorgs", unlabeled(p.reorgs))
        yield histogram("reorg_depth_blocks", [((), p.reorg_depth)])
        yield family("head_regressions", unlabeled(p.regressions))
        yield family("before_images", unlabeled(p.before_images))

    def _endpoints(self) -> Iterator[Metric]:
        described = endpoints(self.live.pool)

        def each(key: str) -> list[Sample]:
            return [((endpoint["endpoint"],), endpoint[key]) for endpoint in described]

        yield family("rpc_requests", each("requests"))
        yield family(
            "rpc_calls",
            [
                ((endpoint["endpoint"], method, outcome), count)
                for endpoint in described
                for method, outcomes in sorted(endpoint["calls"].items())
                for outcome, count in sorted(outcomes.items())
            ],
        )
        yield family("endpoint_range_blocks", each("range_blocks"))
        yield family("endpoint_current", each("current"))
        yield from endpoint_health(self.live.pool)
        yield from budgets(self.live.pool)

    def _alarms(self) -> Iterator[Metric]:
        stored = self.live.stored
        yield family("incidents_open", by_label(stored.get("incidents_open", {})))
        yield family("undecoded_logs", by_label(stored.get("undecoded_logs", {})))
        counts: Counter[str] = Counter()
        times: dict[str, int] = {}
        for upgrade in stored.get("upgrades", ()):  # Newest first, so that the first time per contract is kept.
            counts[upgrade["contract"]] += upgrade["count"]
            times.setdefault(upgrade["contract"], upgrade["block_time"])
        yield family("proxy_upgrades", by_label(counts))
        yield family("proxy_upgraded_timestamp_seconds", by_label(times))


def registry(live: LiveStatus) -> CollectorRegistry:
    """Return a registry with the metrics of this process only."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Signals(live))
    ProcessCollector(registry=collected)
    return collected


def render(collected: CollectorRegistry) -> bytes:
    """Render one scrape in Prometheus' text format."""
    return generate_latest(collected)


Sample = tuple[tuple[str, ...], float]  # Label values in the catalog's order, and the value.


def family(name: str, samples: Iterable[Sample]) -> Metric:
    """Return the gauge or counter `name` of the catalog with these samples."""
    spec = CATALOG[name]
    family_type = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    metric = family_type(PREFIX + name, spec.help, labels=spec.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric


def histogram(name: str, histograms: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    """Return the histogram `name` of the catalog, one for each set of label values."""
    spec = CATALOG[name]
    metric = HistogramMetricFamily(PREFIX + name, spec.help, labels=spec.labels)
    for labels, values in histograms:
        metric.add_metric(labels, values.buckets(), values.total)
    return metric


def unlabeled(value: float | None) -> list[Sample]:
    """Return one sample without labels; none if the value is unknown."""
    return [] if value is None else [((), value)]


def by_label(counter: Mapping[str, float]) -> list[Sample]:
    """Return one sample for each value of a single label, sorted."""
    return [((key,), value) for key, value in sorted(counter.items())]


def attested(progress: AttestProgress) -> Iterable[Metric]:
    """Yield the metrics of attestation; most are absent when this process does not attest."""
    attesting = progress.state != ATTEST_OFF
    yield family("attesting", unlabeled(int(attesting)))
    yield family("attested_newest_block", by_label(progress.newest) if attesting else ())
    yield family("attested_blocks", by_label(progress.blocks))
    yield family("attest_requests", unlabeled(progress.requests if attesting else None))
    yield family("attest_healed", unlabeled(progress.healed if attesting else None))
    yield family("attest_unprovable", unlabeled(progress.unprovable if attesting else None))
    yield family("attest_faults", by_label(progress.blamed))


def head_proof(progress: HeadProofProgress, head: int) -> Iterable[Metric]:
    """Yield the metrics of proofs at the head, absent when this process does not prove it. `head`: -1 if unknown."""
    proving, newest = progress.state != ATTEST_OFF, progress.newest
    yield family("head_proven_block", unlabeled(newest if newest >= 0 else None))
    yield family("head_proof_lag_blocks", unlabeled(max(0, head - newest) if min(head, newest) >= 0 else None))
    yield family("head_unproven_blocks", unlabeled(progress.unproven if proving else None))
    yield family("head_proven_blocks", unlabeled(progress.blocks if proving else None))
    yield family("head_proof_requests", unlabeled(progress.requests if proving else None))
    yield family("head_healed", unlabeled(progress.healed if proving else None))


COUNTS = ("disagreements", "omissions", "limited", "failures", "set_aside")


def endpoint_health(pool: Pool) -> Iterable[Metric]:
    """Yield the metrics of endpoint health. Their label `endpoint` is the URL without secrets."""
    healths, now = {reader.name: reader.endpoint.health for reader in pool.readers}, pool.clock()
    set_aside = {name: h.aside for name, h in healths.items() if h.aside is not None and now < h.aside.until}
    heads = {name: h.head.number for name, h in healths.items() if h.head is not None}
    best = max(heads.values(), default=0)
    latencies = {name: h.latency for name, h in healths.items() if h.latency is not None}
    asides: list[Sample] = [((name, aside.reason), aside.until - now) for name, aside in sorted(set_aside.items())]
    yield family("endpoint_well", by_label({name: int(name not in set_aside) for name in healths}))
    yield family("endpoint_aside_seconds", asides)
    yield family("endpoint_head", by_label(heads))
    # Computed now: the lag of an endpoint that no longer answers must keep growing.
    yield family("endpoint_lag_blocks", by_label({name: best - head for name, head in heads.items()}))
    yield family("endpoint_error_rate", by_label({name: h.error_rate(now) for name, h in healths.items()}))
    yield family("endpoint_latency_seconds", by_label(latencies))
    failed: list[Sample] = [
        ((reader.name, name), count)
        for reader in pool.readers
        for name, count in sorted(reader.endpoint.failed_work.items())
    ]
    yield family("endpoint_failed_work", failed)
    for count in COUNTS:
        yield family(f"endpoint_{count}", by_label({name: h.counts[count] for name, h in healths.items()}))


def budgets(pool: Pool) -> Iterable[Metric]:
    """Yield the metrics of request budgets by purpose."""
    spent, caps = pool.budgets.spent, pool.budgets.caps
    yield family("rpc_spent", [((purpose,), spent[purpose]) for purpose in PURPOSES])
    yield family("rpc_budget_waited_seconds", [((purpose,), pool.budgets.waited[purpose]) for purpose in caps])
    yield family("rpc_budget", [((purpose,), cap) for purpose, cap in caps.items()])


def found_stuck(progress: DaemonProgress) -> Iterable[Metric]:
    """Yield the metrics of the watchdog's findings."""
    yield family("stuck", by_label(dict.fromkeys(progress.stuck, 1)))
    yield family("found_stuck", by_label(progress.found_stuck))
