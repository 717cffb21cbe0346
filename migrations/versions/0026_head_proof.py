"""Which blocks above finalized are proven by consensus data, one row a block.

The grade is void with the block: whatever takes the block's row away takes this row away.

Revision: 0026. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE TABLE indexer.head_proof (
      block_number bigint PRIMARY KEY REFERENCES indexer.block (number) ON DELETE CASCADE,
      contracts integer[] NOT NULL,
      endpoint text NOT NULL,
      at timestamptz NOT NULL DEFAULT clock_timestamp()
    )"""
    )


def downgrade() -> None:
    op.execute("DROP TABLE indexer.head_proof")
