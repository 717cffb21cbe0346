"""The single description of every table: `public` (the contract's tables) and `own` (schema `indexer`).

What projections and the store ask is answered from the metadata: which tables they may write, the columns, keys and
kinds. Names are the ledger's: `orders`, `Asset`, `indexer.undecoded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, Numeric, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.store.tables import (
    attested,
    finalized,
    public_accounts,
    public_application,
    public_reserved,
    public_settings,
    public_trading,
    statistics,
)
from indexer.store.tables import views as market_views
from indexer.store.tables.own import own
from indexer.store.tables.public_columns import public

__all__ = ["COLUMNS", "KEYS", "TABLES", "VIEWS", "kind", "own", "public", "sql_name"]

# Importing them filled `public` and `own`.
FAMILIES = (public_accounts, public_application, public_reserved, public_settings, public_trading, attested)

# The narrower types first: SmallInteger and BigInteger are kinds of Integer to SQLAlchemy.
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


# In the order in which they are made.
VIEWS: dict[str, str] = market_views.VIEWS | statistics.VIEWS | finalized.views()


def _every() -> Iterator[tuple[str, Table]]:
    for metadata in (public, own):
        for table in metadata.sorted_tables:
            yield (f"{table.schema}.{table.name}" if table.schema else table.name), table


def _column_kind(column: Column[Any]) -> str:
    for type_, name in _KINDS:
        if isinstance(column.type, type_):
            return name if column.nullable else f"{name} not null"
    raise TypeError(f"{column}: no projection writes a column of type {column.type}")


_KIND_OF: dict[str, str] = {name: table.info["kind"] for name, table in _every() if "kind" in table.info}

# Every table that a projection may write.
TABLES: dict[str, Table] = {name: table for name, table in _every() if _KIND_OF.get(name) in ("append", "state")}
# Table -> column -> numeric, bigint, integer, smallint, text, bool, timestamp or json (lists), and " not null" where
# it is.
COLUMNS: dict[str, dict[str, str]] = {
    name: {column.name: _column_kind(column) for column in table.columns} for name, table in TABLES.items()
}
# Table -> primary key columns, in the order of the projections' keys.
KEYS: dict[str, tuple[str, ...]] = {
    name: tuple(column.name for column in table.primary_key.columns) for name, table in TABLES.items()
}


def kind(name: str) -> str:
    """ "append", "state", "application" or "reserved". KeyError for any other table."""
    return _KIND_OF[name]


def sql_name(name: str) -> str:
    """The quoted, schema-qualified SQL identifier of a table or view."""
    schema, _, plain = name.rpartition(".")
    return '"{}"."{}"'.format(schema or "public", plain.replace('"', '""'))
