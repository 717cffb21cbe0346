"""The number of the projections is raised whenever the same logs become other rows: databases are projected again."""

from __future__ import annotations

import json

import pytest

from indexer.config import load
from indexer.decode.registry import Registry
from indexer.projections.project import _MODULES
from indexer.projections.version import PROJECTIONS
from tests.support.projected import differing, digests, record, recorded, stored


def test_the_recorded_chain_becomes_the_rows_recorded_for_this_version() -> None:
    now, known = digests(), stored()
    changed = differing(known, now, PROJECTIONS)
    assert not changed, (
        f"the recorded chain becomes other rows than version {PROJECTIONS} of the projections made of it, in"
        f" {', '.join(changed)}. If that is meant: raise PROJECTIONS in"
        " indexer/projections/version.py, so that databases are projected again, and run"
        " `python -m tests.support.projected --record`"
    )


def test_the_recorded_chain_has_every_event_that_is_projected() -> None:
    sources, seen = Registry(load("devnet").contracts).by_address, set()
    for log in recorded():
        event = sources[log.address].events.get(log.topics[0]) if log.topics else None
        seen.add(event.name if event else None)
    wanted = {name for module in _MODULES for name in module.EVENTS}
    assert None in seen and wanted <= seen, wanted - seen


def test_what_is_recorded_of_a_version_is_never_overwritten() -> None:
    known = {"1": {"orders": "aa"}}
    assert record(known, {"orders": "aa"}, 1) == known
    assert record(known, {"orders": "bb"}, 2) == known | {"2": {"orders": "bb"}}
    for other in ({"orders": "bb"}, {}, {"orders": "aa", "positions": "cc"}):
        with pytest.raises(ValueError, match="raise PROJECTIONS"):
            record(known, other, 1)


def test_every_table_that_differs_is_named() -> None:
    known = {"1": {"a": "1", "b": "2", "c": "3"}}
    assert differing(known, {"a": "1", "b": "0", "d": "4"}, 1) == ["b", "c", "d"]
    assert differing(known, {"a": "1"}, 2) == ["a"]
    assert json.dumps(stored(), sort_keys=True)
