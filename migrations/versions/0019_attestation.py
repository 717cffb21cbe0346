"""Which endpoint served what, and what was attested; attestations are append-only.

Revision: 0019, after 0014. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0017"
branch_labels = None
depends_on = None

UPGRADE = (
    """CREATE TABLE indexer.served (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      endpoint text NOT NULL,
      contracts integer[] NOT NULL,
      first_block bigint NOT NULL,
      last_block bigint NOT NULL
    )""",
    "CREATE INDEX served_last_block_idx ON indexer.served (last_block)",
    """CREATE TABLE indexer.attestation (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      first_block bigint NOT NULL,
      last_block bigint NOT NULL,
      contracts integer[] NOT NULL,
      grade text NOT NULL,
      method text NOT NULL,
      first_hash bytea,
      last_hash bytea,
      logs bigint,
      digest bytea,
      endpoints text[] NOT NULL,
      at timestamptz NOT NULL DEFAULT clock_timestamp(),
      CONSTRAINT attestation_grade CHECK (grade IN ('cross-checked', 'proven', 'void')),
      CONSTRAINT attestation_range CHECK (first_block <= last_block)
    )""",
    "CREATE INDEX attestation_grade_idx ON indexer.attestation (grade, last_block)",
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON indexer.attestation"
    " FOR EACH STATEMENT EXECUTE FUNCTION indexer.refuse_change()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE indexer.attestation, indexer.served")
