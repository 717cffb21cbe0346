"""State tables of our own schema, `indexer`: enrichment, undecoded logs, upgrades, feature flags, backstop accounts.

Consumers do not read these tables. Hashes are bytea (32 bytes), but addresses, topics and features of the state tables
are text (0x hex); block numbers and timestamps (s) are bigint.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, LargeBinary, Numeric, Table, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.schema.tables.columns import internal, now, single_row

# State of the contracts that `enrich` read, and its block. `table_name`: the public table whose row `key` has `values`
# (all of its columns), or a name of our own for values without a public column. No projection reads it.
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
# The block at which the last `enrich` read; if `finished_at` is NULL, the next one continues at this block.
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
# Logs that could not be decoded, counted. Projections write this and the state tables below like public ones, including
# before-images.
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
# keccak256(abi.encode(keccak256("marketEnabled"), id)): PostgreSQL cannot compute it; the "Market" view joins on it.
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
