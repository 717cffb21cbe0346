"""Reorgs: the archive of orphaned rows and the staging of replacements; journal and archive are append-only.

Revision: 0005, after 0004. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = (
    """CREATE TABLE indexer.orphaned_row (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      reorg_id bigint NOT NULL,
      table_name text NOT NULL,
      row jsonb NOT NULL
    )""",
    "CREATE INDEX orphaned_row_reorg_id_idx ON indexer.orphaned_row (reorg_id, table_name)",
    """CREATE UNLOGGED TABLE indexer.staged_block (
      number bigint PRIMARY KEY, hash bytea NOT NULL, parent_hash bytea, "timestamp" bigint NOT NULL
    )""",
    """CREATE UNLOGGED TABLE indexer.staged_log (
      block_number bigint NOT NULL,
      log_index integer NOT NULL,
      address bytea NOT NULL,
      transaction_hash bytea NOT NULL,
      transaction_index integer NOT NULL,
      topics bytea NOT NULL,
      data bytea NOT NULL,
      PRIMARY KEY (block_number, log_index)
    )""",
    """CREATE FUNCTION indexer.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END $$""",
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON indexer.{table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION indexer.refuse_change()"
        for table in ("reorg_journal", "orphaned_row")
    ),
)
DOWNGRADE = (
    "DROP TRIGGER append_only ON indexer.reorg_journal",
    "DROP TABLE indexer.staged_log, indexer.staged_block, indexer.orphaned_row",
    "DROP FUNCTION indexer.refuse_change()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
