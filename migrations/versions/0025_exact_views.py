"""Amounts in views are multiplied by a power of ten instead of divided: a division keeps about 16 significant digits.

CREATE OR REPLACE keeps owner, rights, comments, and the views of others that read these; of the options of a view it
keeps only those that the statement names again.

Revision: 0025, after 0024. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

MARKET = """
SELECT
  s.market_id::numeric(78,0) AS id,
  COALESCE(s.name, '')::text AS ticker,
  COALESCE(COALESCE(t.mark_price, t.last_mtm_price) {e18}, 0)::double precision AS "markPrice",
  EXISTS (
    SELECT FROM indexer.market_feature m JOIN indexer.feature_flag f ON f.feature = m.feature
    WHERE m.market_id = s.market_id AND f.allow_all AND NOT f.deny_all
  )::boolean AS "isActive",
  0::double precision AS "maxLeverage",
  COALESCE(d.volume {e36}, 0)::double precision AS "volume24H",
  COALESCE((d.last_price - d.first_price) {e18}, 0)::double precision AS "priceChange24H",
  COALESCE(t.open_interest {e18}, 0)::double precision AS "longOI",
  COALESCE(t.open_interest {e18}, 0)::double precision AS "shortOI",
  0::double precision AS "availableLong",
  0::double precision AS "availableShort",
  0::double precision AS "marketPriceDeviation",
  (CASE WHEN s.risk_block_id BETWEEN -2147483648 AND 2147483647 THEN s.risk_block_id ELSE 0 END)::integer
    AS "riskBlockId",
  (CASE WHEN s.collateral_pool_id BETWEEN -2147483648 AND 2147483647 THEN s.collateral_pool_id ELSE 0 END)::integer
    AS "rootCollateralPoolId",
  ''::text AS description,
  COALESCE(s.name, '')::text AS name,
  COALESCE(s.quote_collateral, '')::text AS "quoteTokenId",
  0::integer AS "tickSizeDecimals",
  ''::text AS "underlyingAssetId",
  COALESCE((d.last_price - d.first_price) * 100 / NULLIF(d.first_price, 0), 0)::double precision
    AS "priceChange24HPercentage",
  COALESCE(t.open_interest {e18}, 0)::double precision AS "openInterest",
  COALESCE(t.last_funding_rate {e18}, 0)::double precision AS "fundingRate",
  0::integer AS priority
FROM public.market_storage s
LEFT JOIN public.market_trackers t ON t.market_data_id = s.market_id
LEFT JOIN (
  SELECT
    o.market_id,
    SUM(ABS(o.order_base) * o.price) AS volume,
    (ARRAY_AGG(o.price ORDER BY o.unique_id))[1] AS first_price,
    (ARRAY_AGG(o.price ORDER BY o.unique_id DESC))[1] AS last_price
  FROM public.order_history o
  WHERE o.block_timestamp >= EXTRACT(EPOCH FROM now() - INTERVAL '24 hours')::bigint
    AND o.type IN ('order', 'liquidation')
  GROUP BY o.market_id
) d ON d.market_id = s.market_id
"""

ACCOUNT = """
SELECT
  o.account_id::numeric(78,0) AS account_id,
  SUM(ABS(o.order_base) * o.price) {e36} AS volume,
  COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) {e18} AS realized_pnl,
  SUM(o.fee) {e6} AS fees,
  MAX(o.created_at)::timestamp(3) AS updated_at
FROM public.order_history o
WHERE o.type IN ('order', 'liquidation')
GROUP BY o.account_id
"""

ACCOUNT_MARKET = """
SELECT
  o.account_id::numeric(78,0) AS account_id,
  o.market_id::numeric(78,0) AS market_id,
  SUM(ABS(o.order_base) * o.price) {e36} AS volume,
  COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) {e18} AS realized_pnl,
  SUM(o.fee) {e6} AS fees,
  MAX(o.created_at)::timestamp(3) AS updated_at
FROM public.order_history o
WHERE o.type IN ('order', 'liquidation')
GROUP BY o.account_id, o.market_id
"""

WALLET = """
SELECT
  w.new_owner::text AS wallet_address,
  SUM(ABS(o.order_base) * o.price) {e36} AS volume,
  COALESCE(SUM(ABS(o.order_base) * o.price) FILTER (
    WHERE o.block_timestamp >= EXTRACT(EPOCH FROM now() - INTERVAL '14 days')::bigint
  ) {e36}, 0) AS volume_14d,
  COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) {e18} AS realized_pnl,
  SUM(o.fee) {e6} AS fees,
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
"""

VIEWS = {
    '"Market"': MARKET,
    "trading_stats_account": ACCOUNT,
    "trading_stats_account_market": ACCOUNT_MARKET,
    "trading_stats_wallet": WALLET,
}
MULTIPLIED = {"e6": "* 1e-6", "e18": "* 1e-18", "e36": "* 1e-36"}
DIVIDED = {"e6": "/ 1e6", "e18": "/ 1e18", "e36": "/ 1e36"}
OPTIONS = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = to_regclass('public.{name}')"


def _replace(scales: dict[str, str]) -> None:
    for name, query in VIEWS.items():
        options = op.get_bind().execute(text(OPTIONS.format(name=name))).scalar()
        kept = f" WITH ({options})" if options else ""
        op.execute(f"CREATE OR REPLACE VIEW public.{name}{kept} AS {query.format(**scales)}")


def upgrade() -> None:
    _replace(MULTIPLIED)


def downgrade() -> None:
    _replace(DIVIDED)
