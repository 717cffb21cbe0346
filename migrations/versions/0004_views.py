"""The views of `public`: `trades` over `orders`, and `"Market"`, whose 24-hour columns depend on now.

Revision: 0004, after 0003. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TRADES = """
CREATE VIEW public.trades AS
SELECT
  o.id::text AS id,
  o.market_id::numeric(78,0) AS market_id,
  o.account_id::numeric(78,0) AS account_id,
  o.executed_base::numeric(78,0) AS base,
  o.price::numeric(78,0) AS price,
  o.fee::numeric(78,0) AS fee,
  o.transaction_hash::text AS transaction_hash,
  o.block_timestamp::numeric(78,0) AS block_timestamp,
  o.block_number::numeric(78,0) AS block_number,
  o.unique_id::bigint AS unique_id
FROM public.orders o
"""

MARKET = """
CREATE VIEW public."Market" AS
SELECT
  s.market_id::numeric(78,0) AS id,
  COALESCE(s.name, '')::text AS ticker,
  COALESCE(COALESCE(t.mark_price, t.last_mtm_price) / 1e18, 0)::double precision AS "markPrice",
  EXISTS (
    SELECT FROM indexer.market_feature m JOIN indexer.feature_flag f ON f.feature = m.feature
    WHERE m.market_id = s.market_id AND f.allow_all AND NOT f.deny_all
  )::boolean AS "isActive",
  0::double precision AS "maxLeverage",
  COALESCE(d.volume / 1e36, 0)::double precision AS "volume24H",
  COALESCE((d.last_price - d.first_price) / 1e18, 0)::double precision AS "priceChange24H",
  COALESCE(t.open_interest / 1e18, 0)::double precision AS "longOI",
  COALESCE(t.open_interest / 1e18, 0)::double precision AS "shortOI",
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
  COALESCE(t.open_interest / 1e18, 0)::double precision AS "openInterest",
  COALESCE(t.last_funding_rate / 1e18, 0)::double precision AS "fundingRate",
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


def upgrade() -> None:
    op.execute(TRADES)
    op.execute(MARKET)


def downgrade() -> None:
    op.execute('DROP VIEW public."Market", public.trades')
