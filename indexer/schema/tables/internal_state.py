"""State tables of our own schema, `indexer`: enrichment, undecoded logs, upgrades, feature flags, backstop accounts.

Consumers do not read these tables. Hashes are bytea (32 bytes), but addresses, topics and features of the state tables
are text (0x hex); block numbers and timestamps (s) are bigint.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, MetaData, Table
from sqlalchemy.dialects.postgresql import JSONB

from indexer.schema.tables.columns import bigint, binary, numeric, single_row, text, utc, utc_now


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _enrichment(metadata)
    _undecoded(metadata)
    _contracts(metadata)


def _enrichment(metadata: MetaData) -> None:
    # State of the contracts that `enrich` read, and its block. `table_name`: the public table whose row `key` has
    # `values` (all of its columns), or a name of our own for values without a public column. No projection reads it.
    Table(
        "enrichment",
        metadata,
        text("table_name", key=True),
        Column("key", JSONB, primary_key=True),
        Column("values", JSONB, nullable=False),
        bigint("block_number", null=False),
        binary("block_hash", null=False),
        utc_now("at"),
    )
    # The block at which the last `enrich` read; if `finished_at` is NULL, the next one continues at this block.
    Table(
        "enrichment_run",
        metadata,
        single_row(),
        bigint("block_number", null=False),
        binary("block_hash", null=False),
        bigint("block_timestamp", null=False),
        utc_now("started_at"),
        utc("finished_at"),
        CheckConstraint("single", name="enrichment_run_one_row"),
    )


def _undecoded(metadata: MetaData) -> None:
    # Logs that could not be decoded, counted. Projections write this and the state tables below like public ones,
    # including before-images.
    Table(
        "undecoded",
        metadata,
        text("address", key=True),
        text("topic0", key=True),
        text("reason", key=True),
        numeric("count", null=False),
        bigint("first_block", null=False),
        bigint("last_block", null=False),
        info={"kind": "state"},
    )


def _contracts(metadata: MetaData) -> None:
    # The last upgrade of each watched proxy and how many there were; `block_time` in seconds.
    Table(
        "proxy_upgrade",
        metadata,
        text("address", key=True),
        text("implementation", null=False),
        numeric("count", null=False),
        bigint("block_number", null=False),
        bigint("block_time", null=False),
        info={"kind": "state"},
    )
    Table(
        "feature_flag",
        metadata,
        text("address", key=True),
        text("feature", key=True),
        Column("allow_all", Boolean, nullable=False),
        Column("deny_all", Boolean, nullable=False),
        info={"kind": "state"},
    )
    # keccak256(abi.encode(keccak256("marketEnabled"), id)): PostgreSQL cannot compute it; the "Market" view joins on
    # it.
    Table(
        "market_feature",
        metadata,
        numeric("market_id", key=True),
        text("feature", null=False),
        info={"kind": "state"},
    )
    # Which accounts are backstop accounts, by collateral pool (BackstopLPConfigurationUpdated).
    Table(
        "backstop_account",
        metadata,
        numeric("collateral_pool_id", key=True),
        numeric("account_id", null=False),
        info={"kind": "state"},
    )
