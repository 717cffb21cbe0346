"""The process's numbers in Prometheus' text format: from Progress and Pool at each scrape, and from the last status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from indexer import __version__
from indexer.follow.machine import Mode
from indexer.follow.progress import STARTING, wait_name
from indexer.ops.attested import attested
from indexer.ops.endpoint_metrics import budgets, endpoint_scores, found_stuck
from indexer.ops.families import Sample, counted, family, histogram, one
from indexer.ops.live import Live, endpoints

STATES = (STARTING, *(mode.value for mode in Mode))


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
        yield family("block", counted(known))
        tags = {"latest": known.get("head"), "safe": known.get("safe"), "finalized": known.get("finalized")}
        lags = [((tag,), max(0, at - p.projected)) for tag, at in tags.items() if at is not None]
        yield family("lag_blocks", lags)
        yield family("lag_seconds", one(p.lag_seconds))
        grades = {grade: of["up_to"] for grade, of in (stored.get("attested") or {}).items() if of["up_to"] is not None}
        yield family("attested_block", counted(grades))
        behind = {grade: max(0, p.finalized - at) for grade, at in grades.items() if p.finalized >= 0}
        yield family("attested_lag_blocks", counted(behind))
        yield from attested(p.attest)
        uncovered: Counter[str] = Counter()
        for contract in stored.get("coverage", ()):
            uncovered[contract["contract"]] += sum(last - first + 1 for first, last in contract["gaps"])
        yield family("uncovered_blocks", counted(uncovered))
        yield family("head_age_seconds", one(max(0.0, time.time() - p.head_time) if p.head_time else None))
        yield family("look_age_seconds", one(p.clock() - p.looked_at if p.looked_at else None))
        yield family("step_age_seconds", one(p.clock() - p.last_step_at if p.last_step_at else None))

    def _doing(self) -> Iterator[Metric]:
        p, read_at = self.live.progress, self.live.read_at
        yield family("info", [((__version__, self.live.deployment.name), 1)])
        yield family("ready", one(not p.not_ready()))
        yield family("state", [((state,), int(p.mode == state)) for state in STATES])
        yield family("lease_held", one(p.holder))
        waiting = [((wait_name(p.waiting),), p.clock() - p.waiting_since)] if p.waiting else []
        yield family("waiting_seconds", waiting)
        yield family("waits", counted(p.waits))
        yield family("waited_seconds", counted(p.waited))
        yield family("errors", counted(p.errors))
        yield from found_stuck(p)
        yield family("status_age_seconds", one(None if read_at is None else time.monotonic() - read_at))

    def _work(self) -> Iterator[Metric]:
        p = self.live.progress
        yield family("steps", counted(p.steps))
        yield histogram("step_blocks", [((kind,), spread) for kind, spread in sorted(p.step_blocks.items())])
        yield histogram("commit_seconds", [((kind,), spread) for kind, spread in sorted(p.commit_seconds.items())])
        yield family("logs", one(p.logs))
        yield family("events", one(p.events))
        yield family("rows", counted(p.rows))
        yield family("reorgs", one(p.reorgs))
        yield histogram("reorg_depth_blocks", [((), p.reorg_depth)])
        yield family("head_regressions", one(p.regressions))
        yield family("before_images", one(p.before_images))

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
        yield family("incidents_open", counted(stored.get("incidents_open", {})))
        yield family("undecoded_logs", counted(stored.get("undecoded_logs", {})))
        counts: Counter[str] = Counter()
        times: dict[str, int] = {}
        for upgrade in stored.get("upgrades", ()):  # the newest first
            counts[upgrade["contract"]] += upgrade["count"]
            times.setdefault(upgrade["contract"], upgrade["block_time"])
        yield family("proxy_upgrades", counted(counts))
        yield family("proxy_upgraded_timestamp_seconds", counted(times))


def registry(live: Live) -> CollectorRegistry:
    """A registry of this process's metrics only."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Signals(live))
    ProcessCollector(registry=collected)
    return collected


def render(collected: CollectorRegistry) -> bytes:
    return generate_latest(collected)
