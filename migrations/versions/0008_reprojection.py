"""A reprojection that was begun and not ended; storage settings of what is written most.

Revision: 0008, after 0007. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Rows that are only ever appended: vacuumed by their number of inserts, so that index-only scans and freezing keep up
# with a table of a hundred million rows, and analyzed before a fifth of it is new.
APPENDED = (
    "account_collateral_balance_entries", "account_owner_updated_history", "auto_exchange",
    "liquidation_history_details", "lp_account_balance_entries", "lp_unified_account_balance_entries",
    "margin_accounts_balance_entries", "market_trackers_history", "order_history", "orders", "rebate_fee_history",
    "token_transfer",
)  # fmt: skip
# Rows that are updated again and again: room on their page keeps an update out of the indexes.
UPDATED = (
    'public."Asset"', "public.account_balances", "public.account_owner_updated_snapshot",
    "public.collateral_configuration", "public.liquidation_configuration", "public.market_storage",
    "public.market_trackers", "public.pool_created", "public.position_raw", "public.risk_multipliers_configuration",
    "indexer.backstop_account", "indexer.feature_flag", "indexer.market_feature", "indexer.undecoded",
    "indexer.checkpoint", "indexer.lease", "indexer.epoch",
)  # fmt: skip
APPEND_SETTINGS = "autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05"
UPDATE_SETTINGS = "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000"

UPGRADE = (
    "ALTER TABLE indexer.checkpoint ADD COLUMN reprojecting_to bigint",
    *(f"ALTER TABLE public.{name} SET ({APPEND_SETTINGS})" for name in APPENDED),
    *(f"ALTER TABLE {name} SET ({UPDATE_SETTINGS})" for name in UPDATED),
)
DOWNGRADE = (
    "ALTER TABLE indexer.checkpoint DROP COLUMN reprojecting_to",
    *(
        f"ALTER TABLE public.{name} RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor)"
        for name in APPENDED
    ),
    *(
        f"ALTER TABLE {name} RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)"
        for name in UPDATED
    ),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
