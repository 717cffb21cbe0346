-- What consumers of the public tables run: one statement per "-- @query" block, parameters filled in.

-- @query Q01: raw trade count of the last 24 h
SELECT COUNT(*) as count
FROM public.order_history
WHERE block_timestamp >= EXTRACT(EPOCH FROM NOW() - INTERVAL '24 hours')::bigint
AND block_timestamp < EXTRACT(EPOCH FROM NOW())::bigint
AND type IN ('order', 'liquidation');

-- @query Q02: distinct wallets that traded in the last 24 h
WITH account_trades AS (
  SELECT DISTINCT account_id
  FROM public.order_history
  WHERE block_timestamp >= EXTRACT(EPOCH FROM NOW() - INTERVAL '24 hours')::bigint
  AND block_timestamp < EXTRACT(EPOCH FROM NOW())::bigint
  AND type IN ('order', 'liquidation')
),
latest_snapshots AS (
  SELECT
    DISTINCT ON (account_id)
    account_id,
    new_owner AS wallet
  FROM
    public.account_owner_updated_snapshot
  WHERE
    account_id IN (SELECT account_id FROM account_trades)
  ORDER BY
    account_id, block_timestamp DESC
)
SELECT COUNT(DISTINCT COALESCE(wallet, 'unknown')) as count
FROM latest_snapshots;

-- @query Q03: per-wallet leaderboard (size, PnL, win rate, fees, discord, name)
WITH account_trades AS (
  SELECT
    account_id,
    market_id,
    type,
    order_base,
    block_timestamp,
    (order_base * 1e-18 * price * 1e-18) as size_rusd,
    ROUND(r_pnl::numeric * 1e-18, 8) as r_pnl,
    ROUND(funding_pnl::numeric * 1e-18, 8) as funding_pnl,
    ROUND(fee::numeric * 1e-6, 8) as fee,
    CASE WHEN order_base < 0 THEN 'Short' ELSE 'Long' END as direction
  FROM
    public.order_history oh
  WHERE
    block_timestamp >= EXTRACT(EPOCH FROM NOW() - INTERVAL '24 hours')::bigint
    AND block_timestamp < EXTRACT(EPOCH FROM NOW())::bigint
    AND account_id <> 2
),
latest_snapshots AS (
  SELECT
    DISTINCT ON (account_id)
    account_id,
    transaction_hash,
    new_owner AS wallet,
    block_timestamp AS snapshot_timestamp
  FROM
    public.account_owner_updated_snapshot
  WHERE
    account_id IN (SELECT account_id FROM account_trades)
  ORDER BY
    account_id, block_timestamp DESC
),
trade_aggregates AS (
  SELECT
    COALESCE(ls.wallet, 'unknown') as wallet,
    array_agg(DISTINCT at.account_id) as account_ids,
    SUM(ABS(at.size_rusd)) as total_size,
    SUM(at.r_pnl) as total_pnl,
    COUNT(*) as trade_count,
    MAX(at.block_timestamp) as last_trade_time,
    SUM(at.fee) as total_fees,
    COUNT(CASE WHEN at.type = 'order' AND at.r_pnl > 0 THEN 1 END)::float /
    NULLIF(COUNT(CASE WHEN at.type IN ('order', 'liquidation') THEN 1 END), 0)::float as win_rate
  FROM
    account_trades at
  LEFT JOIN
    latest_snapshots ls ON at.account_id = ls.account_id
  GROUP BY
    COALESCE(ls.wallet, 'unknown')
)
SELECT
  ta.wallet,
  COALESCE(wd.name, wdl."discordUsername", ta.wallet) as display_name2,
  ta.account_ids,
  array_length(ta.account_ids, 1) as account_count,
  COALESCE(ta.total_size, 0) as total_size,
  COALESCE(ta.total_pnl, 0) as total_pnl,
  COALESCE(ta.win_rate, 0) as win_rate,
  COALESCE(ta.trade_count, 0) as trade_count,
  COALESCE(ta.last_trade_time, 0) as last_trade_time,
  COALESCE(ta.total_fees, 0) as total_fees,
  wd.name as wallet_name,
  COALESCE(wd.type::text, 'not_defined') as wallet_type,
  wdl."discordUsername" as discord_name,
  wdl."tradingRank" as trading_rank,
  COALESCE(wd.type::text, 'not_defined') as account_type,
  1 as feeTier,
  false as isOg,
  false as isSrusdOwner
FROM
  trade_aggregates ta
LEFT JOIN
  public."WalletDetails" wd ON ta.wallet = wd.wallet
LEFT JOIN
  public."WalletDiscordLink" wdl ON ta.wallet = wdl."walletAddress"
WHERE
  ta.trade_count > 0
ORDER BY
  ta.trade_count DESC;

-- @query Q04: exchange KPIs (volume, trades, active accounts, wallets, open interest)
WITH TimeFrame AS (
  SELECT EXTRACT(EPOCH FROM NOW() - '1d'::interval) AS start_epoch
),
OrderStats AS (
  SELECT
    COALESCE(SUM(ABS(order_base) / 1e18 * price / 1e18), 0) AS volume,
    COUNT(*) AS trades,
    COUNT(DISTINCT account_id) AS active_wallets
  FROM public.order_history, TimeFrame
  WHERE block_timestamp >= start_epoch AND type IN ('order', 'liquidation')
),
WalletStats AS (
  SELECT COUNT(DISTINCT new_owner) AS total_wallets
  FROM public.account_owner_updated_snapshot
),
OpenInterestStats AS (
  SELECT COALESCE(SUM(open_interest) / 1e18, 0) AS open_interest
  FROM (
    SELECT DISTINCT ON (market_data_id) open_interest
    FROM public.market_trackers
    ORDER BY market_data_id, block_timestamp DESC
  ) AS latest_market_trackers
)
SELECT
  (SELECT volume FROM OrderStats) AS volume,
  (SELECT trades FROM OrderStats) AS trades,
  (SELECT active_wallets FROM OrderStats) AS active_wallets,
  (SELECT total_wallets FROM WalletStats) AS total_wallets,
  (SELECT open_interest FROM OpenInterestStats) AS open_interest;

-- @query Q05: the same KPIs, literal interval and unquoted camelCase aliases
WITH TimeFrame AS (
    SELECT EXTRACT(EPOCH FROM NOW() - '1 day'::interval) AS start_epoch
),
OrderStats AS (
    SELECT
        COALESCE(SUM(ABS(order_base) / 1e18 * price / 1e18), 0) AS volume,
        COUNT(*) AS trades,
        COUNT(DISTINCT account_id) AS activeWallets
    FROM public.order_history, TimeFrame
    WHERE block_timestamp >= start_epoch AND type IN ('order', 'liquidation')
),
WalletStats AS (
    SELECT COUNT(DISTINCT new_owner) AS totalWallets
    FROM public.account_owner_updated_snapshot
),
OpenInterestStats AS (
    SELECT COALESCE(SUM(open_interest) / 1e18, 0) AS openInterest
    FROM (
        SELECT DISTINCT ON (market_data_id) open_interest
        FROM public.market_trackers
        ORDER BY market_data_id, block_timestamp DESC
    ) AS latest_market_trackers
)
SELECT
    (SELECT volume FROM OrderStats) AS volume,
    (SELECT trades FROM OrderStats) AS trades,
    (SELECT activeWallets FROM OrderStats) AS activewallets,
    (SELECT totalWallets FROM WalletStats) AS totalwallets,
    (SELECT openInterest FROM OpenInterestStats) AS openinterest;

-- @query Q06: volume and trades by market with latest open interest and funding rate
WITH filtered AS (
  SELECT market_id, account_id, block_timestamp, order_base, price
  FROM public.order_history
  WHERE block_timestamp >= (EXTRACT(EPOCH FROM NOW()) - 86400)::bigint AND type IN ('order','liquidation')
),
volumes_by_market AS (
  SELECT
    market_id,
    COALESCE(SUM(ABS((order_base::numeric / 1e18) * (price::numeric / 1e18))), 0) AS volume_tf,
    COUNT(*) AS number_of_trades_tf
  FROM filtered f
  GROUP BY market_id
),
latest_trackers AS (
  SELECT DISTINCT ON (market_data_id)
    market_data_id,
    open_interest,
    last_funding_rate,
    block_timestamp
  FROM public.market_trackers
  ORDER BY market_data_id, block_timestamp DESC
)
SELECT
  v.market_id,
  v.volume_tf,
  v.number_of_trades_tf,
  COALESCE(lt.open_interest::numeric / 1e18, 0) AS open_interest,
  COALESCE(lt.last_funding_rate::numeric / 1e18, 0) AS current_funding_rate
FROM volumes_by_market v
LEFT JOIN latest_trackers lt ON lt.market_data_id = v.market_id
ORDER BY v.volume_tf DESC
LIMIT 50;

-- @query Q07: the same with marketId and walletAddress filters
WITH filtered AS (
  SELECT market_id, account_id, block_timestamp, order_base, price
  FROM public.order_history
  WHERE block_timestamp >= (EXTRACT(EPOCH FROM NOW()) - 86400)::bigint AND type IN ('order','liquidation') AND market_id = '1'
),
latest_owners AS (
  SELECT DISTINCT ON (account_id)
    account_id,
    new_owner AS wallet
  FROM public.account_owner_updated_snapshot
  ORDER BY account_id, block_timestamp DESC
),
volumes_by_market AS (
  SELECT
    market_id,
    COALESCE(SUM(ABS((order_base::numeric / 1e18) * (price::numeric / 1e18))), 0) AS volume_tf,
    COUNT(*) AS number_of_trades_tf
  FROM filtered f
  JOIN latest_owners lo ON f.account_id = lo.account_id
  WHERE lo.wallet = '0x6c51275fd01d5dbd2da194e92f920f8598306df2'
  GROUP BY market_id
),
latest_trackers AS (
  SELECT DISTINCT ON (market_data_id)
    market_data_id,
    open_interest,
    last_funding_rate,
    block_timestamp
  FROM public.market_trackers
  ORDER BY market_data_id, block_timestamp DESC
)
SELECT
  v.market_id,
  v.volume_tf,
  v.number_of_trades_tf,
  COALESCE(lt.open_interest::numeric / 1e18, 0) AS open_interest,
  COALESCE(lt.last_funding_rate::numeric / 1e18, 0) AS current_funding_rate
FROM volumes_by_market v
LEFT JOIN latest_trackers lt ON lt.market_data_id = v.market_id
ORDER BY v.volume_tf DESC
LIMIT 50;

-- @query Q10: traders by wallet over created_at, with discord rank and fee tier
WITH latest_owners AS (
  SELECT DISTINCT ON (account_id)
      account_id,
      new_owner AS wallet
  FROM public.account_owner_updated_snapshot
  ORDER BY account_id, block_timestamp DESC
),
order_history_filtered AS (
  SELECT *
  FROM public.order_history
  WHERE created_at >= to_timestamp((EXTRACT(EPOCH FROM NOW()) * 1000 - 86400000) / 1000.0) AND market_id = '1' AND account_id = '95681'
)
SELECT
    lo.wallet AS trader_wallet,
    array_agg(DISTINCT ohf.account_id) AS account_ids,
    wdl."discordUsername" AS discord_username,
    wdl.rank AS discord_rank,
    aoc.tier_id AS tier_id,
    COALESCE(SUM(ohf.order_base::numeric * ohf.price::numeric), 0) AS total_size,
    COUNT(ohf.id) AS trade_count,
    EXTRACT(EPOCH FROM MAX(ohf.created_at)) * 1000 AS last_trade_time,
    0 AS total_pnl,
    0 AS win_rate,
    0 AS total_fees,
    0 AS funding_paid,
    0 AS funding_received
FROM order_history_filtered ohf
JOIN latest_owners lo ON ohf.account_id = lo.account_id
LEFT JOIN public."WalletDiscordLink" wdl ON lo.wallet = wdl."walletAddress"
LEFT JOIN public.account_owner_configuration aoc ON lo.wallet = aoc.owner_address
WHERE lo.wallet = '0x6c51275fd01d5dbd2da194e92f920f8598306df2'
GROUP BY
    lo.wallet,
    wdl."discordUsername",
    wdl.rank,
    aoc.tier_id
ORDER BY trade_count DESC LIMIT 50 OFFSET 0;

-- @query Q11: the same without optional filters and without paging
WITH latest_owners AS (
  SELECT DISTINCT ON (account_id)
      account_id,
      new_owner AS wallet
  FROM public.account_owner_updated_snapshot
  ORDER BY account_id, block_timestamp DESC
),
order_history_filtered AS (
  SELECT *
  FROM public.order_history
  WHERE created_at >= to_timestamp((EXTRACT(EPOCH FROM NOW()) * 1000 - 86400000) / 1000.0)
)
SELECT
    lo.wallet AS trader_wallet,
    array_agg(DISTINCT ohf.account_id) AS account_ids,
    wdl."discordUsername" AS discord_username,
    wdl.rank AS discord_rank,
    aoc.tier_id AS tier_id,
    COALESCE(SUM(ohf.order_base::numeric * ohf.price::numeric), 0) AS total_size,
    COUNT(ohf.id) AS trade_count,
    EXTRACT(EPOCH FROM MAX(ohf.created_at)) * 1000 AS last_trade_time,
    0 AS total_pnl, 0 AS win_rate, 0 AS total_fees, 0 AS funding_paid, 0 AS funding_received
FROM order_history_filtered ohf
JOIN latest_owners lo ON ohf.account_id = lo.account_id
LEFT JOIN public."WalletDiscordLink" wdl ON lo.wallet = wdl."walletAddress"
LEFT JOIN public.account_owner_configuration aoc ON lo.wallet = aoc.owner_address
GROUP BY lo.wallet, wdl."discordUsername", wdl.rank, aoc.tier_id
ORDER BY last_trade_time ASC;

-- @query Q12: current owner of an account
SELECT
  DISTINCT ON (account_id) account_id,
  new_owner AS wallet
FROM
  public.account_owner_updated_snapshot
WHERE
  account_id = '95681'
ORDER BY
  account_id, block_timestamp DESC
LIMIT 1;

-- @query Q13: fee tier, OG status, srUSD ownership of a wallet
WITH srUSD_owners AS (
  SELECT action_metadata_on_behalf_of AS user
  FROM lp_unified_account_balance_entries
  WHERE action_metadata_action = 6 OR action_metadata_action = 8
  GROUP BY action_metadata_on_behalf_of
)
SELECT
  fees.tier_id AS "feeTier",
  CASE WHEN fees.og_status = TRUE THEN TRUE ELSE FALSE END AS "isOg",
  CASE WHEN srusd.user IS NOT NULL THEN TRUE ELSE FALSE END AS "isSrusdOwner"
FROM public.account_owner_configuration fees
LEFT JOIN srUSD_owners srusd ON srusd.user = fees.owner_address
WHERE fees.owner_address = '0x6c51275fd01d5dbd2da194e92f920f8598306df2'
LIMIT 1;
