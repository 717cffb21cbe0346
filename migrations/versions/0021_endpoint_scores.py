"""What endpoints were like.

Revision: 0021, after 0014. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE TABLE indexer.endpoint_score (
          endpoint text NOT NULL PRIMARY KEY,
          kind text NOT NULL,
          state text NOT NULL,
          reason text,
          aside_until timestamptz,
          chain_id numeric(78, 0),
          head bigint,
          head_seen_at timestamptz,
          lag_blocks bigint,
          latency_ms bigint,
          error_permille integer NOT NULL,
          last_error text,
          requests bigint NOT NULL DEFAULT 0,
          failures bigint NOT NULL DEFAULT 0,
          limited bigint NOT NULL DEFAULT 0,
          disagreements bigint NOT NULL DEFAULT 0,
          omissions bigint NOT NULL DEFAULT 0,
          set_aside bigint NOT NULL DEFAULT 0,
          first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
          updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
          CONSTRAINT endpoint_score_kind CHECK (kind IN ('http', 'ws'))
        )"""
    )


def downgrade() -> None:
    op.execute("DROP TABLE indexer.endpoint_score")
