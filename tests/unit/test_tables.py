"""The description of the tables can be built anew, and importing its parts does nothing."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.schema import CreateTable

from indexer.schema.tables import metadata


def statements(described: MetaData) -> list[str]:
    return [str(CreateTable(table).compile(dialect=dialect())) for table in described.sorted_tables]  # type: ignore[no-untyped-call]


def test_tables_can_be_described_twice_with_the_same_result() -> None:
    for first, second in zip((metadata.public, metadata.internal), metadata.build(), strict=True):
        assert first is not second and len(first.tables) > 10
        assert statements(first) == statements(second)
        assert [t.info for t in first.sorted_tables] == [t.info for t in second.sorted_tables]
