"""What `check` found.

Revision: 0013, after 0012. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE TABLE indexer.drift (
          id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
          found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
          block_number bigint NOT NULL,
          "check" text NOT NULL,
          subject text NOT NULL,
          detail text NOT NULL
        )"""
    )


def downgrade() -> None:
    op.execute("DROP TABLE indexer.drift")
