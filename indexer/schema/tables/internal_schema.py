"""Our own schema, `indexer`: raw logs, coverage, checkpoint, lease, epoch, before-images, incidents, commit log.

Nothing here is read by consumers of the public tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes);
block numbers and timestamps (seconds) are bigint.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Integer, LargeBinary, MetaData, func, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

SCHEMA = "indexer"
internal = MetaData(schema=SCHEMA)


def now() -> Column[object]:
    return Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp())


def single_row() -> Column[object]:
    return Column("single", Boolean, primary_key=True, server_default=text("true"))


def log_body() -> list[Column[object]]:
    return [
        Column("address", LargeBinary, nullable=False),
        Column("transaction_hash", LargeBinary, nullable=False),
        Column("transaction_index", Integer, nullable=False),
        Column("topics", LargeBinary, nullable=False),
        Column("data", LargeBinary, nullable=False),
    ]
