"""Our own schema, `indexer`: raw logs, coverage, checkpoint, lease, epoch, before-images, incidents, commit log.

Nothing here is read by consumers of the public tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes);
block numbers and timestamps (seconds) are bigint.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.schema.tables.columns import internal, single_row

# The binding (one database, one deployment): which deployment this database belongs to, and from where coverage
# counts (the origin).
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
# How far the public tables are the projection of the chain: block and hash. NULL before the first step.
checkpoint = Table(
    "checkpoint",
    internal,
    single_row(),
    Column("number", BigInteger, nullable=True),
    Column("hash", LargeBinary, nullable=True),
    Column("timestamp", BigInteger, nullable=True),
    # The origin and the digest of contracts and ABIs that the public tables were projected with; other ones mean
    # "project again from the stored raw logs".
    Column("origin", BigInteger, nullable=True),
    Column("digest", Text, nullable=True),
    # Highest block below which no before-images were kept; the daemon never rewinds below it by itself.
    Column("rollback_floor", BigInteger, nullable=True),
    # The last projected block that counted as safe when it was written; between the floor and `number`.
    Column("safe_block", BigInteger, nullable=True),
    # Where the checkpoint stood when `reproject` emptied the tables, until it is there again.
    Column("reprojecting_to", BigInteger, nullable=True),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("single", name="checkpoint_one_row"),
)
# Keys and indexes of the public tables that an initial load dropped, with the statements that make them again. A
# statement and its row's deletion are one transaction: a load that was killed leaves what is still to be built.
deferred_index = Table(
    "deferred_index",
    internal,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("constraint_definition", Text, nullable=True),
)
# Bumped by every rollback. Ingest holds it FOR SHARE to its commit, a reorg FOR UPDATE (one projector, fenced).
epoch = Table(
    "epoch",
    internal,
    single_row(),
    Column("value", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("single", name="epoch_one_row"),
)
# Who projects. `token` grows with every change of hands and is compared inside each projecting transaction.
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
    # A recovery that asks the holder to pause; void when its server process is gone.
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
