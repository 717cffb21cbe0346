"""A writer takes back what `enrich` wrote, and nothing else of the tables of applications.

Rolling back removes what was read of the blocks that go; the writer of `db roles` has no rights on those tables, so a
function does it with its owner's: a row that still is what `enrich` wrote, as the record of it says.

Revision: 0024. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

KEYS = {
    "market_configuration": "market_id", "global_fee_parameters": "id",
    "account_owner_configuration": "owner_address", "fee_tier_parameters": "tier_id",
}  # fmt: skip
# In plpgsql, which looks at a table when it runs: one that was adopted may lack what is named here.
DELETE = """
  DELETE FROM public.{table} t USING indexer.enrichment e WHERE e.block_number > above AND e.table_name = '{table}'
    AND e.key = jsonb_build_object('{key}', t.{key}) AND to_jsonb(t) = e."values";"""
FUNCTION = """
CREATE FUNCTION indexer.forget_enriched(above bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN{deletes}
  DELETE FROM indexer.enrichment WHERE block_number > above;
  DELETE FROM indexer.enrichment_run WHERE block_number > above;
END $$
"""


def upgrade() -> None:
    op.execute(FUNCTION.format(deletes="".join(DELETE.format(table=t, key=k) for t, k in KEYS.items())))
    op.execute("REVOKE ALL ON FUNCTION indexer.forget_enriched(bigint) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION indexer.forget_enriched(bigint)")
