"""Our own schema, `indexer`: raw logs, coverage, checkpoint, lease, epoch, before-images, incidents, commit log.

Nothing here is read by consumers of the public tables. Addresses, hashes and topics are bytea (20, 32, 32*n bytes);
block numbers and timestamps (seconds) are bigint.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import INT8RANGE, JSONB, TIMESTAMP, ExcludeConstraint

SCHEMA = "indexer"
own = MetaData(schema=SCHEMA)


def now() -> Column[object]:
    return Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp())


def _single_row() -> Column[object]:
    return Column("single", Boolean, primary_key=True, server_default=text("true"))


def _log_body() -> list[Column[object]]:
    return [
        Column("address", LargeBinary, nullable=False),
        Column("transaction_hash", LargeBinary, nullable=False),
        Column("transaction_index", Integer, nullable=False),
        Column("topics", LargeBinary, nullable=False),
        Column("data", LargeBinary, nullable=False),
    ]


# The binding (rule 14): which deployment this database belongs to, and from where coverage counts (the origin).
deployment = Table(
    "deployment",
    own,
    _single_row(),
    Column("name", Text, nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("bound_number", BigInteger, nullable=False),
    Column("bound_hash", LargeBinary, nullable=False),
    Column("origin", BigInteger, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("single", name="deployment_one_row"),
)

contract = Table(
    "contract",
    own,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("address", LargeBinary, nullable=False, unique=True),
)

# Which blocks of which contract are ingested. The exclusion constraint is what makes a second ingest of the same
# range impossible (rule 10); adjacent ranges are merged on write, so the table stays small.
coverage = Table(
    "coverage",
    own,
    Column("contract_id", Integer, ForeignKey(contract.c.id), nullable=False),
    Column("blocks", INT8RANGE, nullable=False),
    ExcludeConstraint(
        (text("int4range(contract_id, contract_id + 1)"), "&&"),
        (text("blocks"), "&&"),
        name="coverage_no_overlap",
        using="gist",
    ),
    CheckConstraint("NOT isempty(blocks) AND lower_inc(blocks) AND NOT upper_inf(blocks)", name="coverage_bounded"),
)

raw_log = Table(
    "raw_log",
    own,
    Column("block_number", BigInteger, primary_key=True),
    Column("log_index", Integer, primary_key=True),
    *_log_body(),
    postgresql_partition_by="RANGE (block_number)",
)

# Blocks with logs, anchors (ends of ranges) and the unfinalized window.
block = Table(
    "block",
    own,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("parent_hash", LargeBinary, nullable=True),
    Column("timestamp", BigInteger, nullable=False),
)

# How far the public tables are the projection of the chain: block and hash. NULL before the first step.
checkpoint = Table(
    "checkpoint",
    own,
    _single_row(),
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
    own,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("constraint_definition", Text, nullable=True),
)

# Bumped by every rollback. Ingest holds it FOR SHARE to its commit, a reorg FOR UPDATE (rule 10).
epoch = Table(
    "epoch",
    own,
    _single_row(),
    Column("value", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("single", name="epoch_one_row"),
)

# Who projects. `token` grows with every change of hands and is compared inside each projecting transaction.
lease = Table(
    "lease",
    own,
    _single_row(),
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
    own,
    Column("block_number", BigInteger, primary_key=True),
    Column("table_name", Text, primary_key=True),
    Column("key", JSONB, primary_key=True),
    Column("row", JSONB, nullable=True),
)

incident = Table(
    "incident",
    own,
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
    own,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("found_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("block_number", BigInteger, nullable=False),
    Column("check", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

# What `enrich` read of the contracts' state, and of which block. `table_name`: the public table whose row `key` has
# `values` (all of its columns), or one of our own words for values without a public column. No projection reads it.
enrichment = Table(
    "enrichment",
    own,
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
    own,
    _single_row(),
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
    own,
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
    own,
    Column("address", Text, primary_key=True),
    Column("implementation", Text, nullable=False),
    Column("count", Numeric(78, 0), nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_time", BigInteger, nullable=False),
    info={"kind": "state"},
)

feature_flag = Table(
    "feature_flag",
    own,
    Column("address", Text, primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("allow_all", Boolean, nullable=False),
    Column("deny_all", Boolean, nullable=False),
    info={"kind": "state"},
)

# keccak256(abi.encode(keccak256("marketEnabled"), id)): PostgreSQL cannot compute it, the "Market" view joins it.
market_feature = Table(
    "market_feature",
    own,
    Column("market_id", Numeric(78, 0), primary_key=True),
    Column("feature", Text, nullable=False),
    info={"kind": "state"},
)

# Which accounts are backstop accounts, by collateral pool (BackstopLPConfigurationUpdated).
backstop_account = Table(
    "backstop_account",
    own,
    Column("collateral_pool_id", Numeric(78, 0), primary_key=True),
    Column("account_id", Numeric(78, 0), nullable=False),
    info={"kind": "state"},
)

# One row per committed step: what streams and consumers will read.
commit_log = Table(
    "commit_log",
    own,
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
    own,
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
    own,
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
    own,
    Column("id", BigInteger, Identity(always=True)),
    Column("reorg_id", BigInteger, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("row", JSONB, nullable=False),
    PrimaryKeyConstraint("reorg_id", "table_name", "id", name="orphaned_row_pkey"),
)

# The same for raw logs, as bytes: they are half of what a reorg takes away, and JSON would take twice the time.
orphaned_log = Table(
    "orphaned_log",
    own,
    Column("reorg_id", BigInteger, primary_key=True, autoincrement=False),
    Column("block_number", BigInteger, primary_key=True, autoincrement=False),
    Column("log_index", Integer, primary_key=True, autoincrement=False),
    *_log_body(),
)

# The replacement of a reorg while it is read. Unlogged: after a crash it is read again.
staged_block = Table(
    "staged_block",
    own,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("parent_hash", LargeBinary, nullable=True),
    Column("timestamp", BigInteger, nullable=False),
    prefixes=["UNLOGGED"],
)

staged_log = Table(
    "staged_log",
    own,
    Column("block_number", BigInteger, primary_key=True),
    Column("log_index", Integer, primary_key=True),
    *_log_body(),
    prefixes=["UNLOGGED"],
)
