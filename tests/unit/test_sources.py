"""The table of columns and sources against the tables and the projections."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from indexer.store.facts import kind
from indexer.store.tables import ENRICHED, VIEWS, public
from indexer.store.tables.finalized import split
from indexer.store.tables.public_reserved import RESERVED
from indexer.store.tables.sources import (
    APPLICATION_SOURCES,
    ENRICHED_SOURCES,
    POSITION,
    SOURCES,
    VIEW_SOURCES,
    Source,
)
from indexer.store.tables.view_columns import view_columns
from tests.oracle.recompute import recompute
from tests.simchain.chain import Tree
from tests.simchain.world import exchange

ROOT = Path(__file__).parents[2]


def test_every_table_and_view_is_told_of_once() -> None:
    by_kind: dict[str, set[str]] = {}
    for name in public.tables:
        by_kind.setdefault(kind(name), set()).add(name)
    assert set(SOURCES) == by_kind["append"] | by_kind["state"]
    assert set(APPLICATION_SOURCES) == by_kind["application"] and set(RESERVED) == by_kind["reserved"]
    assert set(ENRICHED_SOURCES) == set(ENRICHED) <= by_kind["application"] | by_kind["reserved"]
    assert set(VIEW_SOURCES) == {name for name in VIEWS if not split(name)[1]}


@pytest.mark.parametrize("name", [*SOURCES, *VIEW_SOURCES, *ENRICHED_SOURCES])
def test_the_columns_are_the_tables(name: str) -> None:
    table = view_columns().tables[name] if name in VIEW_SOURCES else public.tables[name]
    told = _named((SOURCES | VIEW_SOURCES | ENRICHED_SOURCES)[name])
    assert told - set(POSITION) <= set(table.columns.keys()) <= told


def test_no_column_is_told_twice() -> None:
    for name, source in (SOURCES | VIEW_SOURCES | ENRICHED_SOURCES).items():
        names = [column for line in source.lines for column in line.partition(": ")[0].split(", ")]
        assert len(names) == len(set(names)), name


def test_columns_that_nothing_feeds_are_null_and_all_others_have_values() -> None:
    tree = Tree()
    tip = exchange(tree).grow(tree.genesis.hash, 1_500, random.Random("sources"), 0.6)
    rows = recompute(tree.logs(tip.hash), ROOT / "config" / "devnet.toml")
    wrong = []
    for name, source in SOURCES.items():
        assert rows[name], name
        for column, origin in source.columns().items():
            if column in public.tables[name].columns:
                fed = any(row.get(column) is not None for row in rows[name])
                if fed is origin.startswith("- "):
                    wrong.append(f"{name}.{column}: {'has values' if fed else 'is always NULL'}, {origin}")
    assert not wrong, "\n".join(wrong)


def _named(source: Source) -> set[str]:
    return set(source.columns())
