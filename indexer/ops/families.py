"""Metrics of the catalogue with their values, as Prometheus' client takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from indexer.follow.spread import Spread
from indexer.ops.catalogue import CATALOGUE, PREFIX

Sample = tuple[tuple[str, ...], float]  # values of the labels, in the catalogue's order


def family(name: str, samples: Iterable[Sample]) -> Metric:
    told = CATALOGUE[name]
    make = CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily
    made = make(PREFIX + name, told.says, labels=told.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


def histogram(name: str, spreads: Iterable[tuple[tuple[str, ...], Spread]]) -> Metric:
    told = CATALOGUE[name]
    made = HistogramMetricFamily(PREFIX + name, told.says, labels=told.labels)
    for labels, spread in spreads:
        made.add_metric(labels, spread.buckets(), spread.total)
    return made


def one(value: float | None) -> list[Sample]:
    """Without labels; nothing where it is not known."""
    return [] if value is None else [((), value)]


def counted(counter: Mapping[str, float]) -> list[Sample]:
    """By one label."""
    return [((key,), value) for key, value in sorted(counter.items())]
