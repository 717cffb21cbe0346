"""Which endpoint was found wrong about which log; append-only.

Revision: 0020, after 0019. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

UPGRADE = (
    """CREATE TABLE indexer.blame (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      endpoint text NOT NULL,
      role text NOT NULL,
      block_number bigint NOT NULL,
      log_index integer,
      what text NOT NULL,
      proven_by text NOT NULL,
      reorg_id bigint,
      at timestamptz NOT NULL DEFAULT clock_timestamp(),
      CONSTRAINT blame_role CHECK (role IN ('served', 'asked'))
    )""",
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON indexer.blame"
    " FOR EACH STATEMENT EXECUTE FUNCTION indexer.refuse_change()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE indexer.blame")
