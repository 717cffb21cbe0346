"""Raw chain tables of our own schema, `indexer`: contracts, coverage, raw logs, blocks, and the staging of a reorg.

Consumers do not read these tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes); block numbers and
timestamps (s) are bigint.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Identity, Integer, LargeBinary, Table, text
from sqlalchemy.dialects.postgresql import INT8RANGE, ExcludeConstraint

from indexer.schema.tables.columns import internal, log_body

contract = Table(
    "contract",
    internal,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("address", LargeBinary, nullable=False, unique=True),
)
# Which blocks of each contract are ingested. The exclusion constraint makes it impossible to ingest a range twice (one
# projector, fenced). Adjacent ranges are merged on write, so the table stays small.
coverage = Table(
    "coverage",
    internal,
    Column("contract_id", Integer, ForeignKey(contract.c.id), nullable=False),
    Column("blocks", INT8RANGE, nullable=False),
    ExcludeConstraint(
        (text("int4range(contract_id, contract_id + 1)"), "&&"),
        (text("blocks"), "&&"),
        name="coverage_no_overlap",
        using="gist",
    ),
    CheckConstraint("NOT isempty(blocks) AND lower_inc(blocks) AND NOT upper_inf(blocks)", name="coverage_bounded"),
)
raw_log = Table(
    "raw_log",
    internal,
    Column("block_number", BigInteger, primary_key=True),
    Column("log_index", Integer, primary_key=True),
    *log_body(),
    postgresql_partition_by="RANGE (block_number)",
)
# Blocks with logs, both ends of each ingested range, and the unfinalized window.
block = Table(
    "block",
    internal,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("parent_hash", LargeBinary, nullable=True),
    Column("timestamp", BigInteger, nullable=False),
)
# The replacement chain of a reorg while it is fetched (verify before delete). Unlogged: after a crash it is fetched
# again.
staged_block = Table(
    "staged_block",
    internal,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("parent_hash", LargeBinary, nullable=True),
    Column("timestamp", BigInteger, nullable=False),
    prefixes=["UNLOGGED"],
)
staged_log = Table(
    "staged_log",
    internal,
    Column("block_number", BigInteger, primary_key=True),
    Column("log_index", Integer, primary_key=True),
    *log_body(),
    prefixes=["UNLOGGED"],
)
