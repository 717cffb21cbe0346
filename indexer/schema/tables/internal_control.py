"""Control tables of our own schema, `indexer`: binding, checkpoint, deferred indexes, epoch, lease, before-images.

Consumers may read `checkpoint` and nothing else here. Hashes are bytea (32 bytes); block numbers and timestamps (s) are
bigint.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.schema.tables.columns import internal, single_row

# The binding: the deployment that this database belongs to (one database, one deployment), and the origin, where
# coverage begins to count.
deployment = Table(
    "deployment",
    internal,
    single_row(),
    Column("name", Text, nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("bound_number", BigInteger, nullable=False),
    Column("bound_hash", LargeBinary, nullable=False),
    Column("origin", BigInteger, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("single", name="deployment_one_row"),
)
# The block, with its hash, up to which the public tables are the projection of the chain. NULL before the first step.
checkpoint = Table(
    "checkpoint",
    internal,
    single_row(),
    Column("number", BigInteger, nullable=True),
    Column("hash", LargeBinary, nullable=True),
    Column("timestamp", BigInteger, nullable=True),
    # The origin, and the digest of the contracts and ABIs, with which the public tables were projected. If they differ
    # from the current ones, the stored raw logs must be projected again.
    Column("origin", BigInteger, nullable=True),
    Column("digest", Text, nullable=True),
    # The rollback floor: no before-images are stored at or below it, so the daemon never rewinds below it by itself
    # (finality is a tag).
    Column("rollback_floor", BigInteger, nullable=True),
    # The last projected block that was safe at the time of writing; between the rollback floor and `number`.
    Column("safe_block", BigInteger, nullable=True),
    # The checkpoint at the time when `reproject` emptied the tables; NULL once it is reached again.
    Column("reprojecting_to", BigInteger, nullable=True),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("single", name="checkpoint_one_row"),
)
# Keys and indexes of the public tables that an initial load dropped, with the statements that rebuild them. A statement
# runs in the transaction that deletes its row (one transaction), so a killed load leaves just what is still to build.
deferred_index = Table(
    "deferred_index",
    internal,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("constraint_definition", Text, nullable=True),
)
# Bumped by every rollback. Ingest holds the row FOR SHARE until its commit, a reorg FOR UPDATE (one projector, fenced).
epoch = Table(
    "epoch",
    internal,
    single_row(),
    Column("value", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("single", name="epoch_one_row"),
)
# Who projects. `token` grows with every new holder and is compared inside each projecting transaction (one projector,
# fenced).
lease = Table(
    "lease",
    internal,
    single_row(),
    Column("holder", Text, nullable=True),
    Column("token", BigInteger, nullable=False, server_default=text("0")),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=True),
    Column("backend_pid", Integer, nullable=True),
    Column("backend_start", TIMESTAMP(timezone=True), nullable=True),
    Column("state", Text, nullable=True),  # what the holder is doing
    # A recovery that asks the holder to pause; void once its server process has ended.
    Column("wanted_by", Text, nullable=True),
    Column("wanted_pid", Integer, nullable=True),
    Column("wanted_start", TIMESTAMP(timezone=True), nullable=True),
    CheckConstraint("single", name="lease_one_row"),
)
# State rows as they were before a block above finalized changed them. `row` NULL: the row did not exist.
before_image = Table(
    "before_image",
    internal,
    Column("block_number", BigInteger, primary_key=True),
    Column("table_name", Text, primary_key=True),
    Column("key", JSONB, primary_key=True),
    Column("row", JSONB, nullable=True),
)
