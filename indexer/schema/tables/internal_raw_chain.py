"""Raw chain tables of our own schema, `indexer`: contracts, coverage, raw logs, blocks, and the staging of a reorg.

Consumers do not read these tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes); block numbers and
timestamps (s) are bigint.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Identity, Integer, LargeBinary, MetaData, Table
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import INT8RANGE, ExcludeConstraint

from indexer.schema.tables.columns import bigint, binary, log_body


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _coverage(metadata)
    _logs_and_blocks(metadata)
    _staging(metadata)


def _coverage(metadata: MetaData) -> None:
    Table(
        "contract",
        metadata,
        Column("id", Integer, Identity(always=True), primary_key=True),
        Column("address", LargeBinary, nullable=False, unique=True),
    )
    # Which blocks of each contract are ingested. The exclusion constraint makes it impossible to ingest a range twice
    # (one projector, fenced). Adjacent ranges are merged on write, so the table stays small.
    Table(
        "coverage",
        metadata,
        Column("contract_id", Integer, ForeignKey("indexer.contract.id"), nullable=False),
        Column("blocks", INT8RANGE, nullable=False),
        ExcludeConstraint(
            (sql_text("int4range(contract_id, contract_id + 1)"), "&&"),
            (sql_text("blocks"), "&&"),
            name="coverage_no_overlap",
            using="gist",
        ),
        CheckConstraint("NOT isempty(blocks) AND lower_inc(blocks) AND NOT upper_inf(blocks)", name="coverage_bounded"),
    )


def _logs_and_blocks(metadata: MetaData) -> None:
    Table(
        "raw_log",
        metadata,
        bigint("block_number", key=True),
        Column("log_index", Integer, primary_key=True),
        *log_body(),
        postgresql_partition_by="RANGE (block_number)",
    )
    # Blocks with logs, both ends of each ingested range, and the unfinalized window.
    Table(
        "block",
        metadata,
        bigint("number", key=True),
        binary("hash", null=False),
        binary("parent_hash"),
        bigint("timestamp", null=False),
    )


def _staging(metadata: MetaData) -> None:
    # The replacement chain of a reorg while it is fetched (verify before delete). Unlogged: after a crash it is fetched
    # again.
    Table(
        "staged_block",
        metadata,
        bigint("number", key=True),
        binary("hash", null=False),
        binary("parent_hash"),
        bigint("timestamp", null=False),
        prefixes=["UNLOGGED"],
    )
    Table(
        "staged_log",
        metadata,
        bigint("block_number", key=True),
        Column("log_index", Integer, primary_key=True),
        *log_body(),
        prefixes=["UNLOGGED"],
    )
