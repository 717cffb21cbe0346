"""The table of columns and sources against the tables and the projections."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from indexer.db.catalog import table_kind
from indexer.schema.tables.column_docs import APPLICATION_DOCS, COLUMN_DOCS, ENRICHED_DOCS, ORIGIN, VIEW_DOCS, ColumnDoc
from indexer.schema.tables.metadata import ENRICHED, public
from indexer.schema.tables.public_reserved import RESERVED
from indexer.schema.views.all_views import VIEWS, view_columns
from indexer.schema.views.finality_views import split
from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import Tree
from tests.support.simchain.world import exchange

ROOT = Path(__file__).parents[2]


def test_every_table_and_view_is_told_of_once() -> None:
    by_kind: dict[str, set[str]] = {}
    for name in public.tables:
        by_kind.setdefault(table_kind(name), set()).add(name)
    assert set(COLUMN_DOCS) == by_kind["append"] | by_kind["state"]
    assert set(APPLICATION_DOCS) == by_kind["application"] and set(RESERVED) == by_kind["reserved"]
    assert set(ENRICHED_DOCS) == set(ENRICHED) <= by_kind["application"] | by_kind["reserved"]
    assert set(VIEW_DOCS) == {name for name in VIEWS if not split(name)[1]}


@pytest.mark.parametrize("name", [*COLUMN_DOCS, *VIEW_DOCS, *ENRICHED_DOCS])
def test_the_columns_are_the_tables(name: str) -> None:
    table = view_columns().tables[name] if name in VIEW_DOCS else public.tables[name]
    told = _named((COLUMN_DOCS | VIEW_DOCS | ENRICHED_DOCS)[name])
    assert told - set(ORIGIN) <= set(table.columns.keys()) <= told


def test_no_column_is_told_twice() -> None:
    for name, source in (COLUMN_DOCS | VIEW_DOCS | ENRICHED_DOCS).items():
        names = [column for line in source.lines for column in line.partition(": ")[0].split(", ")]
        assert len(names) == len(set(names)), name


def test_columns_that_nothing_feeds_are_null_and_all_others_have_values() -> None:
    tree = Tree()
    tip = exchange(tree).grow(tree.genesis.hash, 1_500, random.Random("sources"), 0.6)
    rows = recompute(tree.logs(tip.hash), ROOT / "config" / "devnet.toml")
    wrong = []
    for name, source in COLUMN_DOCS.items():
        assert rows[name], name
        for column, origin in source.columns().items():
            if column in public.tables[name].columns:
                fed = any(row.get(column) is not None for row in rows[name])
                if fed is origin.startswith("- "):
                    wrong.append(f"{name}.{column}: {'has values' if fed else 'is always NULL'}, {origin}")
    assert not wrong, "\n".join(wrong)


def _named(source: ColumnDoc) -> set[str]:
    return set(source.columns())
