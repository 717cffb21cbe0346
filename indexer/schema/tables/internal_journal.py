"""Journal tables of our own schema, `indexer`: incidents, drift, commits, reorgs, endpoints, attestations, blame.

Consumers may read `commit_log` and nothing else here. Addresses, hashes and topics are bytea (20, 32, 32*n bytes);
block numbers and timestamps (s) are bigint.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.schema.tables.columns import internal, log_body, now

incident = Table(
    "incident",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("first_block", BigInteger, nullable=True),
    Column("last_block", BigInteger, nullable=True),
    Column("count", BigInteger, nullable=False, server_default=text("1")),
    Column("opened_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("resolved_at", TIMESTAMP(timezone=True), nullable=True),
    Index("incident_open", "kind", "subject", unique=True, postgresql_where=text("resolved_at IS NULL")),
)
# Drifts found by `check`: rows that are not what they must be, with the last projected block at that time.
drift = Table(
    "drift",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("found_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("block_number", BigInteger, nullable=False),
    Column("check", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
# One row per committed change of the public tables, for streams and consumers to read.
commit_log = Table(
    "commit_log",
    internal,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    # forward: the range was projected. rollback: it was removed. reproject: every row is void, and forward rows follow.
    # heal: any row of these blocks, and any state row, may have changed.
    Column("kind", Text, nullable=False),
    Column("from_block", BigInteger, nullable=False),
    Column("to_block", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    now(),
    CheckConstraint("kind IN ('forward', 'rollback', 'reproject', 'heal')", name="commit_log_kind"),
)
reorg_journal = Table(
    "reorg_journal",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("fork_point", BigInteger, nullable=False),
    Column("old_tip", BigInteger, nullable=False),
    Column("old_tip_hash", LargeBinary, nullable=False),
    Column("new_tip", BigInteger, nullable=False),
    Column("new_tip_hash", LargeBinary, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("rows_removed", JSONB, nullable=False),
    Column("rows_inserted", JSONB, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    now(),
)
# Endpoint health, shared by all processes and preserved over restarts. Names contain no secrets.
endpoint_score = Table(
    "endpoint_score",
    internal,
    Column("endpoint", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=True),
    Column("aside_until", TIMESTAMP(timezone=True), nullable=True),
    Column("chain_id", Numeric(78, 0), nullable=True),
    Column("head", BigInteger, nullable=True),
    Column("head_seen_at", TIMESTAMP(timezone=True), nullable=True),
    Column("lag_blocks", BigInteger, nullable=True),
    Column("latency_ms", BigInteger, nullable=True),
    Column("error_permille", Integer, nullable=False),
    Column("last_error", Text, nullable=True),
    *(
        Column(name, BigInteger, nullable=False, server_default=text("0"))
        for name in ("requests", "failures", "limited", "disagreements", "omissions", "set_aside")
    ),
    Column("first_seen_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("kind IN ('http', 'ws')", name="endpoint_score_kind"),
)
# Rows that reorgs removed, as they were. Append-only like the journal: a trigger refuses UPDATE, DELETE and TRUNCATE.
orphaned_row = Table(
    "orphaned_row",
    internal,
    Column("id", BigInteger, Identity(always=True)),
    Column("reorg_id", BigInteger, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("row", JSONB, nullable=False),
    PrimaryKeyConstraint("reorg_id", "table_name", "id", name="orphaned_row_pkey"),
)
# Raw logs that reorgs removed, as bytes: they are half of what a reorg removes, and JSON would take twice the time.
orphaned_log = Table(
    "orphaned_log",
    internal,
    Column("reorg_id", BigInteger, primary_key=True, autoincrement=False),
    Column("block_number", BigInteger, primary_key=True, autoincrement=False),
    Column("log_index", Integer, primary_key=True, autoincrement=False),
    *log_body(),
)
# Which endpoint served the stored logs. Where rows overlap, the newest one counts. Adjacent ranges are merged on write;
# `contracts` are ids in indexer.contract, ascending.
served_range = Table(
    "served",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    Index("served_last_block_idx", "last_block"),
)
# Append-only, enforced by a trigger. A row of grade 'void' revokes earlier rows for its blocks and contracts.
# It is written in the transaction of the rollback or heal that changed their logs (one transaction).
attestation = Table(
    "attestation",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("grade", Text, nullable=False),
    # How it was checked; for a void row, why it is void.
    Column("method", Text, nullable=False),
    # Hashes of the first and the last block. NULL if the block is not stored, and in a void row.
    Column("first_hash", LargeBinary, nullable=True),
    Column("last_hash", LargeBinary, nullable=True),
    # Number and SHA-256 of the contracts' stored logs, in the format of indexer/chain/log_set.py.
    Column("logs", BigInteger, nullable=True),
    Column("digest", LargeBinary, nullable=True),
    Column("endpoints", ARRAY(Text), nullable=False),
    now(),
    CheckConstraint("grade IN ('cross-checked', 'proven', 'void')", name="attestation_grade"),
    CheckConstraint("first_block <= last_block", name="attestation_range"),
    Index("attestation_grade_idx", "grade", "last_block"),
)
# A block above finalized whose stored logs of `contracts` (ids, ascending) are proven; `endpoint` served the proof.
# The row goes with the block's row (rollback, heal), and becomes part of an attestation once the block is final.
head_proof = Table(
    "head_proof",
    internal,
    Column(
        "block_number",
        BigInteger,
        ForeignKey("indexer.block.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("endpoint", Text, nullable=False),
    now(),
)
# Append-only. A log that an endpoint omitted, invented, altered or misnumbered, in blocks whose headers prove it.
# 'served': the stored logs came from this endpoint, and were healed as `reorg_id` of the journal records. 'asked': it
# gave this answer when asked to confirm the stored logs.
blame = Table(
    "blame",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("log_index", Integer, nullable=True),
    Column("what", Text, nullable=False),
    Column("proven_by", Text, nullable=False),
    Column("reorg_id", BigInteger, nullable=True),
    now(),
    CheckConstraint("role IN ('served', 'asked')", name="blame_role"),
)
