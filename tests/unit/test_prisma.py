"""schema.prisma: the committed file is what the tables' description gives, and what Prisma cannot say is not said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import ARRAY, BigInteger, Column, Index, Interval, MetaData, Numeric, SmallInteger, Table, Text, desc
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.cli.main import cli
from indexer.runtime.resources import data_dir
from indexer.schema.prisma import RELATIONS, identifier, prisma_schema
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS

COMMITTED = data_dir("config") / "schema.prisma"


def test_the_committed_file_is_what_the_tables_give() -> None:
    assert COMMITTED.read_text() == prisma_schema(), "the tables' description changed: run make generate"


def test_every_table_and_view_is_there_once_and_in_order() -> None:
    text = prisma_schema()
    assert re.findall(r"^model (\w+)", text, re.M) == sorted(public.tables)
    assert re.findall(r"^view (\w+)", text, re.M) == sorted(VIEWS)
    assert text == prisma_schema()


def test_relations_lead_an_index_and_name_a_key_of_the_same_type() -> None:
    for relation in RELATIONS:
        table, target = public.tables[relation.table], public.tables[relation.target]
        (key,) = target.primary_key.columns
        column = table.columns[relation.column]
        assert str(column.type) == str(key.type), relation
        leading = {next(iter(table.primary_key.columns)).name} | {next(iter(i.columns)).name for i in table.indexes}
        assert relation.column in leading, f"{relation}: reading it from {relation.target} would scan {relation.table}"
        assert not list(table.foreign_keys)


def model(*parts: Column[Any] | Index, name: str = "t") -> str:
    metadata = MetaData()
    Table(name, metadata, *parts)
    text = prisma_schema(metadata, MetaData(), ())
    return text.partition(f"model {identifier(name)} {{\n")[2].partition("\n}")[0]


def test_types_names_and_keys() -> None:
    described = model(
        Column("Id", BigInteger, primary_key=True, autoincrement=False),
        Column("small", SmallInteger, primary_key=True),
        Column("2nd-name", Numeric(78, 0)),
        Column("any", Numeric, nullable=False),
        Column("tags", ARRAY(Text)),
        Column("doc", JSONB),
        Column("at", TIMESTAMP(timezone=True), nullable=False),
        Index("t_small_idx", "small"),
        name="my table",
    )
    assert described.splitlines() == [
        "  Id      BigInt",
        "  small   Int      @db.SmallInt",
        '  nd_name Decimal? @map("2nd-name") @db.Decimal(78, 0)',
        "  any     Decimal  @db.Decimal",
        "  tags    String[]",
        "  doc     Json?",
        "  at      DateTime @db.Timestamptz(6)",
        "",
        "  @@id([Id, small])",
        '  @@index([small], map: "t_small_idx")',
        '  @@map("my table")',
    ]


def test_indexes_that_prisma_would_misread_are_left_out() -> None:
    a, b = Column("a", Text), Column("b", Text)
    described = model(
        Column("id", BigInteger, primary_key=True), a, b,
        Index("t_b_key", "b", unique=True), Index("t_a_b_idx", a, desc(b)),
        Index("t_some_key", "a", unique=True, postgresql_where=b.is_not(None)),
        Index("t_lower_idx", a + b), Index("t_gin_idx", "a", postgresql_using="gin"),
    )  # fmt: skip
    assert described.splitlines()[-3:] == [
        "",
        '  @@unique([b], map: "t_b_key")',
        '  @@index([a, b(sort: Desc)], map: "t_a_b_idx")',
    ]
    assert "  id BigInt  @id @default(autoincrement())" in described


def test_what_prisma_cannot_read_is_refused_or_left_out() -> None:
    assert model(Column("id", Text)) == ""  # without a key
    with pytest.raises(TypeError, match="no Prisma type"):
        model(Column("id", Text, primary_key=True), Column("span", Interval))
    with pytest.raises(ValueError, match="two fields named a_b"):
        model(Column("a-b", Text, primary_key=True), Column("a b", Text))


def test_the_command_prints_writes_and_compares(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["db", "prisma", *arguments])
        return done.exit_code, done.output

    path = tmp_path / "schema.prisma"
    assert run() == (0, prisma_schema())
    assert run("--output", str(path))[0] == 0 and path.read_text() == prisma_schema()
    assert run("--check", str(path))[0] == 0
    path.write_text(prisma_schema().replace("  executed_base ", "  executed "))
    code, said = run("--check", str(path))
    assert code == 1 and "-  executed " in said and f"db prisma --output {path}" in said
    assert run("--check", str(path), "--output", str(path))[0] == 2
    assert run("--check", str(tmp_path / "none"))[0] == 2
    done = CliRunner().invoke(cli, ["db", "prisma", "--output", str(tmp_path / "no" / "file")])
    assert done.exit_code == 1 and "No such file" in str(done.exception)
