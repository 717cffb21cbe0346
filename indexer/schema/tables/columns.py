"""Building blocks of tables: column types, origin columns, kinds of tables.

In tables for consumers, raw integers of the chain are numeric(78,0); `created_at` and similar columns are timestamp(3)
without time zone, in UTC. No column that a projection writes has a server default (public rows are functions of the
chain alone). In our own schema, `indexer`, addresses, hashes and topics are bytea (20, 32, 32*n bytes); block numbers
and timestamps (s) are bigint; moments of writing are timestamps with time zone.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
)
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import TIMESTAMP

SCHEMA = "indexer"  # Our own schema.
# append: rows never change, and a rollback deletes them by their block. state: one row per key, restored from
# before-images. application: created empty, written by others, never touched by projections, rollback or reprojection.
# reserved: created empty, not written by anything yet.
Kind = Literal["append", "state", "application", "reserved"]


def numeric(name: str, *, null: bool = True, key: bool = False) -> Column[Any]:
    """Return a numeric(78,0) column; a key is NOT NULL."""
    return Column(name, Numeric(78, 0), nullable=null and not key, primary_key=key)


def numerics(*names: str) -> list[Column[Any]]:
    """Return nullable numeric(78,0) columns."""
    return [numeric(name) for name in names]


def text(name: str, *, null: bool = True, key: bool = False) -> Column[Any]:
    """Return a text column; a key is NOT NULL."""
    return Column(name, Text, nullable=null and not key, primary_key=key)


def bigint(name: str, *, null: bool = True, key: bool = False, default: int | None = None) -> Column[Any]:
    """Return a bigint column.

    Args:
        name: Its name.
        null: Whether it may be NULL.
        key: Whether it is of the primary key; then it is NOT NULL, and whoever writes a row assigns its value.
        default: Its default in the database.
    """
    return Column(
        name, BigInteger, nullable=null and not key, primary_key=key, autoincrement=False,
        server_default=None if default is None else sql_text(str(default)),
    )  # fmt: skip


def binary(name: str, *, null: bool = True) -> Column[Any]:
    """Return a bytea column."""
    return Column(name, LargeBinary, nullable=null)


def identity_pk(name: str = "id") -> Column[Any]:
    """Return the key of a table whose rows the database numbers."""
    return Column(name, BigInteger, Identity(always=True), primary_key=True)


def utc(name: str) -> Column[Any]:
    """Return a nullable column for a moment, with time zone."""
    return Column(name, TIMESTAMP(timezone=True), nullable=True)


def utc_now(name: str) -> Column[Any]:
    """Return a column for the moment of writing by the database's clock."""
    return Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp())


def timestamp(name: str, *, null: bool = False) -> Column[Any]:
    """Return a timestamp(3) column, in UTC."""
    return Column(name, TIMESTAMP(precision=3), nullable=null)


def row_id() -> Column[Any]:
    """Return the key `id`: `<transaction hash>-<log index>`, plus `-<n>` for further rows of the same log."""
    return text("id", key=True)


def origin(*, transaction: bool = True) -> list[Column[Any]]:
    """Return the origin columns, which name a row's log; unique_id = block number * 100000 + log index."""
    at = [numeric("block_timestamp"), numeric("block_number", null=False), bigint("unique_id")]
    return [text("transaction_hash", null=False), *at] if transaction else at


def unique_origin(table: str, *, unique: bool = True) -> Index:
    """Return the index on unique_id: the identity of a log's row, and how a rollback finds rows above the fork."""
    return Index(f"{table}_unique_id_{'key' if unique else 'idx'}", "unique_id", unique=unique)


def index(table: str, *columns: str) -> Index:
    """Return an index named after its table and columns, as Prisma names it."""
    return Index(f"{table}_{'_'.join(columns)}_idx", *columns)


def append_table(
    name: str, metadata: MetaData, *parts: Column[Any] | Index, unique: bool = True, block: str = "block_number"
) -> Table:  # fmt: skip
    """Add an append table, keyed by `id`.

    Args:
        name: Its name.
        metadata: What it is added to.
        parts: Columns after `id`, and indexes.
        unique: Whether a log has at most one row here.
        block: SQL expression for a row's block number.
    """
    return Table(
        name, metadata, row_id(), *parts, unique_origin(name, unique=unique), info={"kind": "append", "block": block}
    )


def state_table(name: str, metadata: MetaData, *parts: Column[Any] | Index) -> Table:
    """Add a state table. Its primary key, in column order, is the key that projections use."""
    return Table(name, metadata, *parts, info={"kind": "state"})


def application_table(name: str, metadata: MetaData, *parts: Column[Any] | Index) -> Table:
    """Add a table that applications write."""
    return Table(name, metadata, *parts, info={"kind": "application"})


def single_row() -> Column[Any]:
    """Return the key of a table that has one row; its CHECK constraint is the table's to add."""
    return Column("single", Boolean, primary_key=True, server_default=sql_text("true"))


def log_body() -> list[Column[Any]]:
    """Return the columns of a raw log besides its key."""
    return [
        binary("address", null=False),
        binary("transaction_hash", null=False),
        Column("transaction_index", Integer, nullable=False),
        binary("topics", null=False),
        binary("data", null=False),
    ]
