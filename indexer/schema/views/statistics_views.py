"""Statistics views over executions, and balances under alternative names.

They are views because tables would only repeat `order_history`, and `volume_14d` depends on the current time (public
rows are functions of the chain alone). Executions of type 'order' or 'liquidation' count, for the account that traded
or was liquidated and for its owner at that time. Volume, fees and PnL (rUSD).

Amounts are multiplied by a power of ten, which is exact (integers stay integers). PostgreSQL's division keeps about 16
significant digits: a volume of 10^20 rUSD would lose its cents.
"""

from __future__ import annotations

_SUMS = """
  SUM(ABS(o.order_base) * o.price) * 1e-36 AS volume,
  {extra}COUNT(*)::bigint AS number_of_trades,
  SUM(o.r_pnl) * 1e-18 AS realized_pnl,
  SUM(o.fee) * 1e-6 AS fees,
  MAX(o.created_at)::timestamp(3) AS updated_at"""

_TRADES = "o.type IN ('order', 'liquidation')"

ACCOUNT = f"""
SELECT
  o.account_id::numeric(78,0) AS account_id,{_SUMS.format(extra="")}
FROM public.order_history o
WHERE {_TRADES}
GROUP BY o.account_id
"""

ACCOUNT_MARKET = f"""
SELECT
  o.account_id::numeric(78,0) AS account_id,
  o.market_id::numeric(78,0) AS market_id,{_SUMS.format(extra="")}
FROM public.order_history o
WHERE {_TRADES}
GROUP BY o.account_id, o.market_id
"""

_LAST_14_DAYS = """COALESCE(SUM(ABS(o.order_base) * o.price) FILTER (
    WHERE o.block_timestamp >= EXTRACT(EPOCH FROM now() - INTERVAL '14 days')::bigint
  ) * 1e-36, 0) AS volume_14d,
  """

# Each account's owners, from which log to which. An account that only AccountCreated mentions has its first owner.
_OWNERS = """
  SELECT h.account_id, h.new_owner, h.unique_id AS first,
    LEAD(h.unique_id) OVER (PARTITION BY h.account_id ORDER BY h.unique_id) AS next
  FROM public.account_owner_updated_history h
  UNION ALL
  SELECT s.account_id, s.new_owner, s.unique_id, NULL
  FROM public.account_owner_updated_snapshot s
  WHERE NOT EXISTS (SELECT FROM public.account_owner_updated_history h WHERE h.account_id = s.account_id)
"""

WALLET = f"""
SELECT
  w.new_owner::text AS wallet_address,{_SUMS.format(extra=_LAST_14_DAYS)}
FROM ({_OWNERS}) w
JOIN public.order_history o
  ON o.account_id = w.account_id AND o.unique_id >= w.first AND (w.next IS NULL OR o.unique_id < w.next)
WHERE {_TRADES}
GROUP BY w.new_owner
"""

NET_BALANCE = """
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
"""

# No event contains the price impact of the volume, so the column is NULL.
PRICE_IMPACT = """
SELECT
  o.id::text AS id,
  NULL::numeric(78,0) AS vol_price_impact,
  o.block_timestamp::numeric(78,0) AS block_timestamp
FROM public.order_history o
"""

VIEWS: dict[str, str] = {
    "trading_stats_account": ACCOUNT.strip(),
    "trading_stats_account_market": ACCOUNT_MARKET.strip(),
    "trading_stats_wallet": WALLET.strip(),
    "account_collateral_net_balance": NET_BALANCE.strip(),
    "order_with_vol_price_impact": PRICE_IMPACT.strip(),
}
