"""The keys and indexes that an initial load does without, until it has built them again.

Revision: 0009, after 0008. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE TABLE indexer.deferred_index (
          name text PRIMARY KEY,
          definition text NOT NULL,
          constraint_definition text
        )"""
    )


def downgrade() -> None:
    op.execute("DROP TABLE indexer.deferred_index")
