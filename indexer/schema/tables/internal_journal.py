"""Journal tables of our own schema, `indexer`: incidents, drift, commits, reorgs, endpoints, attestations, blame.

Consumers may read `commit_log` and `change_log`, and nothing else here. Addresses, hashes and topics are bytea (20, 32,
32*n bytes); block numbers and timestamps (s) are bigint.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import JSONB

from indexer.schema.tables.columns import bigint, binary, identity_pk, log_body, numeric, text, utc, utc_now


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _findings(metadata)
    _commits(metadata)
    _changes(metadata)
    _slots(metadata)
    _reorgs(metadata)
    _endpoints(metadata)
    _orphaned(metadata)
    _provenance(metadata)
    _attestations(metadata)
    _head_proofs(metadata)
    _blame(metadata)


def _findings(metadata: MetaData) -> None:
    Table(
        "incident",
        metadata,
        identity_pk(),
        text("kind", null=False),
        text("subject", null=False),
        text("detail", null=False),
        bigint("first_block"),
        bigint("last_block"),
        bigint("count", null=False, default=1),
        utc_now("opened_at"),
        utc("resolved_at"),
        Index("incident_open", "kind", "subject", unique=True, postgresql_where=sql_text("resolved_at IS NULL")),
    )
    # Drifts found by `check`: rows that are not what they must be, with the last projected block at that time.
    Table(
        "drift",
        metadata,
        identity_pk(),
        utc_now("found_at"),
        bigint("block_number", null=False),
        text("check", null=False),
        text("subject", null=False),
        text("detail", null=False),
    )


def _commits(metadata: MetaData) -> None:
    # One row per committed change of the public tables, for streams and consumers to read.
    Table(
        "commit_log",
        metadata,
        identity_pk("seq"),
        bigint("epoch", null=False),
        # forward: the range was projected. rollback: it was removed. reproject: every row is void, and forward rows
        # follow. heal: any row of these blocks, and any state row, may have changed.
        text("kind", null=False),
        bigint("from_block", null=False),
        bigint("to_block", null=False),
        bigint("rows", null=False),
        utc_now("at"),
        # Whether change_log has the rows that this commit changed.
        Column("captured", Boolean, nullable=False, server_default=sql_text("false")),
        # The checkpoint after this commit; NULL after a reset. `floor`, `safe`: the rollback floor and the safe block
        # then.
        bigint("checkpoint"),
        binary("checkpoint_hash"),
        bigint("reorg_id"),
        bigint("floor"),
        bigint("safe"),
        CheckConstraint("kind IN ('forward', 'rollback', 'reproject', 'heal')", name="commit_log_kind"),
    )


def _changes(metadata: MetaData) -> None:
    # The rows that captured commits changed: `n` rows of a table in `body`, as COPY text or as a JSON array. `ord`:
    # order within the commit. op: 1 inserted, 2 inserted or updated, -1 deleted, 0 every row of every projected table
    # is void.
    Table(
        "change_log",
        metadata,
        bigint("seq", key=True),
        Column("ord", Integer, primary_key=True, autoincrement=False),
        Column("op", SmallInteger, nullable=False),
        text("encoding", null=False),
        text("table_name", null=False),
        Column("n", Integer, nullable=False),
        text("body", null=False),
        CheckConstraint("op IN (-1, 0, 1, 2)", name="change_log_op"),
        CheckConstraint("encoding IN ('copy', 'json')", name="change_log_encoding"),
        postgresql_partition_by="RANGE (seq)",
    )


def _slots(metadata: MetaData) -> None:
    # Consumers that follow the commit log, each with the last commit that it has confirmed. While there is a slot that
    # is not lost, commits above the floor are captured. `sink`: where its changes go, without secrets; NULL where a
    # program of its own reads them. `live`: it confirms nothing; retention advances it.
    # `generation`: of what the consumer has. `last_generation`: the last that was begun. `tables`: NULL for all.
    # `holder`, `token`: the process that serves it, until `expires_at` or the end of its connection.
    Table(
        "stream_slot",
        metadata,
        text("name", key=True),
        Column("sink", JSONB, nullable=True),
        Column("live", Boolean, nullable=False, server_default=sql_text("false")),
        text("level", null=False),
        Column("tables", ARRAY(Text), nullable=True),
        bigint("seq", null=False),
        bigint("generation", null=False, default=0),
        bigint("last_generation", null=False, default=0),
        bigint("token", null=False, default=0),
        Column("state", Text, nullable=False, server_default=sql_text("'active'")),
        text("holder"),
        Column("backend_pid", Integer, nullable=True),
        utc("backend_start"),
        utc("expires_at"),
        utc_now("created_at"),
        utc("confirmed_at"),
        utc("lost_at"),
        text("note"),
        CheckConstraint("level IN ('instant', 'safe', 'finalized')", name="stream_slot_level"),
        CheckConstraint("state IN ('active', 'paused', 'lost')", name="stream_slot_state"),
    )


def _reorgs(metadata: MetaData) -> None:
    Table(
        "reorg_journal",
        metadata,
        identity_pk(),
        bigint("epoch", null=False),
        bigint("fork_point", null=False),
        bigint("old_tip", null=False),
        binary("old_tip_hash", null=False),
        bigint("new_tip", null=False),
        binary("new_tip_hash", null=False),
        Column("depth", Integer, nullable=False),
        text("endpoint", null=False),
        text("cause", null=False),
        Column("rows_removed", JSONB, nullable=False),
        Column("rows_inserted", JSONB, nullable=False),
        Column("duration_ms", Integer, nullable=False),
        utc_now("at"),
    )


def _endpoints(metadata: MetaData) -> None:
    # Endpoint health, shared by all processes and preserved over restarts. Names contain no secrets.
    Table(
        "endpoint_score",
        metadata,
        text("endpoint", key=True),
        text("kind", null=False),
        text("state", null=False),
        text("reason"),
        utc("aside_until"),
        numeric("chain_id"),
        bigint("head"),
        utc("head_seen_at"),
        bigint("lag_blocks"),
        bigint("latency_ms"),
        Column("error_permille", Integer, nullable=False),
        text("last_error"),
        *(
            bigint(name, null=False, default=0)
            for name in ("requests", "failures", "limited", "disagreements", "omissions", "set_aside")
        ),
        utc_now("first_seen_at"),
        utc_now("updated_at"),
        CheckConstraint("kind IN ('http', 'ws')", name="endpoint_score_kind"),
    )


def _orphaned(metadata: MetaData) -> None:
    # Rows that reorgs removed, as they were. Append-only like the journal: a trigger refuses UPDATE, DELETE and
    # TRUNCATE.
    Table(
        "orphaned_row",
        metadata,
        Column("id", BigInteger, Identity(always=True)),
        bigint("reorg_id", null=False),
        text("table_name", null=False),
        Column("row", JSONB, nullable=False),
        PrimaryKeyConstraint("reorg_id", "table_name", "id", name="orphaned_row_pkey"),
    )
    # Raw logs that reorgs removed, as bytes: they are half of what a reorg removes, and JSON would take twice the time.
    Table(
        "orphaned_log",
        metadata,
        bigint("reorg_id", key=True),
        bigint("block_number", key=True),
        Column("log_index", Integer, primary_key=True, autoincrement=False),
        *log_body(),
    )


def _provenance(metadata: MetaData) -> None:
    # Which endpoint served the stored logs. Where rows overlap, the newest one counts. Adjacent ranges are merged on
    # write; `contracts` are ids in indexer.contract, ascending.
    Table(
        "served",
        metadata,
        identity_pk(),
        text("endpoint", null=False),
        Column("contracts", ARRAY(Integer), nullable=False),
        bigint("first_block", null=False),
        bigint("last_block", null=False),
        Index("served_last_block_idx", "last_block"),
    )


def _attestations(metadata: MetaData) -> None:
    # Append-only, enforced by a trigger. A row of grade 'void' revokes earlier rows for its blocks and contracts.
    # It is written in the transaction of the rollback or heal that changed their logs (one transaction).
    Table(
        "attestation",
        metadata,
        identity_pk(),
        bigint("first_block", null=False),
        bigint("last_block", null=False),
        Column("contracts", ARRAY(Integer), nullable=False),
        text("grade", null=False),
        # How it was checked; for a void row, why it is void.
        text("method", null=False),
        # Hashes of the first and the last block. NULL if the block is not stored, and in a void row.
        binary("first_hash"),
        binary("last_hash"),
        # Number and SHA-256 of the contracts' stored logs, in the format of indexer/chain/log_set.py.
        bigint("logs"),
        binary("digest"),
        Column("endpoints", ARRAY(Text), nullable=False),
        utc_now("at"),
        CheckConstraint("grade IN ('cross-checked', 'proven', 'void')", name="attestation_grade"),
        CheckConstraint("first_block <= last_block", name="attestation_range"),
        Index("attestation_grade_idx", "grade", "last_block"),
    )


def _head_proofs(metadata: MetaData) -> None:
    # A block above finalized whose stored logs of `contracts` (ids, ascending) are proven; `endpoint` served the proof.
    # The row goes with the block's row (rollback, heal), and becomes part of an attestation once the block is final.
    Table(
        "head_proof",
        metadata,
        Column(
            "block_number",
            BigInteger,
            ForeignKey("indexer.block.number", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        Column("contracts", ARRAY(Integer), nullable=False),
        text("endpoint", null=False),
        utc_now("at"),
    )


def _blame(metadata: MetaData) -> None:
    # Append-only. A log that an endpoint omitted, invented, altered or misnumbered, in blocks whose headers prove it.
    # 'served': the stored logs came from this endpoint, and were healed as `reorg_id` of the journal records. 'asked':
    # it gave this answer when asked to confirm the stored logs.
    Table(
        "blame",
        metadata,
        identity_pk(),
        text("endpoint", null=False),
        text("role", null=False),
        bigint("block_number", null=False),
        Column("log_index", Integer, nullable=True),
        text("what", null=False),
        text("proven_by", null=False),
        bigint("reorg_id"),
        utc_now("at"),
        CheckConstraint("role IN ('served', 'asked')", name="blame_role"),
    )
