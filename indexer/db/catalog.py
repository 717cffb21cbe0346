"""What the program asks about its tables while it works: which ones projections write, their columns, keys and indexes.

`make generate` writes catalog.json from the metadata in `indexer.schema.tables`, because importing SQLAlchemy takes a
third of a start. Names are the write set's: `orders`, `Asset`, `indexer.undecoded`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

SCHEMA = "indexer"  # ours

_CATALOG: dict[str, Any] = orjson.loads(Path(__file__).with_name("catalog.json").read_bytes())
_KINDS: dict[str, str] = _CATALOG["kinds"]

# Table -> column -> numeric, bigint, integer, smallint, text, bool, timestamp or json (lists), and " not null" where
# it is. Every table that a projection may write.
COLUMNS: dict[str, dict[str, str]] = _CATALOG["columns"]
# Table -> primary key columns, in the order of the projections' keys.
KEYS: dict[str, tuple[str, ...]] = {name: tuple(columns) for name, columns in _CATALOG["keys"].items()}
# Table -> names of its indexes beside the primary key.
INDEXES: dict[str, list[str]] = _CATALOG["indexes"]

# Table that `enrich` writes -> its columns, and the columns of its primary key.
ENRICHED_COLUMNS: dict[str, list[str]] = _CATALOG["enriched"]
ENRICHED_KEYS: dict[str, list[str]] = _CATALOG["enriched_keys"]
# Every table of the schema `public`.
PUBLIC_TABLES = tuple(name for name in _KINDS if not name.startswith(f"{SCHEMA}."))


def table_kind(name: str) -> str:
    """ "append", "state", "application" or "reserved". KeyError for any other table."""
    return _KINDS[name]


def schema_and_name(name: str) -> tuple[str, str]:
    schema, _, plain = name.rpartition(".")
    return schema or "public", plain


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"{}"'.format(name.replace('"', '""'))


def sql_name(name: str) -> str:
    """The quoted, schema-qualified SQL identifier of a table or view."""
    schema, plain = schema_and_name(name)
    return f"{quoted(schema)}.{quoted(plain)}"
