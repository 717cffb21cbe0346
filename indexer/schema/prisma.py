"""Generator of the Prisma schema of the public tables and views, for applications that read them through Prisma 7.

It depends on the table descriptions alone, so that it cannot drift from what migrations create. Models and fields have
the names of the database, because readers of the schema know these.

The tables have no foreign keys: a row may be projected before the row that it references, and may outlive it. Relations
that readers join are still declared, with `relationMode = "prisma"`: `include` works, a relation whose row is missing
is null, and no Prisma tool requires a foreign key, which would stop the projections. In this mode Prisma itself carries
out referential actions. `Restrict` is the only one that never writes, so a client that deletes a row of "WalletDetails"
cannot null columns of the indexer's tables. Only the first columns of indexes become relations: reading any other
relation from the far side would scan a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UnaryExpression,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.sql.operators import desc_op

from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import view_columns
from indexer.schema.views.finality_views import SUFFIXES, split

HEADER = """\
// Made by `reya-indexer db prisma` from the tables' description; what is edited here is lost.
// `reya-indexer migrate` makes the tables: never run `prisma migrate` or `prisma db push` on them.
// - A Decimal(78, 0) is an integer of the chain, read exactly; but decimal.js rounds what it computes to 20 digits,
//   unless the program calls Prisma.Decimal.set({ precision: 160 }) first. Every DateTime is UTC.
// - There are no foreign keys: a relation's row may be missing, and reads as null then. `{ owner: { isNot: {} } }` is
//   how to filter by that; `{ owner: null }` asks whether the column is null.

generator client {
  provider        = "prisma-client-js"
  previewFeatures = ["views"]
}

datasource db {
  provider     = "postgresql"
  relationMode = "prisma"
}
"""

_ABOUT = {
    "append": "A row comes and goes with its block; nothing changes it.",
    "state": "One row per key, as of the last projected block.",
    "application": "Written by applications, never by the indexer.",
    "reserved": "Made empty; this release writes nothing into it.",
}


class PrismaRelation(NamedTuple):
    """A relation: `table.column` holds the one-column primary key of `target`; its Prisma field is `field`."""

    table: str
    column: str
    target: str
    field: str


_OWNER, _STORAGE = "account_owner_updated_snapshot", "market_storage"

RELATIONS = (
    PrismaRelation(_OWNER, "new_owner", "WalletDetails", "wallet_details"),
    PrismaRelation(_OWNER, "new_owner", "WalletDiscordLink", "wallet_discord_link"),
    PrismaRelation(_OWNER, "new_owner", "account_owner_configuration", "configuration"),
    *(PrismaRelation(table, "account_id", _OWNER, "owner") for table in ("order_history", "orders")),
    *(
        PrismaRelation(table, "account_id", _OWNER, "owner")
        for table in ("position_raw", "positions", "account_balances")
    ),
    *(PrismaRelation(table, "market_id", _STORAGE, "market") for table in ("order_history", "orders")),
    *(PrismaRelation(table, "market_id", _STORAGE, "market") for table in ("position_raw", "positions")),
    *(
        PrismaRelation(table, "market_id", _STORAGE, "market")
        for table in ("pool_price_snapshot", "pool_price_history")
    ),
    PrismaRelation("market_trackers", "market_data_id", _STORAGE, "market"),
    PrismaRelation("account_balances", "collateral", "Asset", "asset"),
)

Line = tuple[str, str, str]  # field, type, attributes


def prisma_schema(
    tables: MetaData = public, views: MetaData | None = None, relations: Sequence[PrismaRelation] = RELATIONS
) -> str:
    """Return the text of schema.prisma, formatted like `prisma format`.

    Tables without a primary key are left out: Prisma cannot address their rows. Raises TypeError for a column type that
    Prisma does not have.
    """
    shown = view_columns() if views is None else views
    blocks = [_model(table, relations) for table in _by_name(tables) if table.primary_key.columns]
    return "\n".join([HEADER, *blocks, *(_view(table) for table in _by_name(shown))])


def _by_name(metadata: MetaData) -> list[Table]:
    return sorted(metadata.tables.values(), key=lambda table: table.name)


def identifier(name: str) -> str:
    """Return the name, or else the nearest that Prisma allows: a letter, then letters, digits and `_`."""
    return re.sub(r"\W", "_", re.sub(r"^[^A-Za-z]+", "", name), flags=re.ASCII) or f"x{name}"


def _model(table: Table, relations: Sequence[PrismaRelation]) -> str:
    lines = [*_columns(table, "@id"), *_relations(table, relations)]
    indexes = sorted(table.indexes, key=lambda index: (not index.unique, str(index.name)))
    below = [*_key(table, "@@id"), *filter(None, map(_index, indexes))]
    return _block("model", table, _ABOUT.get(table.info.get("kind", ""), ""), lines, below)


def _view(table: Table) -> str:
    name, suffix = split(table.name)
    about = f"`{name}` {SUFFIXES[suffix]}." if suffix else "A view."
    return _block("view", table, about, list(_columns(table, "@unique")), list(_key(table, "@@unique")))


def _block(keyword: str, table: Table, about: str, lines: Sequence[Line], below: list[str]) -> str:
    repeated = {name for name, _, _ in lines if [line[0] for line in lines].count(name) > 1}
    if repeated:
        raise ValueError(f"{table.name}: two fields named {', '.join(sorted(repeated))}")
    if identifier(table.name) != table.name:
        below = [*below, f'@@map("{table.name}")']
    names, types = (max(len(line[part]) for line in lines) for part in (0, 1))
    body = [f"  {name:{names}} {type_:{types}} {attributes}".rstrip() for name, type_, attributes in lines]
    text = [f"{keyword} {identifier(table.name)} {{", *body, *([""] if below else []), *(f"  {b}" for b in below), "}"]
    return "\n".join([*([f"/// {about}"] if about else []), *text, ""])


def _columns(table: Table, key: str) -> Iterator[Line]:
    single_key = len(table.primary_key.columns) == 1
    for column in table.columns:
        type_, native = _type(column.type)
        attributes = [
            key if column.primary_key and single_key else "",
            "@default(autoincrement())" if column is table.autoincrement_column and key == "@id" else "",
            "" if identifier(column.name) == column.name else f'@map("{column.name}")',
            native,
        ]
        # A Prisma list is never null: NULL reads as the empty list.
        optional = "?" if column.nullable and not type_.endswith("]") else ""
        yield identifier(column.name), type_ + optional, " ".join(filter(None, attributes))


def _type(type_: Any) -> tuple[str, str]:
    """Return the Prisma type and, if the PostgreSQL type is not its default, the attribute that names the latter."""
    match type_:
        case ARRAY():
            inner, native = _type(type_.item_type)
            return f"{inner}[]", native
        case SmallInteger():
            return "Int", "@db.SmallInt"
        case BigInteger():
            return "BigInt", ""
        case Integer():
            return "Int", ""
        case Float():
            return "Float", ""
        case Numeric():
            size = "" if type_.precision is None else f"({type_.precision}, {type_.scale or 0})"
            return "Decimal", f"@db.Decimal{size}"
        case Text():
            return "String", ""
        case Boolean():
            return "Boolean", ""
        case JSONB():
            return "Json", ""
        case TIMESTAMP():
            zone = "Timestamptz" if type_.timezone else "Timestamp"
            return "DateTime", f"@db.{zone}({6 if type_.precision is None else type_.precision})"
    raise TypeError(f"no Prisma type for {type_!r}")


def _key(table: Table, attribute: str) -> Iterator[str]:
    columns = [identifier(column.name) for column in table.primary_key.columns]
    if len(columns) > 1:
        yield f"{attribute}([{', '.join(columns)}])"


def _index(index: Index) -> str | None:
    """Return the index attribute; None for a partial index, one on expressions, or not a B-tree: Prisma misreads it."""
    options = index.dialect_options["postgresql"]
    if options["where"] is not None or options["using"]:
        return None
    fields = []
    for part in index.expressions:
        plain, suffix = part, ""
        if isinstance(part, UnaryExpression) and part.modifier is desc_op:
            plain, suffix = part.element, "(sort: Desc)"
        if not isinstance(plain, Column):
            return None
        fields.append(identifier(plain.name) + suffix)
    return f'@@{"unique" if index.unique else "index"}([{", ".join(fields)}], map: "{index.name}")'


def _relations(table: Table, relations: Sequence[PrismaRelation]) -> Iterator[Line]:
    for relation in relations:
        if relation.table == table.name:
            (key,) = table.metadata.tables[relation.target].primary_key.columns
            at = f"fields: [{identifier(relation.column)}], references: [{identifier(key.name)}]"
            # Without `map`, several relations of one column would share the name that Prisma gives their foreign key.
            rest = f'onDelete: Restrict, onUpdate: Restrict, map: "{table.name}_{relation.field}"'
            yield relation.field, f"{identifier(relation.target)}?", f"@relation({at}, {rest})"
    for relation in relations:
        if relation.target == table.name:
            other = table.metadata.tables[relation.table]
            single = [column.name for column in other.primary_key.columns] == [relation.column]
            name = identifier(relation.table)
            yield name, name + ("?" if single else "[]"), ""
