"""Control tables of our own schema, `indexer`: binding, checkpoint, deferred indexes, epoch, lease, before-images.

Consumers may read `checkpoint` and nothing else here. Hashes are bytea (32 bytes); block numbers and timestamps (s) are
bigint.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table
from sqlalchemy.dialects.postgresql import JSONB

from indexer.schema.tables.columns import bigint, binary, single_row, text, utc, utc_now


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _binding(metadata)
    _checkpoint(metadata)
    _deferred_indexes(metadata)
    _writers(metadata)
    _before_images(metadata)


def _binding(metadata: MetaData) -> None:
    # The binding: the deployment that this database belongs to (one database, one deployment), and the origin, where
    # coverage begins to count.
    Table(
        "deployment",
        metadata,
        single_row(),
        text("name", null=False),
        bigint("chain_id", null=False),
        bigint("bound_number", null=False),
        binary("bound_hash", null=False),
        bigint("origin", null=False),
        utc_now("created_at"),
        CheckConstraint("single", name="deployment_one_row"),
    )


def _checkpoint(metadata: MetaData) -> None:
    # The block, with its hash, up to which the public tables are the projection of the chain. NULL before the first
    # step.
    Table(
        "checkpoint",
        metadata,
        single_row(),
        bigint("number"),
        binary("hash"),
        bigint("timestamp"),
        # The origin, and the digest of the contracts and ABIs, with which the public tables were projected. If they
        # differ from the current ones, the stored raw logs must be projected again.
        bigint("origin"),
        text("digest"),
        # The rollback floor: no before-images are stored at or below it, so the daemon never rewinds below it by itself
        # (finality is a tag).
        bigint("rollback_floor"),
        # The last projected block that was safe at the time of writing; between the rollback floor and `number`.
        bigint("safe_block"),
        # The checkpoint at the time when `reproject` emptied the tables; NULL once it is reached again.
        bigint("reprojecting_to"),
        utc_now("updated_at"),
        CheckConstraint("single", name="checkpoint_one_row"),
    )


def _deferred_indexes(metadata: MetaData) -> None:
    # Keys and indexes of the public tables that an initial load dropped, with the statements that rebuild them. A
    # statement runs in the transaction that deletes its row (one transaction), so a killed load leaves just what is
    # still to build.
    Table(
        "deferred_index",
        metadata,
        text("name", key=True),
        text("definition", null=False),
        text("constraint_definition"),
    )


def _writers(metadata: MetaData) -> None:
    # Bumped by every rollback. Ingest holds the row FOR SHARE until its commit, a reorg FOR UPDATE (one projector,
    # fenced).
    Table(
        "epoch",
        metadata,
        single_row(),
        bigint("value", null=False, default=0),
        CheckConstraint("single", name="epoch_one_row"),
    )
    # Who projects. `token` grows with every new holder and is compared inside each projecting transaction (one
    # projector, fenced).
    Table(
        "lease",
        metadata,
        single_row(),
        text("holder"),
        bigint("token", null=False, default=0),
        utc("expires_at"),
        Column("backend_pid", Integer, nullable=True),
        utc("backend_start"),
        text("state"),  # what the holder is doing
        # A recovery that asks the holder to pause; void once its server process has ended.
        text("wanted_by"),
        Column("wanted_pid", Integer, nullable=True),
        utc("wanted_start"),
        CheckConstraint("single", name="lease_one_row"),
    )


def _before_images(metadata: MetaData) -> None:
    # State rows as they were before a block above finalized changed them. `row` NULL: the row did not exist.
    Table(
        "before_image",
        metadata,
        bigint("block_number", key=True),
        text("table_name", key=True),
        Column("key", JSONB, primary_key=True),
        Column("row", JSONB, nullable=True),
    )
