"""Our own schema, `indexer`: raw logs, coverage, checkpoint, lease, epoch, before-images, incidents, commit log.

Nothing here is read by consumers of the public tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes);
block numbers and timestamps (seconds) are bigint.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
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
# What `check` found: a row that is not what it must be, with the block up to which was projected then.
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
# One row per committed step: what streams and consumers will read.
commit_log = Table(
    "commit_log",
    internal,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    # forward; rollback: the range was taken back; reproject: every row is void, forwards follow; heal: any row of these
    # blocks may have changed, and so may any state row
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
# What endpoints were like, over restarts and for every process that asks them. Names are without secrets.
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
# What reorgs took away, as it was. Append-only like the journal: a trigger refuses UPDATE, DELETE and TRUNCATE.
orphaned_row = Table(
    "orphaned_row",
    internal,
    Column("id", BigInteger, Identity(always=True)),
    Column("reorg_id", BigInteger, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("row", JSONB, nullable=False),
    PrimaryKeyConstraint("reorg_id", "table_name", "id", name="orphaned_row_pkey"),
)
# The same for raw logs, as bytes: they are half of what a reorg takes away, and JSON would take twice the time.
orphaned_log = Table(
    "orphaned_log",
    internal,
    Column("reorg_id", BigInteger, primary_key=True, autoincrement=False),
    Column("block_number", BigInteger, primary_key=True, autoincrement=False),
    Column("log_index", Integer, primary_key=True, autoincrement=False),
    *log_body(),
)
# Which endpoint the logs of stored blocks were read from. Of rows that overlap the newest counts. Adjacent ranges are
# merged on write; `contracts` are ids in indexer.contract, ascending.
served = Table(
    "served",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    Index("served_last_block_idx", "last_block"),
)
# Append-only, which a trigger enforces. A row of grade 'void' takes back what rows before it say of its blocks and
# contracts: written in the transaction of the rollback or heal that changed their logs.
attestation = Table(
    "attestation",
    internal,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("grade", Text, nullable=False),
    # How it was checked; of a void row why it is void.
    Column("method", Text, nullable=False),
    # The anchors: hashes of both ends. NULL where the block is not stored, and of a void row.
    Column("first_hash", LargeBinary, nullable=True),
    Column("last_hash", LargeBinary, nullable=True),
    # Number and SHA-256 of the contracts' stored logs, in the form that indexer/attest/log_set.py says.
    Column("logs", BigInteger, nullable=True),
    Column("digest", LargeBinary, nullable=True),
    Column("endpoints", ARRAY(Text), nullable=False),
    now(),
    CheckConstraint("grade IN ('cross-checked', 'proven', 'void')", name="attestation_grade"),
    CheckConstraint("first_block <= last_block", name="attestation_range"),
    Index("attestation_grade_idx", "grade", "last_block"),
)
# Append-only. A log that an endpoint left out, made up, changed or numbered wrongly, in blocks whose headers prove
# it. 'served': what we had stored came from it, and was healed as `reorg_id` of the journal tells; 'asked': it said so
# when it was asked to confirm what is stored.
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
