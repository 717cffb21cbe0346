"""The process's numbers in Prometheus' text format: from Progress and Pool at each scrape, and from the last status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer import __version__
from indexer.follow.machine import Mode
from indexer.follow.progress import STARTING, wait_name
from indexer.follow.spread import Spread
from indexer.ops.catalogue import CATALOGUE, PREFIX
from indexer.ops.live import Live, endpoints

STATES = (STARTING, *(mode.value for mode in Mode))
Sample = tuple[tuple[str, ...], float]


def _family(name: str, samples: Iterable[Sample]) -> Metric:
    """A metric of the catalogue, with its values by labels."""
    told = CATALOGUE[name]
    make = CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily
    family = make(PREFIX + name, told.says, labels=told.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _histogram(name: str, spreads: Iterable[tuple[tuple[str, ...], Spread]]) -> Metric:
    told = CATALOGUE[name]
    family = HistogramMetricFamily(PREFIX + name, told.says, labels=told.labels)
    for labels, spread in spreads:
        family.add_metric(labels, spread.buckets(), spread.total)
    return family


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), value)]


def _counted(counter: Mapping[str, float]) -> list[Sample]:
    return [((key,), value) for key, value in sorted(counter.items())]


class _Signals(Collector):
    def __init__(self, live: Live) -> None:
        self.live = live

    def collect(self) -> Iterator[Metric]:
        yield from self._standing()
        yield from self._doing()
        yield from self._work()
        yield from self._endpoints()
        yield from self._alarms()

    def _standing(self) -> Iterator[Metric]:
        p, stored = self.live.progress, self.live.stored
        blocks = {k: getattr(p, k) for k in ("head", "safe", "finalized", "ingested", "projected")}
        known: dict[str, int] = {kind: number for kind, number in blocks.items() if number >= 0}
        if p.head >= 0:
            known["origin"] = p.origin
        yield _family("block", _counted(known))
        tags = {"latest": known.get("head"), "safe": known.get("safe"), "finalized": known.get("finalized")}
        lags = [((tag,), max(0, at - p.projected)) for tag, at in tags.items() if at is not None]
        yield _family("lag_blocks", lags)
        yield _family("lag_seconds", _one(p.lag_seconds))
        grades = {grade: of["up_to"] for grade, of in (stored.get("attested") or {}).items() if of["up_to"] is not None}
        yield _family("attested_block", _counted(grades))
        behind = {grade: max(0, p.finalized - at) for grade, at in grades.items() if p.finalized >= 0}
        yield _family("attested_lag_blocks", _counted(behind))
        uncovered: Counter[str] = Counter()
        for contract in stored.get("coverage", ()):
            uncovered[contract["contract"]] += sum(last - first + 1 for first, last in contract["gaps"])
        yield _family("uncovered_blocks", _counted(uncovered))
        yield _family("head_age_seconds", _one(max(0.0, time.time() - p.head_time) if p.head_time else None))
        yield _family("look_age_seconds", _one(None if p.looked_at is None else p.clock() - p.looked_at))
        yield _family("step_age_seconds", _one(None if p.last_step_at is None else p.clock() - p.last_step_at))

    def _doing(self) -> Iterator[Metric]:
        p, read_at = self.live.progress, self.live.read_at
        yield _family("info", [((__version__, self.live.deployment.name), 1)])
        yield _family("ready", _one(not p.not_ready()))
        yield _family("state", [((state,), int(p.mode == state)) for state in STATES])
        yield _family("lease_held", _one(p.holder))
        waiting = [((wait_name(p.waiting),), p.clock() - p.waiting_since)] if p.waiting else []
        yield _family("waiting_seconds", waiting)
        yield _family("waits", _counted(p.waits))
        yield _family("waited_seconds", _counted(p.waited))
        yield _family("errors", _counted(p.errors))
        yield _family("status_age_seconds", _one(None if read_at is None else time.monotonic() - read_at))

    def _work(self) -> Iterator[Metric]:
        p = self.live.progress
        yield _family("steps", _counted(p.steps))
        yield _histogram("step_blocks", [((kind,), spread) for kind, spread in sorted(p.step_blocks.items())])
        yield _histogram("commit_seconds", [((kind,), spread) for kind, spread in sorted(p.commit_seconds.items())])
        yield _family("logs", _one(p.logs))
        yield _family("events", _one(p.events))
        yield _family("rows", _counted(p.rows))
        yield _family("reorgs", _one(p.reorgs))
        yield _histogram("reorg_depth_blocks", [((), p.reorg_depth)])
        yield _family("head_regressions", _one(p.regressions))
        yield _family("before_images", _one(p.before_images))

    def _endpoints(self) -> Iterator[Metric]:
        told = endpoints(self.live.pool)

        def each(key: str) -> list[Sample]:
            return [((one["endpoint"],), one[key]) for one in told]

        yield _family("rpc_requests", each("requests"))
        yield _family(
            "rpc_calls",
            [
                ((one["endpoint"], method, outcome), count)
                for one in told
                for method, outcomes in sorted(one["calls"].items())
                for outcome, count in sorted(outcomes.items())
            ],
        )
        yield _family("endpoint_range_blocks", each("range_blocks"))
        yield _family("endpoint_aside_seconds", each("aside_seconds"))
        yield _family("endpoint_current", each("current"))

    def _alarms(self) -> Iterator[Metric]:
        stored = self.live.stored
        yield _family("incidents_open", _counted(stored.get("incidents_open", {})))
        yield _family("undecoded_logs", _counted(stored.get("undecoded_logs", {})))
        counts: Counter[str] = Counter()
        times: dict[str, int] = {}
        for upgrade in stored.get("upgrades", ()):  # the newest first
            counts[upgrade["contract"]] += upgrade["count"]
            times.setdefault(upgrade["contract"], upgrade["block_time"])
        yield _family("proxy_upgrades", _counted(counts))
        yield _family("proxy_upgraded_timestamp_seconds", _counted(times))


def registry(live: Live) -> CollectorRegistry:
    """A registry of this process's metrics only."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Signals(live))
    ProcessCollector(registry=collected)
    return collected


def render(collected: CollectorRegistry) -> bytes:
    return generate_latest(collected)
