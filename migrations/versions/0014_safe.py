"""Every table as it is at the last safe block; configuration tables that are projected now.

Revision: 0014, after 0013. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

APPENDED = (
    "account_collateral_balance_entries", "account_owner_updated_history", "auto_exchange",
    "liquidation_history_details", "lp_account_balance_entries", "lp_unified_account_balance_entries",
    "margin_accounts_balance_entries", "market_trackers_history", "order_history", "orders",
    "rebate_fee_history", "token_transfer",
)  # fmt: skip
NEW = {
    "auto_exchange_configrations": ("collateral_pool_id",),
    "risk_matrix": ("collateral_pool_id", "risk_block_id"),
    "spot_market_definitions": ("spot_market_id",),
}
STATE = {
    "Asset": ("address",),
    "account_balances": ("account_id", "collateral"),
    "account_owner_updated_snapshot": ("account_id",),
    "collateral_configuration": ("collateral_pool_id", "collateral_address"),
    "liquidation_configuration": ("collateral_pool_id",),
    "market_storage": ("market_id",),
    "market_trackers": ("market_data_id",),
    "pool_created": ("pool_id",),
    "pool_price_history": ("market_id", "block_number"),
    "pool_price_snapshot": ("market_id",),
    "position_raw": ("market_id", "account_id"),
    "positions": ("market_id", "account_id"),
    "risk_multipliers_configuration": ("collateral_pool_id",),
} | NEW
AT_SAFE = """CREATE VIEW public."{name}_safe" AS
SELECT t.* FROM public."{name}" t
WHERE t.unique_id < (SELECT (c.safe_block + 1) * 100000 FROM indexer.checkpoint c)"""
BEFORE_IMAGES = """CREATE VIEW public."{name}{suffix}" AS
SELECT t.* FROM public."{name}" t
WHERE NOT EXISTS (
  SELECT FROM indexer.before_image b WHERE b.table_name = '{name}' AND b.key = jsonb_build_object({key}){above}
)
UNION ALL
SELECT r.* FROM (
  SELECT DISTINCT ON (b.key) b.row FROM indexer.before_image b
  WHERE b.table_name = '{name}'{above} ORDER BY b.key, b.block_number
) i CROSS JOIN LATERAL jsonb_populate_record(NULL::public."{name}", i.row) r
WHERE i.row IS NOT NULL"""
ABOVE_SAFE = " AND b.block_number > (SELECT c.safe_block FROM indexer.checkpoint c)"


def _state_view(name: str, suffix: str, above: str) -> str:
    key = ", ".join(f"'{column}', t.\"{column}\"" for column in STATE[name])
    return BEFORE_IMAGES.format(name=name, suffix=suffix, key=key, above=above)


def upgrade() -> None:
    op.execute("ALTER TABLE indexer.checkpoint ADD COLUMN safe_block bigint")
    op.execute("UPDATE indexer.checkpoint SET safe_block = rollback_floor")
    for name in NEW:
        op.execute(_state_view(name, "_finalized", ""))
    for name in APPENDED:
        op.execute(AT_SAFE.format(name=name))
    for name in STATE:
        op.execute(_state_view(name, "_safe", ABOVE_SAFE))


def downgrade() -> None:
    for name in (*APPENDED, *STATE):
        op.execute(f'DROP VIEW public."{name}_safe"')
    for name in NEW:
        op.execute(f'DROP VIEW public."{name}_finalized"')
        # projected rows; the step before takes rows here for an application's
        op.execute(f'TRUNCATE public."{name}"')
        op.execute(f"DELETE FROM indexer.before_image WHERE table_name = '{name}'")
    op.execute("ALTER TABLE indexer.checkpoint DROP COLUMN safe_block")
