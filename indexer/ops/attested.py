"""The auditor's numbers in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from indexer.attest.gauges import OFF, Gauges


def attested(gauges: Gauges) -> Iterable[Metric]:
    """Of this process: nothing but that it is off where nothing is attested."""
    yield GaugeMetricFamily(
        "reya_indexer_attesting", "1 when this process attests, also while it stands by", int(gauges.state != OFF)
    )
    if gauges.state == OFF:
        return
    for name, text, numbers in (
        ("block", "Attested without a gap from the origin up to this block, by grade", gauges.up_to),
        ("newest_block", "End of the newest attested range, by grade", gauges.newest),
    ):
        family = GaugeMetricFamily(f"reya_indexer_attested_{name}", text, labels=["grade"])
        for grade, block in numbers.items():
            family.add_metric([grade], block)
        yield family
    blocks = CounterMetricFamily("reya_indexer_attested_blocks", "Blocks attested", labels=["grade"])
    for grade, count in sorted(gauges.blocks.items()):
        blocks.add_metric([grade], count)
    yield blocks
    yield CounterMetricFamily("reya_indexer_attest_requests", "HTTP requests to attest", value=gauges.requests)
    yield CounterMetricFamily("reya_indexer_attest_healed", "Ranges whose stored logs were healed", value=gauges.healed)
    yield CounterMetricFamily(
        "reya_indexer_attest_unprovable",
        "Blocks that were looked at and kept their grade",
        value=gauges.unprovable,
    )
    blamed = CounterMetricFamily("reya_indexer_attest_faults", "Logs an endpoint had wrong", labels=["endpoint"])
    for endpoint, count in sorted(gauges.blamed.items()):
        blamed.add_metric([endpoint], count)
    yield blamed
