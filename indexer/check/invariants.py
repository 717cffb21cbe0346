"""Invariants between the tables, as queries that find the rows that violate them.

Each query returns (subject, detail) per drift. They compare rows with rows; `indexer.check.recompute` checks that rows
follow from the raw logs by projecting those again.
"""

from __future__ import annotations

from indexer.chain.types import LOGS_PER_BLOCK
from indexer.db.catalog import COLUMNS, sql_name, table_kind

MAX_REPORTED = 100  # drifts reported per invariant

# A row with a value that does not fit its column is an incident and in no table, but its counterpart in another table
# may exist. Without this exception each misfit would be reported as drift.
UNFIT = "SELECT split_part(subject, ' ', 2) FROM indexer.incident WHERE kind = 'value_misfit'"


def _without_log() -> dict[str, str]:
    queries = {}
    for name in COLUMNS:
        if table_kind(name) == "append":
            queries[f"{name} has its logs"] = (
                f"SELECT t.id AS subject, 'no raw log stands at unique_id ' || t.unique_id AS detail"
                f" FROM {sql_name(name)} t LEFT JOIN indexer.raw_log r"
                f" ON r.block_number = t.unique_id / {LOGS_PER_BLOCK} AND r.log_index = t.unique_id % {LOGS_PER_BLOCK}"
                " WHERE r.log_index IS NULL"
            )
    return queries


def _equal(columns: list[str]) -> str:
    return " AND ".join(f'a."{c}" IS NOT DISTINCT FROM b."{c}"' for c in columns)


_POSITION = [c for c in COLUMNS["positions"] if c in COLUMNS["position_raw"]]
_TRACKERS = [c for c in COLUMNS["market_trackers_history"] if c in COLUMNS["market_trackers"]]

INVARIANTS: dict[str, str] = {
    "account_balances are the sums of their entries": """
        SELECT account_id || ' ' || collateral AS subject,
          'balance ' || COALESCE(b.balance::text, 'none') || ', entries ' || COALESCE(e.total::text, 'none') AS detail
        FROM public.account_balances b FULL JOIN (
          SELECT account_id, collateral, SUM(amount) AS total FROM public.account_collateral_balance_entries
          GROUP BY account_id, collateral
        ) e USING (account_id, collateral)
        WHERE b.balance IS DISTINCT FROM e.total""",
    "r_pnl = price_variation_pnl + funding_pnl": """
        SELECT id AS subject, 'r_pnl ' || COALESCE(r_pnl::text, 'none') AS detail FROM public.order_history
        WHERE r_pnl IS DISTINCT FROM price_variation_pnl + funding_pnl""",
    "orders and order_history tell the same executions": f"""
        SELECT id AS subject, 'in one table only, or otherwise in the other' AS detail
        FROM public.orders o FULL JOIN public.order_history h USING (id)
        WHERE (o.unique_id IS DISTINCT FROM h.unique_id OR o.executed_base IS DISTINCT FROM h.order_base
          OR o.price IS DISTINCT FROM h.price OR o.fee IS DISTINCT FROM h.fee
          OR o.account_id IS DISTINCT FROM h.account_id OR o.market_id IS DISTINCT FROM h.market_id)
          AND id NOT IN ({UNFIT})""",
    "the owner snapshot is the last of the history": """
        SELECT s.account_id::text AS subject, 'snapshot ' || COALESCE(s.new_owner, 'none') AS detail
        FROM public.account_owner_updated_snapshot s JOIN (
          SELECT DISTINCT ON (account_id) account_id, new_owner FROM public.account_owner_updated_history
          ORDER BY account_id, unique_id DESC
        ) h USING (account_id)
        WHERE s.new_owner IS DISTINCT FROM h.new_owner""",
    "positions and position_raw state the same": f"""
        SELECT market_id || ' ' || account_id AS subject, 'other values' AS detail
        FROM public.positions a FULL JOIN public.position_raw b USING (market_id, account_id)
        WHERE NOT ({_equal(_POSITION)})
          AND NOT EXISTS (SELECT FROM indexer.incident WHERE kind = 'value_misfit' AND subject LIKE 'position%')""",
    "market_trackers are the last of the history": f"""
        SELECT a.market_data_id::text AS subject, 'other values' AS detail
        FROM public.market_trackers a LEFT JOIN (
          SELECT DISTINCT ON (market_data_id) * FROM public.market_trackers_history
          ORDER BY market_data_id, unique_id DESC
        ) b USING (market_data_id)
        WHERE NOT ({_equal([c for c in _TRACKERS if c != "market_data_id"])})
          AND NOT EXISTS (
            SELECT FROM indexer.incident WHERE kind = 'value_misfit' AND subject LIKE 'market_tracker%'
          )""",
    "what was enriched is of a block of the chain": """
        SELECT e.table_name || ' ' || e.key AS subject, 'read at another block ' || e.block_number AS detail
        FROM indexer.enrichment e JOIN indexer.block b ON b.number = e.block_number WHERE b.hash <> e.block_hash""",
    "blocks with logs have a row": """
        SELECT r.block_number::text AS subject, 'logs of a block without a row' AS detail
        FROM indexer.raw_log r LEFT JOIN indexer.block b ON b.number = r.block_number
        WHERE b.number IS NULL GROUP BY r.block_number""",
} | _without_log()
