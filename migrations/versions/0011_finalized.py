"""The pool's prices, statistics over executions, and every table as it is at the last finalized block.

Revision: 0011, after 0010. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SETTINGS = "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000"
TABLES = (
    f"""CREATE TABLE public.pool_price_snapshot (
      market_id numeric(78,0) NOT NULL,
      pool_price numeric(78,0),
      oracle_price numeric(78,0),
      price_spread numeric(78,0),
      block_timestamp numeric(78,0),
      block_number numeric(78,0),
      CONSTRAINT pool_price_snapshot_pkey PRIMARY KEY (market_id)
    ) WITH ({SETTINGS})""",
    """CREATE TABLE public.pool_price_history (
      market_id numeric(78,0) NOT NULL,
      pool_price numeric(78,0),
      oracle_price numeric(78,0),
      block_timestamp numeric(78,0),
      block_number numeric(78,0) NOT NULL,
      CONSTRAINT pool_price_history_pkey PRIMARY KEY (market_id, block_number)
    )""",
)

APPENDED = (
    "account_collateral_balance_entries", "account_owner_updated_history", "auto_exchange",
    "liquidation_history_details", "lp_account_balance_entries", "lp_unified_account_balance_entries",
    "margin_accounts_balance_entries", "market_trackers_history", "order_history", "orders",
    "rebate_fee_history", "token_transfer",
)  # fmt: skip
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
}
AT_FINALIZED = """CREATE VIEW public."{name}_finalized" AS
SELECT t.* FROM public."{name}" t
WHERE t.unique_id < (SELECT (c.rollback_floor + 1) * 100000 FROM indexer.checkpoint c)"""
BEFORE_IMAGES = """CREATE VIEW public."{name}_finalized" AS
SELECT t.* FROM public."{name}" t
WHERE NOT EXISTS (
  SELECT FROM indexer.before_image b WHERE b.table_name = '{name}' AND b.key = jsonb_build_object({key})
)
UNION ALL
SELECT r.* FROM (
  SELECT DISTINCT ON (b.key) b.row FROM indexer.before_image b
  WHERE b.table_name = '{name}' ORDER BY b.key, b.block_number
) i CROSS JOIN LATERAL jsonb_populate_record(NULL::public."{name}", i.row) r
WHERE i.row IS NOT NULL"""

STATISTICS = {
    "trading_stats_account": """
SELECT
  o.account_id::numeric(78,0) AS account_id,
  SUM(ABS(o.order_base) * o.price) / 1e36 AS volume,
  COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) / 1e18 AS realized_pnl,
  SUM(o.fee) / 1e6 AS fees,
  MAX(o.created_at)::timestamp(3) AS updated_at
FROM public.order_history o
WHERE o.type IN ('order', 'liquidation')
GROUP BY o.account_id
""",
    "trading_stats_account_market": """
SELECT
  o.account_id::numeric(78,0) AS account_id,
  o.market_id::numeric(78,0) AS market_id,
  SUM(ABS(o.order_base) * o.price) / 1e36 AS volume,
  COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) / 1e18 AS realized_pnl,
  SUM(o.fee) / 1e6 AS fees,
  MAX(o.created_at)::timestamp(3) AS updated_at
FROM public.order_history o
WHERE o.type IN ('order', 'liquidation')
GROUP BY o.account_id, o.market_id
""",
    "trading_stats_wallet": """
SELECT
  w.new_owner::text AS wallet_address,
  SUM(ABS(o.order_base) * o.price) / 1e36 AS volume,
  COALESCE(SUM(ABS(o.order_base) * o.price) FILTER (
    WHERE o.block_timestamp >= EXTRACT(EPOCH FROM now() - INTERVAL '14 days')::bigint
  ) / 1e36, 0) AS volume_14d,
  COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) / 1e18 AS realized_pnl,
  SUM(o.fee) / 1e6 AS fees,
  MAX(o.created_at)::timestamp(3) AS updated_at
FROM (
  SELECT h.account_id, h.new_owner, h.unique_id AS first,
    LEAD(h.unique_id) OVER (PARTITION BY h.account_id ORDER BY h.unique_id) AS next
  FROM public.account_owner_updated_history h
  UNION ALL
  SELECT s.account_id, s.new_owner, s.unique_id, NULL
  FROM public.account_owner_updated_snapshot s
  WHERE NOT EXISTS (SELECT FROM public.account_owner_updated_history h WHERE h.account_id = s.account_id)
) w
JOIN public.order_history o
  ON o.account_id = w.account_id AND o.unique_id >= w.first AND (w.next IS NULL OR o.unique_id < w.next)
WHERE o.type IN ('order', 'liquidation')
GROUP BY w.new_owner
""",
    "account_collateral_net_balance": """
SELECT
  b.account_id::numeric(78,0) AS account_id,
  b.collateral::text AS collateral,
  b.balance::numeric(78,0) AS net_balance,
  e.block_timestamp::numeric(78,0) AS block_timestamp
FROM public.account_balances b
LEFT JOIN (
  SELECT account_id, collateral, MAX(block_timestamp) AS block_timestamp
  FROM public.account_collateral_balance_entries
  GROUP BY account_id, collateral
) e ON e.account_id = b.account_id AND e.collateral = b.collateral
""",
    "order_with_vol_price_impact": """
SELECT
  o.id::text AS id,
  NULL::numeric(78,0) AS vol_price_impact,
  o.block_timestamp::numeric(78,0) AS block_timestamp
FROM public.order_history o
""",
}


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    for name, query in STATISTICS.items():
        op.execute(f"CREATE VIEW public.{name} AS {query}")
    for name in APPENDED:
        op.execute(AT_FINALIZED.format(name=name))
    for name, columns in STATE.items():
        key = ", ".join(f"'{column}', t.\"{column}\"" for column in columns)
        op.execute(BEFORE_IMAGES.format(name=name, key=key))


def downgrade() -> None:
    for name in (*APPENDED, *STATE):
        op.execute(f'DROP VIEW public."{name}_finalized"')
    for name in STATISTICS:
        op.execute(f"DROP VIEW public.{name}")
    op.execute("DROP TABLE public.pool_price_snapshot, public.pool_price_history")
