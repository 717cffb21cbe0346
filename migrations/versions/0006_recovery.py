"""Recovery: the lease can be asked for, and a heal is a kind of commit.

Revision: 0006, after 0005. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UPGRADE = (
    # One index serves reading a reorg's rows and their order; two would double what a swap writes.
    "ALTER TABLE indexer.orphaned_row DROP CONSTRAINT orphaned_row_pkey",
    "DROP INDEX indexer.orphaned_row_reorg_id_idx",
    "ALTER TABLE indexer.orphaned_row ADD PRIMARY KEY (reorg_id, table_name, id)",
    # Raw logs of some kB are archived uncompressed: compressing them is a tenth of the server's work in a swap.
    "ALTER TABLE indexer.orphaned_row SET (toast_tuple_target = 8000)",
    """ALTER TABLE indexer.lease
      ADD COLUMN state text,
      ADD COLUMN wanted_by text,
      ADD COLUMN wanted_pid integer,
      ADD COLUMN wanted_start timestamp with time zone""",
    "ALTER TABLE indexer.commit_log DROP CONSTRAINT commit_log_kind",
    "ALTER TABLE indexer.commit_log ADD CONSTRAINT commit_log_kind"
    " CHECK (kind IN ('forward', 'rollback', 'reproject', 'heal'))",
)
DOWNGRADE = (
    "ALTER TABLE indexer.orphaned_row RESET (toast_tuple_target)",
    "ALTER TABLE indexer.orphaned_row DROP CONSTRAINT orphaned_row_pkey",
    "ALTER TABLE indexer.orphaned_row ADD PRIMARY KEY (id)",
    "CREATE INDEX orphaned_row_reorg_id_idx ON indexer.orphaned_row (reorg_id, table_name)",
    "UPDATE indexer.commit_log SET kind = 'reproject' WHERE kind = 'heal'",
    "ALTER TABLE indexer.commit_log DROP CONSTRAINT commit_log_kind",
    "ALTER TABLE indexer.commit_log ADD CONSTRAINT commit_log_kind"
    " CHECK (kind IN ('forward', 'rollback', 'reproject'))",
    "ALTER TABLE indexer.lease DROP COLUMN state, DROP COLUMN wanted_by, DROP COLUMN wanted_pid,"
    " DROP COLUMN wanted_start",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
