"""The table catalog that the program uses at run time: tables that projections write, their columns, keys and indexes.

`make generate` writes catalog.json from the metadata in `indexer.schema.tables`, because importing SQLAlchemy takes a
third of the start-up time. Table names are those of the write set: `orders`, `Asset`, `indexer.undecoded`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

SCHEMA = "indexer"  # The schema of our internal tables.

_CATALOG: dict[str, Any] = orjson.loads(Path(__file__).with_name("catalog.json").read_bytes())
_KINDS: dict[str, str] = _CATALOG["kinds"]

# Table -> column -> kind, for every table that a projection may write. A kind is numeric, bigint, integer, smallint,
# text, bool, timestamp or json (lists), followed by " not null" if the column is.
COLUMNS: dict[str, dict[str, str]] = _CATALOG["columns"]
# Table -> primary key columns, in the order of the keys that projections use.
KEYS: dict[str, tuple[str, ...]] = {name: tuple(columns) for name, columns in _CATALOG["keys"].items()}
# Table -> names of its indexes, without the primary key's.
INDEXES: dict[str, list[str]] = _CATALOG["indexes"]

# Table that `enrich` writes -> its columns, and -> its primary key columns.
ENRICHED_COLUMNS: dict[str, list[str]] = _CATALOG["enriched"]
ENRICHED_KEYS: dict[str, list[str]] = _CATALOG["enriched_keys"]
# Every table in the schema `public`.
PUBLIC_TABLES = tuple(name for name in _KINDS if not name.startswith(f"{SCHEMA}."))


def table_kind(name: str) -> str:
    """Return "append", "state", "application" or "reserved". Raises KeyError for an unknown table."""
    return _KINDS[name]


def schema_and_name(name: str) -> tuple[str, str]:
    """Split a table name of the write set into schema (default "public") and plain name."""
    schema, _, plain = name.rpartition(".")
    return schema or "public", plain


def quoted(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"{}"'.format(name.replace('"', '""'))


def sql_name(name: str) -> str:
    """Return the quoted, schema-qualified SQL identifier of a table or view."""
    schema, plain = schema_and_name(name)
    return f"{quoted(schema)}.{quoted(plain)}"
