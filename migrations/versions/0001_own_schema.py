"""Our own schema, `indexer`, with its singleton rows, and the database's time zone.

Revision: 0001. Written out in full and never edited after a release: history must not follow the metadata.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "indexer"
TABLES = (
    "coverage",
    "contract",
    "deployment",
    "raw_log",
    "block",
    "checkpoint",
    "epoch",
    "lease",
    "before_image",
    "incident",
    "undecoded",
    "feature_flag",
    "market_feature",
    "backstop_account",
    "commit_log",
    "reorg_journal",
)
SINGLETONS = ("checkpoint", "epoch", "lease")

# timestamp(3) columns and to_timestamp() agree only in UTC. The role may lack the right: the program's own sessions set
# their zone themselves, so this is a notice and not an error.
TIME_ZONE = """
DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I {}', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'no right to set the time zone of database %', current_database();
END $$
"""


def big(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    # A lone integer key would become a serial.
    server = sa.text(default) if default else None
    return sa.Column(name, sa.BigInteger(), nullable=null, server_default=server, autoincrement=False)


def integer(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=null)


def number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Numeric(78, 0), nullable=False)


def text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=null)


def octets(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=null)


def boolean(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def json(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, pg.JSONB(), nullable=null)


def moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=True)


def written(name: str) -> sa.Column[Any]:
    """The moment of writing, by the database's clock."""
    now = sa.text("clock_timestamp()")
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=now)


def identity(name: str, kind: type[sa.Integer] = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(name, kind(), sa.Identity(always=True), nullable=False)


def table(name: str, *parts: Any, key: tuple[str, ...] = (), **options: Any) -> None:
    keys = [sa.PrimaryKeyConstraint(*key)] if key else []
    op.create_table(name, *parts, *keys, schema=SCHEMA, **options)


def one_row(name: str, *columns: sa.Column[Any]) -> None:
    single: sa.Column[Any] = sa.Column("single", sa.Boolean(), nullable=False, server_default=sa.text("true"))
    table(name, single, *columns, sa.CheckConstraint("single", name=f"{name}_one_row"), key=("single",))


def upgrade() -> None:
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    _ingest()
    _progress()
    _state()
    _journals()
    for name in SINGLETONS:
        op.execute(f"INSERT INTO {SCHEMA}.{name} DEFAULT VALUES")
    op.execute(TIME_ZONE.format("SET timezone TO ''UTC''"))


def downgrade() -> None:
    # The schema itself goes last, with the version table in it: env.py does that.
    for name in TABLES:
        op.drop_table(name, schema=SCHEMA)
    op.execute(TIME_ZONE.format("RESET timezone"))


def _ingest() -> None:
    one_row(
        "deployment",
        text("name"),
        big("chain_id"),
        big("bound_number"),
        octets("bound_hash"),
        big("origin"),
        written("created_at"),
    )
    table("contract", identity("id", sa.Integer), octets("address"), sa.UniqueConstraint("address"), key=("id",))
    table(
        "coverage",
        integer("contract_id"),
        sa.Column("blocks", pg.INT8RANGE(), nullable=False),
        sa.ForeignKeyConstraint(["contract_id"], [f"{SCHEMA}.contract.id"]),
        pg.ExcludeConstraint(
            (sa.text("int4range(contract_id, contract_id + 1)"), "&&"),
            (sa.text("blocks"), "&&"),
            name="coverage_no_overlap",
            using="gist",
        ),
        sa.CheckConstraint(
            "NOT isempty(blocks) AND lower_inc(blocks) AND NOT upper_inf(blocks)", name="coverage_bounded"
        ),
    )
    table(
        "raw_log",
        big("block_number"),
        integer("log_index"),
        octets("address"),
        octets("transaction_hash"),
        integer("transaction_index"),
        octets("topics"),
        octets("data"),
        key=("block_number", "log_index"),
        postgresql_partition_by="RANGE (block_number)",
    )
    table(
        "block",
        big("number"),
        octets("hash"),
        octets("parent_hash", null=True),
        big("timestamp"),
        key=("number",),
    )


def _progress() -> None:
    one_row(
        "checkpoint",
        big("number", null=True),
        octets("hash", null=True),
        big("timestamp", null=True),
        big("origin", null=True),
        text("digest", null=True),
        big("rollback_floor", null=True),
        written("updated_at"),
    )
    one_row("epoch", big("value", default="0"))
    one_row(
        "lease",
        text("holder", null=True),
        big("token", default="0"),
        moment("expires_at"),
        integer("backend_pid", null=True),
        moment("backend_start"),
    )


def _state() -> None:
    table(
        "before_image",
        big("block_number"),
        text("table_name"),
        json("key"),
        json("row", null=True),
        key=("block_number", "table_name", "key"),
    )
    table(
        "undecoded",
        text("address"),
        text("topic0"),
        text("reason"),
        number("count"),
        big("first_block"),
        big("last_block"),
        key=("address", "topic0", "reason"),
    )
    table(
        "feature_flag",
        text("address"),
        text("feature"),
        boolean("allow_all"),
        boolean("deny_all"),
        key=("address", "feature"),
    )
    table("market_feature", number("market_id"), text("feature"), key=("market_id",))
    table("backstop_account", number("collateral_pool_id"), number("account_id"), key=("collateral_pool_id",))


def _journals() -> None:
    table(
        "incident",
        identity("id"),
        text("kind"),
        text("subject"),
        text("detail"),
        big("first_block", null=True),
        big("last_block", null=True),
        big("count", default="1"),
        written("opened_at"),
        moment("resolved_at"),
        key=("id",),
    )
    op.create_index(
        "incident_open",
        "incident",
        ["kind", "subject"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    table(
        "commit_log",
        identity("seq"),
        big("epoch"),
        text("kind"),
        big("from_block"),
        big("to_block"),
        big("rows"),
        written("at"),
        sa.CheckConstraint("kind IN ('forward', 'rollback', 'reproject')", name="commit_log_kind"),
        key=("seq",),
    )
    table(
        "reorg_journal",
        identity("id"),
        big("epoch"),
        big("fork_point"),
        big("old_tip"),
        octets("old_tip_hash"),
        big("new_tip"),
        octets("new_tip_hash"),
        integer("depth"),
        text("endpoint"),
        text("cause"),
        json("rows_removed"),
        json("rows_inserted"),
        integer("duration_ms"),
        written("at"),
        key=("id",),
    )
