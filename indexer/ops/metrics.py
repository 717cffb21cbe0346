"""The process's numbers in Prometheus' text format: from Progress and Pool at each scrape, and from the last status."""

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
from indexer.runtime.progress import ATTEST_OFF, STARTING, AttestProgress, DaemonProgress, Histogram, wait_name

STATES = (STARTING, *(mode.value for mode in Mode))


class _Signals(Collector):
    def __init__(self, live: LiveStatus) -> None:
        self.live = live

    def collect(self) -> Iterator[Metric]:
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
        yield family("lag_seconds", unlabelled(p.lag_seconds))
        grades = {grade: of["up_to"] for grade, of in (stored.get("attested") or {}).items() if of["up_to"] is not None}
        yield family("attested_block", by_label(grades))
        behind = {grade: max(0, p.finalized - at) for grade, at in grades.items() if p.finalized >= 0}
        yield family("attested_lag_blocks", by_label(behind))
        yield from attested(p.attest)
        uncovered: Counter[str] = Counter()
        for contract in stored.get("coverage", ()):
            uncovered[contract["contract"]] += sum(last - first + 1 for first, last in contract["gaps"])
        yield family("uncovered_blocks", by_label(uncovered))
        yield family("head_age_seconds", unlabelled(max(0.0, time.time() - p.head_time) if p.head_time else None))
        yield family("look_age_seconds", unlabelled(p.clock() - p.looked_at if p.looked_at else None))
        yield family("step_age_seconds", unlabelled(p.clock() - p.last_step_at if p.last_step_at else None))

    def _doing(self) -> Iterator[Metric]:
        p, read_at = self.live.progress, self.live.read_at
        yield family("info", [((__version__, self.live.deployment.name), 1)])
        yield family("ready", unlabelled(not p.not_ready()))
        yield family("state", [((state,), int(p.mode == state)) for state in STATES])
        yield family("lease_held", unlabelled(p.holder))
        waiting = [((wait_name(p.waiting),), p.clock() - p.waiting_since)] if p.waiting else []
        yield family("waiting_seconds", waiting)
        yield family("waits", by_label(p.waits))
        yield family("waited_seconds", by_label(p.waited))
        yield family("errors", by_label(p.errors))
        yield from found_stuck(p)
        yield family("status_age_seconds", unlabelled(None if read_at is None else time.monotonic() - read_at))

    def _work(self) -> Iterator[Metric]:
        p = self.live.progress
        yield family("steps", by_label(p.steps))
        yield histogram("step_blocks", [((kind,), spread) for kind, spread in sorted(p.step_blocks.items())])
        yield histogram("commit_seconds", [((kind,), spread) for kind, spread in sorted(p.commit_seconds.items())])
        yield family("logs", unlabelled(p.logs))
        yield family("events", unlabelled(p.events))
        yield family("rows", by_label(p.rows))
        yield family("reorgs", unlabelled(p.reorgs))
        yield histogram("reorg_depth_blocks", [((), p.reorg_depth)])
        yield family("head_regressions", unlabelled(p.regressions))
        yield family("before_images", unlabelled(p.before_images))

    def _endpoints(self) -> Iterator[Metric]:
        told = endpoints(self.live.pool)

        def each(key: str) -> list[Sample]:
            return [((one["endpoint"],), one[key]) for one in told]

        yield family("rpc_requests", each("requests"))
        yield family(
            "rpc_calls",
            [
                ((one["endpoint"], method, outcome), count)
                for one in told
                for method, outcomes in sorted(one["calls"].items())
                for outcome, count in sorted(outcomes.items())
            ],
        )
        yield family("endpoint_range_blocks", each("range_blocks"))
        yield family("endpoint_current", each("current"))
        yield from endpoint_scores(self.live.pool)
        yield from budgets(self.live.pool)

    def _alarms(self) -> Iterator[Metric]:
        stored = self.live.stored
        yield family("incidents_open", by_label(stored.get("incidents_open", {})))
        yield family("undecoded_logs", by_label(stored.get("undecoded_logs", {})))
        counts: Counter[str] = Counter()
        times: dict[str, int] = {}
        for upgrade in stored.get("upgrades", ()):  # the newest first
            counts[upgrade["contract"]] += upgrade["count"]
            times.setdefault(upgrade["contract"], upgrade["block_time"])
        yield family("proxy_upgrades", by_label(counts))
        yield family("proxy_upgraded_timestamp_seconds", by_label(times))


def registry(live: LiveStatus) -> CollectorRegistry:
    """A registry of this process's metrics only."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Signals(live))
    ProcessCollector(registry=collected)
    return collected


def render(collected: CollectorRegistry) -> bytes:
    return generate_latest(collected)


Sample = tuple[tuple[str, ...], float]  # values of the labels, in the catalogue's order


def family(name: str, samples: Iterable[Sample]) -> Metric:
    told = CATALOG[name]
    make = CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily
    made = make(PREFIX + name, told.help, labels=told.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


def histogram(name: str, spreads: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    told = CATALOG[name]
    made = HistogramMetricFamily(PREFIX + name, told.help, labels=told.labels)
    for labels, spread in spreads:
        made.add_metric(labels, spread.buckets(), spread.total)
    return made


def unlabelled(value: float | None) -> list[Sample]:
    """Without labels; nothing where it is not known."""
    return [] if value is None else [((), value)]


def by_label(counter: Mapping[str, float]) -> list[Sample]:
    """By one label."""
    return [((key,), value) for key, value in sorted(counter.items())]


def attested(gauges: AttestProgress) -> Iterable[Metric]:
    works = gauges.state != ATTEST_OFF
    yield family("attesting", unlabelled(int(works)))
    yield family("attested_newest_block", by_label(gauges.newest) if works else ())
    yield family("attested_blocks", by_label(gauges.blocks))
    yield family("attest_requests", unlabelled(gauges.requests if works else None))
    yield family("attest_healed", unlabelled(gauges.healed if works else None))
    yield family("attest_unprovable", unlabelled(gauges.unprovable if works else None))
    yield family("attest_faults", by_label(gauges.blamed))


COUNTS = ("disagreements", "omissions", "limited", "failures", "set_aside")


def endpoint_scores(pool: Pool) -> Iterable[Metric]:
    """Label `endpoint` is its URL without secrets."""
    scores, now = {reader.name: reader.endpoint.health for reader in pool.readers}, pool.clock()
    held = {name: s.aside for name, s in scores.items() if s.aside is not None and now < s.aside.until}
    heads = {name: s.head.number for name, s in scores.items() if s.head is not None}
    best = max(heads.values(), default=0)
    latencies = {name: s.latency for name, s in scores.items() if s.latency is not None}
    asides: list[Sample] = [((name, aside.reason), aside.until - now) for name, aside in sorted(held.items())]
    yield family("endpoint_well", by_label({name: int(name not in held) for name in scores}))
    yield family("endpoint_aside_seconds", asides)
    yield family("endpoint_head", by_label(heads))
    # One that answers no more lags ever further.
    yield family("endpoint_lag_blocks", by_label({name: best - head for name, head in heads.items()}))
    yield family("endpoint_error_rate", by_label({name: s.error_rate(now) for name, s in scores.items()}))
    yield family("endpoint_latency_seconds", by_label(latencies))
    failed: list[Sample] = [
        ((reader.name, name), count)
        for reader in pool.readers
        for name, count in sorted(reader.endpoint.failed_work.items())
    ]
    yield family("endpoint_failed_work", failed)
    for count in COUNTS:
        yield family(f"endpoint_{count}", by_label({name: s.counts[count] for name, s in scores.items()}))


def budgets(pool: Pool) -> Iterable[Metric]:
    spent, caps = pool.budgets.spent, pool.budgets.caps
    yield family("rpc_spent", [((purpose,), spent[purpose]) for purpose in PURPOSES])
    yield family("rpc_budget_waited_seconds", [((purpose,), pool.budgets.waited[purpose]) for purpose in caps])
    yield family("rpc_budget", [((purpose,), cap) for purpose, cap in caps.items()])


def found_stuck(progress: DaemonProgress) -> Iterable[Metric]:
    yield family("stuck", by_label(dict.fromkeys(progress.stuck, 1)))
    yield family("found_stuck", by_label(progress.found_stuck))
