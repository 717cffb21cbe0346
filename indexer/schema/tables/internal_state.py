"""Our own schema, `indexer`: raw logs, coverage, checkpoint, lease, epoch, before-images, incidents, commit log.

Nothing here is read by consumers of the public tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes);
block numbers and timestamps (seconds) are bigint.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, LargeBinary, Numeric, Table, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.schema.tables.columns import internal, now, single_row

# What `enrich` read of the contracts' state, and of which block. `table_name`: the public table whose row `key` has
# `values` (all of its columns), or one of our own words for values without a public column. No projection reads it.
enrichment = Table(
    "enrichment",
    internal,
    Column("table_name", Text, primary_key=True),
    Column("key", JSONB, primary_key=True),
    Column("values", JSONB, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    now(),
)
# The block that the last `enrich` reads at; without `finished_at` the next one goes on there.
enrichment_run = Table(
    "enrichment_run",
    internal,
    single_row(),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    Column("block_timestamp", BigInteger, nullable=False),
    Column("started_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("finished_at", TIMESTAMP(timezone=True), nullable=True),
    CheckConstraint("single", name="enrichment_run_one_row"),
)
# State rows of our own, kept by projections like public state rows (before-images included).
undecoded = Table(
    "undecoded",
    internal,
    Column("address", Text, primary_key=True),
    Column("topic0", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("count", Numeric(78, 0), nullable=False),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    info={"kind": "state"},
)
# The last upgrade of each watched proxy and how many there were; `block_time` in seconds.
proxy_upgrade = Table(
    "proxy_upgrade",
    internal,
    Column("address", Text, primary_key=True),
    Column("implementation", Text, nullable=False),
    Column("count", Numeric(78, 0), nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_time", BigInteger, nullable=False),
    info={"kind": "state"},
)
feature_flag = Table(
    "feature_flag",
    internal,
    Column("address", Text, primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("allow_all", Boolean, nullable=False),
    Column("deny_all", Boolean, nullable=False),
    info={"kind": "state"},
)
# keccak256(abi.encode(keccak256("marketEnabled"), id)): PostgreSQL cannot compute it, the "Market" view joins it.
market_feature = Table(
    "market_feature",
    internal,
    Column("market_id", Numeric(78, 0), primary_key=True),
    Column("feature", Text, nullable=False),
    info={"kind": "state"},
)
# Which accounts are backstop accounts, by collateral pool (BackstopLPConfigurationUpdated).
backstop_account = Table(
    "backstop_account",
    internal,
    Column("collateral_pool_id", Numeric(78, 0), primary_key=True),
    Column("account_id", Numeric(78, 0), nullable=False),
    info={"kind": "state"},
)
