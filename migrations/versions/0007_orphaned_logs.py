"""The archive of orphaned raw logs, as bytes; those archived before stay in indexer.orphaned_row.

Revision: 0007, after 0006. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = (
    """CREATE TABLE indexer.orphaned_log (
      reorg_id bigint NOT NULL,
      block_number bigint NOT NULL,
      log_index integer NOT NULL,
      address bytea NOT NULL,
      transaction_hash bytea NOT NULL,
      transaction_index integer NOT NULL,
      topics bytea NOT NULL,
      data bytea NOT NULL,
      PRIMARY KEY (reorg_id, block_number, log_index)
    )""",
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON indexer.orphaned_log"
    " FOR EACH STATEMENT EXECUTE FUNCTION indexer.refuse_change()",
)
DOWNGRADE = (
    # What is archived stays archived, as JSON; also what a reorg that is being written archives at this moment.
    "LOCK TABLE indexer.orphaned_log IN ACCESS EXCLUSIVE MODE",
    "INSERT INTO indexer.orphaned_row (reorg_id, table_name, row)"
    " SELECT reorg_id, 'indexer.raw_log', to_jsonb(o) - 'reorg_id' FROM indexer.orphaned_log o"
    " ORDER BY reorg_id, block_number, log_index",
    "DROP TABLE indexer.orphaned_log",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
