"""The last upgrade of each watched proxy.

Revision: 0023, after 0014. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE TABLE indexer.proxy_upgrade (
          address text NOT NULL,
          implementation text NOT NULL,
          count numeric(78,0) NOT NULL,
          block_number bigint NOT NULL,
          block_time bigint NOT NULL,
          CONSTRAINT proxy_upgrade_pkey PRIMARY KEY (address)
        ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000)"""
    )


def downgrade() -> None:
    op.execute("DELETE FROM indexer.before_image WHERE table_name = 'indexer.proxy_upgrade'")
    op.execute("DROP TABLE indexer.proxy_upgrade")
