"""Market views of `public`. Migrations must have created exactly this text; `migrate --check` compares the two.

`trades` only repeats `orders`, under the names that consumers know. `"Market"` is a table in the Prisma schema, but its
24-hour columns depend on the current time, and such a row cannot be compared with a recompute (public rows are
functions of the chain alone). So here it is a view over `market_storage`, `market_trackers`, the feature flags and
`order_history`.

Each column has the type of the Prisma schema, and no value of the chain can make a view fail: integers are cast only if
they fit. Values that no event contains (leverage, available open interest, tick size, texts) are 0 or empty, because
the Prisma schema has these columns NOT NULL.

The Prisma schema fixes double precision for the decimal columns. Each is computed as an exact numeric and cast last, so
it is the double nearest to the exact value; who needs the exact value reads `market_trackers` and `order_history`.
"""

from __future__ import annotations

_INT = "(CASE WHEN {0} BETWEEN -2147483648 AND 2147483647 THEN {0} ELSE 0 END)::integer"


def _human(expression: str, digits: int = 18) -> str:
    return f"COALESCE(({expression}) * 1e-{digits}, 0)::double precision"


TRADES = """
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

# openInterest is one-sided: every long has its short (the pool's included), so both sides equal it.
# fundingRate is per day, as MarketDataUpdated states it. The price changes compare the first and the last execution of
# the last 24 hours; the percentage is their ratio and no amount, hence the only division. isActive: the passive perp's
# marketEnabled flag of this market allows all and denies none.
MARKET = f"""
SELECT
  s.market_id::numeric(78,0) AS id,
  COALESCE(s.name, '')::text AS ticker,
  {_human("COALESCE(t.mark_price, t.last_mtm_price)")} AS "markPrice",
  EXISTS (
    SELECT FROM indexer.market_feature m JOIN indexer.feature_flag f ON f.feature = m.feature
    WHERE m.market_id = s.market_id AND f.allow_all AND NOT f.deny_all
  )::boolean AS "isActive",
  0::double precision AS "maxLeverage",
  {_human("d.volume", 36)} AS "volume24H",
  {_human("d.last_price - d.first_price")} AS "priceChange24H",
  {_human("t.open_interest")} AS "longOI",
  {_human("t.open_interest")} AS "shortOI",
  0::double precision AS "availableLong",
  0::double precision AS "availableShort",
  0::double precision AS "marketPriceDeviation",
  {_INT.format("s.risk_block_id")} AS "riskBlockId",
  {_INT.format("s.collateral_pool_id")} AS "rootCollateralPoolId",
  ''::text AS description,
  COALESCE(s.name, '')::text AS name,
  COALESCE(s.quote_collateral, '')::text AS "quoteTokenId",
  0::integer AS "tickSizeDecimals",
  ''::text AS "underlyingAssetId",
  COALESCE((d.last_price - d.first_price) * 100 / NULLIF(d.first_price, 0), 0)::double precision
    AS "priceChange24HPercentage",
  {_human("t.open_interest")} AS "openInterest",
  {_human("t.last_funding_rate")} AS "fundingRate",
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

# In creation order.
VIEWS: dict[str, str] = {"trades": TRADES.strip(), "Market": MARKET.strip()}
