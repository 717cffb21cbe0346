"""What `enrich` asked the contracts for, and at which block.

Revision: 0017, after 0014. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE TABLE indexer.enrichment (
          table_name text NOT NULL,
          key jsonb NOT NULL,
          "values" jsonb NOT NULL,
          block_number bigint NOT NULL,
          block_hash bytea NOT NULL,
          at timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (table_name, key)
        )"""
    )
    op.execute(
        """CREATE TABLE indexer.enrichment_run (
          single boolean PRIMARY KEY DEFAULT true,
          block_number bigint NOT NULL,
          block_hash bytea NOT NULL,
          block_timestamp bigint NOT NULL,
          started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
          finished_at timestamptz,
          CONSTRAINT enrichment_run_one_row CHECK (single)
        )"""
    )


def downgrade() -> None:
    # Rows that only enrichment wrote go with the record of it: nothing would tell them from an application's.
    for table, keys in {
        "market_configuration": ("market_id",), "account_owner_configuration": ("owner_address",),
        "fee_tier_parameters": ("tier_id",), "global_fee_parameters": ("id",),
    }.items():  # fmt: skip
        named = ", ".join(f"'{key}', t.{key}" for key in keys)
        op.execute(
            f"DELETE FROM public.{table} t USING indexer.enrichment e"
            f" WHERE e.table_name = '{table}' AND e.key = jsonb_build_object({named})"
            ' AND to_jsonb(t) @> e."values"'
        )
    op.execute("DROP TABLE indexer.enrichment_run")
    op.execute("DROP TABLE indexer.enrichment")
