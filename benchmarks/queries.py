"""The consumers' queries on a large database: how long each takes, and what its plan reads.

    python -m benchmarks.queries [--orders 1000000] [--json FILE]

The tables are filled with made rows: 90 days of orders, most of them of few accounts and markets, all that the queries
join beside them. Each query of tests/data/queries.sql is then run as published, and for a market and an account that
trade little. Missed, and exit code 1: a median above 200 ms, a sequential scan of a table of more than 100,000 rows, an
index that neither a query nor one of `READERS` uses, or a reader that does not use its index. The views that add up
executions are only told: they have no limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, machine, report
from indexer.db.connection import Connection, connect
from indexer.schema import migrate
from tests.support.postgres import own_postgres
from tests.support.published import queries

LIMIT = 200.0  # ms
# Rows. A smaller table may be read whole: of all accounts a sixth traded, and each one's owner is asked for.
LARGE = 100_000
TOLD = 10_000
RUNS = 7
DAYS = 90
WALLET, ACCOUNT = "0x6c51275fd01d5dbd2da194e92f920f8598306df2", 95681

# {n}: orders. A twentieth as many accounts, two thirds as many wallets; the fewer the number, the more it trades.
_ORDER = """
  SELECT i, '0x' || md5(i::text) || md5('x' || i) AS hash,
    1 + floor(80 * power(random(), 4)) AS market,
    CASE WHEN random() < 0.01 THEN {account} ELSE 100000 + floor({accounts} * power(random(), 3)) END AS account,
    CASE WHEN random() < 0.5 THEN -1 ELSE 1 END * floor(1e18 * (0.001 + random() * 10)) AS base,
    floor(1e18 * (1 + random() * 3000)) AS price,
    extract(epoch FROM now())::bigint - ({n} - i) * {days} * 86400 / {n} AS second,
    (10000000 + i * 20)::bigint AS block, random() AS chance
  FROM generate_series(1, {n}::bigint) i
"""
FILL = {
    "order_history": """
INSERT INTO order_history SELECT hash || '-' || i % 40, market, account, base, floor(chance * 1e8), price,
  CASE WHEN chance < 0.02 THEN 'liquidation' WHEN chance < 0.025 THEN 'adl' ELSE 'order' END, true,
  CASE WHEN chance < 0.5 THEN floor((chance - 0.25) * 1e21) END, NULL, NULL, price, NULL, hash, second, block,
  block * 100000 + i % 40, to_timestamp(second) FROM ({order}) o
""",
    "orders": """
INSERT INTO orders (id, market_id, account_id, counterparty_account_id, executed_base, fee, price, is_match_order,
  me_nonce, event_sequence_number, transaction_hash, block_timestamp, block_number, unique_id, created_at)
SELECT hash || '-' || i % 40, market, account, 2, base, floor(chance * 1e8), price, true,
  CASE WHEN i > {n} / 2 THEN i END, CASE WHEN i > {n} / 2 THEN i END, hash, second, block, block * 100000 + i % 40,
  to_timestamp(second) FROM ({order}) o
""",
    "account_owner_updated_snapshot": """
INSERT INTO account_owner_updated_snapshot SELECT a, '0x' || left(md5((a % {wallets})::text) || md5('w'), 40),
  '0x' || md5(a::text), 1700000000 + a, 1000 + a, (1000 + a) * 100000
FROM generate_series(100000::bigint, 100000 + {accounts}) a
UNION ALL SELECT {account}, '{wallet}', '0x', 1700000000, 900, 90000000
""",
    "account_owner_updated_history": """
INSERT INTO account_owner_updated_history SELECT account_id || '-0', account_id, new_owner, '0x', block_timestamp,
  block_number, unique_id FROM account_owner_updated_snapshot
""",
    "market_storage": """
INSERT INTO market_storage (market_id, name, block_number) SELECT m, 'm' || m, 1000 FROM generate_series(1, 80) m
""",
    "market_trackers": """
INSERT INTO market_trackers (market_data_id, open_interest, last_funding_rate, block_timestamp, block_number)
SELECT m, m * 1e18, m * 1e15, 1700000000, 1000 FROM generate_series(1, 80) m
""",
    "position_raw": """
INSERT INTO position_raw (market_id, account_id, base, transaction_hash, block_timestamp, block_number)
SELECT DISTINCT market_id, account_id, 1e18, '0x', 1700000000, 1000 FROM order_history
""",
    "positions": """
INSERT INTO positions (market_id, account_id, base, block_timestamp, block_number)
SELECT market_id, account_id, base, block_timestamp, block_number FROM position_raw
""",
    "account_balances": """
INSERT INTO account_balances SELECT account_id, c, 1000000, 1 FROM account_owner_updated_snapshot,
  unnest(ARRAY['0xa9f32a851b1800742e47725da54a09a7ef2556a3', '0x162b78e827a8db8173d13735c08c8d40cb5ccdab']) c
""",
    "lp_unified_account_balance_entries": """
INSERT INTO lp_unified_account_balance_entries (id, pool_id, account, action_metadata_action,
  action_metadata_on_behalf_of, transaction_hash, block_number, unique_id)
SELECT md5(i::text), 1, '0x', i % 10, CASE WHEN i % 1000 = 6 THEN '{wallet}'
  ELSE '0x' || left(md5((i % {wallets})::text) || md5('w'), 40) END, '0x', i, i * 100000
FROM generate_series(1, {n}::bigint / 5) i
""",
    "margin_accounts_balance_entries": """
INSERT INTO margin_accounts_balance_entries (id, transaction_hash, block_number, unique_id)
SELECT md5(i::text), '0x', i, i * 100000 FROM generate_series(1, {n}::bigint / 10) i
""",
    "account_owner_configuration": """
INSERT INTO account_owner_configuration (owner_address, tier_id, og_status)
SELECT new_owner, count(*), true FROM account_owner_updated_snapshot GROUP BY new_owner
""",
    "WalletDetails": """
INSERT INTO "WalletDetails" SELECT owner_address, 'name', 'internal' FROM account_owner_configuration
WHERE left(md5(owner_address), 1) = 'a'
""",
    "WalletDiscordLink": """
INSERT INTO "WalletDiscordLink" ("walletAddress", "discordId", "discordUsername", rank, "createdAt", "updatedAt")
SELECT owner_address, md5(owner_address), 'user', 'rank', now(), now() FROM account_owner_configuration
WHERE left(md5(owner_address), 1) IN ('a', 'b', 'c')
""",
}
# Index -> who reads by it though no published query does, and how.
READERS = {
    "margin_accounts_balance_entries_unique_id_idx": (
        "rollback: rows above a block",
        "SELECT ctid FROM margin_accounts_balance_entries WHERE unique_id >= 100000000000000",
    ),
    "order_history_account_id_block_timestamp_idx": (
        "schema.prisma: an owner's order_history, newest first",
        "SELECT * FROM order_history WHERE account_id = 149999 ORDER BY block_timestamp DESC LIMIT 50",
    ),
    "orders_account_id_block_timestamp_idx": (
        "schema.prisma: an owner's orders, newest first; the view trades",
        "SELECT * FROM trades WHERE account_id = 149999 ORDER BY block_timestamp DESC LIMIT 50",
    ),
    "orders_market_id_block_timestamp_idx": (
        "schema.prisma: a market's orders, newest first; the view trades",
        "SELECT * FROM trades WHERE market_id = 77 ORDER BY block_timestamp DESC LIMIT 50",
    ),
    "orders_me_nonce_event_sequence_number_idx": (
        "the API's fills, whose id is me_nonce",
        "SELECT fee, pool_fee_credit FROM orders WHERE me_nonce = 5 ORDER BY event_sequence_number",
    ),
    "position_raw_account_id_idx": (
        "schema.prisma: an owner's position_raw",
        "SELECT * FROM position_raw WHERE account_id = 149999",
    ),
    "positions_account_id_idx": (
        "schema.prisma: an owner's positions",
        "SELECT * FROM positions WHERE account_id = 149999",
    ),
    "account_balances_collateral_idx": (
        "schema.prisma: an asset's account_balances",
        "SELECT * FROM account_balances WHERE collateral = '0x11'",
    ),
}
VIEWS = {
    '"Market", all': 'SELECT * FROM "Market"',
    "trades, newest of a market": "SELECT * FROM trades WHERE market_id = 1 ORDER BY block_timestamp DESC LIMIT 100",
    "trading_stats_account, one": f"SELECT * FROM trading_stats_account WHERE account_id = {ACCOUNT}",
    "trading_stats_wallet, one": f"SELECT * FROM trading_stats_wallet WHERE wallet_address = '{WALLET}'",
    "trading_stats_wallet, all": "SELECT * FROM trading_stats_wallet",
}
EXTRA_INDEXES = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisunique ORDER BY 1
"""


@dataclass
class Plan:
    """What a plan reads: indexes, and tables read from end to end that have many rows."""

    indexes: set[str] = field(default_factory=set)
    scanned: dict[str, int] = field(default_factory=dict)


async def fill(conn: Connection, orders: int) -> None:
    """Made rows in the migrated database's tables, and statistics about them."""
    accounts = max(orders // 20, 50)
    given = {
        "n": orders, "accounts": accounts, "wallets": accounts * 2 // 3, "account": ACCOUNT, "wallet": WALLET,
        "days": DAYS,
    }  # fmt: skip
    await conn.execute("SET statement_timeout = 0; SELECT setseed(0.5)")
    for statement in FILL.values():
        await conn.execute(statement.format(order=_ORDER.format(**given), **given))
    await conn.execute("VACUUM ANALYZE")


async def plan_of(conn: Connection, query: str) -> Plan:
    """The plan as the server makes it now."""
    found = json.loads(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {query}"))
    sizes = {r[0]: r[1] for r in await conn.fetch("SELECT relname, reltuples FROM pg_class WHERE relkind = 'r'")}
    plan = Plan()
    for node in _nodes(found[0]["Plan"]):
        if "Index Name" in node:
            plan.indexes.add(node["Index Name"])
        if node["Node Type"] == "Seq Scan" and sizes[node["Relation Name"]] > TOLD:
            plan.scanned[node["Relation Name"]] = int(sizes[node["Relation Name"]])
    return plan


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


def variants() -> dict[str, str]:
    """The queries as published, and those with a market or an account for ones that trade little."""
    found = queries()
    for name, query in list(found.items()):
        quiet = query.replace("market_id = '1'", "market_id = '77'").replace(f"'{ACCOUNT}'", "'149999'")
        if quiet != query:
            found[f"{name}, quiet"] = quiet
    return found


async def wrong_indexes(conn: Connection, used: set[str]) -> list[str]:
    """Indexes beyond keys that neither the queries use nor their reader in READERS."""
    wrong = []
    for (name,) in await conn.fetch(EXTRA_INDEXES):
        if name not in used and (name not in READERS or name not in (await plan_of(conn, READERS[name][1])).indexes):
            wrong.append(name)
    return wrong


async def timed(conn: Connection, query: str) -> tuple[float, int]:
    """Milliseconds, the median of some runs after the first, and rows."""
    rows, times = await conn.fetch(query), []
    for _ in range(RUNS):
        started = time.perf_counter()
        await conn.fetch(query)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), len(rows)


async def measure(url: str, orders: int) -> list[Figure]:
    await migrate.upgrade_async(url)
    conn = await connect(url)
    try:
        print(f"filling the tables with {orders:,} orders", file=sys.stderr, flush=True)
        await fill(conn, orders)
        figures, used = [], set[str]()
        for name, query in variants().items():
            plan = await plan_of(conn, query)
            used |= plan.indexes
            spent, rows = await timed(conn, query)
            scans = [f"all {size:,} of {name}" for name, size in sorted(plan.scanned.items())]
            note = f"reads {', '.join([*sorted(plan.indexes), *scans])}; gives {rows:,} rows"
            large = sorted(name for name, size in plan.scanned.items() if size > LARGE)
            numbers = {"rows": rows, "large_scans": large, "scans": plan.scanned, "indexes": sorted(plan.indexes)}
            figures.append(Figure(name, spent, " ms", LIMIT, most=True, note=note, numbers=numbers))
        for name, query in VIEWS.items():
            spent, rows = await timed(conn, query)
            figures.append(Figure(name, spent, " ms", note=f"gives {rows:,} rows", numbers={"rows": rows}))
        unused = await wrong_indexes(conn, used)
        note = ", ".join(unused) or "each is used by a query here or by a documented reader"
        figures.append(Figure("indexes that nothing uses", len(unused), "", 0, most=True, note=note))
        return figures
    finally:
        await conn.close()


def missed(figures: list[Figure]) -> bool:
    return any(not figure.ok or figure.numbers.get("large_scans") for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description="The consumers' queries on a large database.")
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    given = parser.parse_args()
    with own_postgres("bench", None) as server:
        server.ensure_database("bench_queries")
        figures = asyncio.run(measure(server.url("bench_queries"), given.orders))
    if given.json:
        told = {"orders": given.orders, "machine": machine(), "figures": [figure.as_json() for figure in figures]}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    print(report(figures))
    sys.exit(missed(figures))


if __name__ == "__main__":
    main()
