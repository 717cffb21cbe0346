"""The auditor's numbers: of this process, and nothing but that it is off where nothing is attested."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from indexer.attest.gauges import OFF, Gauges
from indexer.ops.families import counted, family, one


def attested(gauges: Gauges) -> Iterable[Metric]:
    works = gauges.state != OFF
    yield family("attesting", one(int(works)))
    yield family("attested_newest_block", counted(gauges.newest) if works else ())
    yield family("attested_blocks", counted(gauges.blocks))
    yield family("attest_requests", one(gauges.requests if works else None))
    yield family("attest_healed", one(gauges.healed if works else None))
    yield family("attest_unprovable", one(gauges.unprovable if works else None))
    yield family("attest_faults", counted(gauges.blamed))
