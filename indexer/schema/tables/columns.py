"""What tables are built from: the two schemas, column types, origin columns.

`public` holds the tables of consumers: raw integers of the chain are numeric(78,0); `created_at` and its like are
timestamp(3) without zone,
in UTC. Nothing that a projection writes has a server default: a row is a function of the chain
alone. `internal` is our own schema, `indexer`: addresses, hashes and topics are bytea (20, 32,
32*n bytes); block numbers
and timestamps (seconds) are bigint.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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

public = MetaData()
# append: rows that nothing changes, deleted above a fork by their block; state: one row per key, restored from
# before-images; application: created empty, written by others, never touched by projections, rollback or reprojection;
# reserved: created empty, fed by nothing yet.
Kind = Literal["append", "state", "application", "reserved"]


def numeric(name: str, *, null: bool = True, key: bool = False) -> Column[Any]:
    return Column(name, Numeric(78, 0), nullable=null and not key, primary_key=key)


def numerics(*names: str) -> list[Column[Any]]:
    """Nullable numeric(78,0) columns."""
    return [numeric(name) for name in names]


def text(name: str, *, null: bool = True, key: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=null and not key, primary_key=key)


def timestamp(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, TIMESTAMP(precision=3), nullable=null)


def row_id() -> Column[Any]:
    """`<transaction hash>-<log index>`, and `-<n>` after it for further rows of the same log."""
    return text("id", key=True)


def origin(*, transaction: bool = True) -> list[Column[Any]]:
    """Where a row comes from; unique_id = block number * 100000 + log index."""
    at = [numeric("block_timestamp"), numeric("block_number", null=False), Column("unique_id", BigInteger)]
    return [text("transaction_hash", null=False), *at] if transaction else at


def unique_origin(table: str, *, unique: bool = True) -> Index:
    """The index on unique_id: identity of a log's row, and the way a rollback finds what is above the fork."""
    return Index(f"{table}_unique_id_{'key' if unique else 'idx'}", "unique_id", unique=unique)


def index(table: str, *columns: str) -> Index:
    return Index(f"{table}_{'_'.join(columns)}_idx", *columns)


def append_table(name: str, *parts: Column[Any] | Index, unique: bool = True, block: str = "block_number") -> Table:
    """A table of rows keyed by `id`. `block`: the SQL expression of a row's block number."""
    return Table(
        name, public, row_id(), *parts, unique_origin(name, unique=unique), info={"kind": "append", "block": block}
    )


def state_table(name: str, *parts: Column[Any] | Index) -> Table:
    """A table whose primary key, in column order, is the key that projections use."""
    return Table(name, public, *parts, info={"kind": "state"})


def application_table(name: str, *parts: Column[Any] | Index) -> Table:
    return Table(name, public, *parts, info={"kind": "application"})


SCHEMA = "indexer"
internal = MetaData(schema=SCHEMA)


def now() -> Column[object]:
    return Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp())


def single_row() -> Column[object]:
    return Column("single", Boolean, primary_key=True, server_default=sql_text("true"))


def log_body() -> list[Column[object]]:
    return [
        Column("address", LargeBinary, nullable=False),
        Column("transaction_hash", LargeBinary, nullable=False),
        Column("transaction_index", Integer, nullable=False),
        Column("topics", LargeBinary, nullable=False),
        Column("data", LargeBinary, nullable=False),
    ]
