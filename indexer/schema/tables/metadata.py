"""All tables, assembled: `public` (read by consumers) and `internal` (schema `indexer`).

A running program looks tables up in `indexer.db.catalog`, which `make generate` writes from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, Numeric, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.schema.tables import (
    internal_control,
    internal_journal,
    internal_raw_chain,
    internal_state,
    public_accounts,
    public_application,
    public_reserved,
    public_settings,
    public_trading,
)
from indexer.schema.tables.columns import SCHEMA


def build() -> tuple[MetaData, MetaData]:
    """Describe all tables anew. Returns those of `public` and those of our own schema."""
    public, internal = MetaData(), MetaData(schema=SCHEMA)
    public_accounts.add(public)
    public_application.add(public)
    public_reserved.add(public)
    public_settings.add(public)
    public_trading.add(public)
    internal_control.add(internal)
    internal_raw_chain.add(internal)
    internal_state.add(internal)
    internal_journal.add(internal)
    return public, internal


public, internal = build()
# Subclasses come first: in SQLAlchemy SmallInteger and BigInteger are Integers.
_KINDS: tuple[tuple[type[Any], str], ...] = (
    (SmallInteger, "smallint"),
    (BigInteger, "bigint"),
    (Integer, "integer"),
    (Numeric, "numeric"),
    (Text, "text"),
    (Boolean, "bool"),
    (TIMESTAMP, "timestamp"),
    (JSONB, "json"),
)


def _every() -> Iterator[tuple[str, Table]]:
    for metadata in (public, internal):
        for table in metadata.sorted_tables:
            yield (f"{table.schema}.{table.name}" if table.schema else table.name), table


def _column_kind(column: Column[Any]) -> str:
    for type_, name in _KINDS:
        if isinstance(column.type, type_):
            return name if column.nullable else f"{name} not null"
    raise TypeError(f"{column}: no projection writes a column of type {column.type}")


_KIND_OF: dict[str, str] = {name: table.info["kind"] for name, table in _every() if "kind" in table.info}
# Tables that `enrich` writes.
ENRICHED = ("market_configuration", "global_fee_parameters", "account_owner_configuration", "fee_tier_parameters")
# Tables that projections may write.
TABLES: dict[str, Table] = {name: table for name, table in _every() if _KIND_OF.get(name) in ("append", "state")}


def catalog_content() -> dict[str, Any]:
    """Return the content of catalog.json.

    It has the kinds of all tables; columns, keys and indexes of projected tables; columns and keys of the tables that
    `enrich` writes.
    """
    return {
        "kinds": _KIND_OF,
        "columns": {name: {c.name: _column_kind(c) for c in table.columns} for name, table in TABLES.items()},
        "keys": {name: [c.name for c in table.primary_key.columns] for name, table in TABLES.items()},
        "indexes": {name: sorted(str(index.name) for index in table.indexes) for name, table in TABLES.items()},
        "enriched": {name: [c.name for c in public.tables[name].columns] for name in ENRICHED},
        "enriched_keys": {name: [c.name for c in public.tables[name].primary_key.columns] for name in ENRICHED},
    }
