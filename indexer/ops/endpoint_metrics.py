"""The endpoints' numbers, what requests were for, and what the watchdog found: read from the pool at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from indexer.follow.progress import Progress
from indexer.ops.families import Sample, counted, family
from indexer.rpc.pool import Pool
from indexer.rpc.purpose import PURPOSES

COUNTS = ("disagreements", "omissions", "limited", "failures", "set_aside")


def endpoint_scores(pool: Pool) -> Iterable[Metric]:
    """Label `endpoint` is its URL without secrets."""
    scores, now = {reader.name: reader.endpoint.score for reader in pool.readers}, pool.clock()
    held = {name: s.aside for name, s in scores.items() if s.aside is not None and now < s.aside.until}
    heads = {name: s.head.number for name, s in scores.items() if s.head is not None}
    best = max(heads.values(), default=0)
    latencies = {name: s.latency for name, s in scores.items() if s.latency is not None}
    asides: list[Sample] = [((name, aside.reason), aside.until - now) for name, aside in sorted(held.items())]
    yield family("endpoint_well", counted({name: int(name not in held) for name in scores}))
    yield family("endpoint_aside_seconds", asides)
    yield family("endpoint_head", counted(heads))
    # One that answers no more lags ever further.
    yield family("endpoint_lag_blocks", counted({name: best - head for name, head in heads.items()}))
    yield family("endpoint_error_rate", counted({name: s.error_rate(now) for name, s in scores.items()}))
    yield family("endpoint_latency_seconds", counted(latencies))
    failed: list[Sample] = [
        ((reader.name, name), count)
        for reader in pool.readers
        for name, count in sorted(reader.endpoint.failed_work.items())
    ]
    yield family("endpoint_failed_work", failed)
    for count in COUNTS:
        yield family(f"endpoint_{count}", counted({name: s.counts[count] for name, s in scores.items()}))


def budgets(pool: Pool) -> Iterable[Metric]:
    spent, caps = pool.budgets.spent, pool.budgets.caps
    yield family("rpc_spent", [((purpose,), spent[purpose]) for purpose in PURPOSES])
    yield family("rpc_budget_waited_seconds", [((purpose,), pool.budgets.waited[purpose]) for purpose in caps])
    yield family("rpc_budget", [((purpose,), cap) for purpose, cap in caps.items()])


def found_stuck(progress: Progress) -> Iterable[Metric]:
    yield family("stuck", counted(dict.fromkeys(progress.stuck, 1)))
    yield family("found_stuck", counted(progress.found_stuck))
