"""`check`: clean where the rows are right, and whatever is done to a row is found and kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg

from tests.support.daemon import run
from tests.system.test_bulk import BLOCKS, Chain, Databases, chain

__all__ = ["chain"]


async def check(chain: Chain, url: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = await asyncio.to_thread(
        run, "check", "--chain", chain.config, "--json", *arguments, env={"DATABASE_URL": url}
    )
    assert done.returncode == code, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def test_a_backfill_is_clean_and_every_kind_of_drift_is_found(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    chain.backfill(url, "--from-block", "0")
    clean = await check(chain, url, "--recompute")
    assert (clean["block"], clean["drifts"]) == (BLOCKS, []) and clean["rows_compared"] > 3_000
    assert (await check(chain, url, "--sample", "300"))["rows_compared"] > 100
    conn = await asyncpg.connect(url)
    spoilt = {
        "UPDATE account_balances SET balance = balance + 1 WHERE account_id = (SELECT min(account_id) FROM"
        " account_balances)": "account_balances are the sums of their entries",
        "UPDATE order_history SET r_pnl = COALESCE(r_pnl, 0) + 1 WHERE unique_id = (SELECT max(unique_id) FROM"
        " order_history)": "r_pnl = price_variation_pnl + funding_pnl",
        "DELETE FROM orders WHERE unique_id = (SELECT min(unique_id) FROM orders)":
            "orders and order_history tell the same executions",
        "UPDATE account_owner_updated_snapshot SET new_owner = '0x' WHERE account_id = (SELECT min(account_id) FROM"
        " account_owner_updated_history)": "the owner snapshot is the last of the history",
        "UPDATE positions SET base = base + 1 WHERE account_id = (SELECT min(account_id) FROM positions)":
            "positions and position_raw state the same",
        "UPDATE market_trackers SET open_interest = 5 WHERE market_data_id = (SELECT min(market_data_id) FROM"
        " market_trackers)": "market_trackers are the last of the history",
        "INSERT INTO token_transfer SELECT 'x', token, from_address, to_address, amount, transaction_hash,"
        " block_timestamp, block_number, 99, created_at FROM token_transfer LIMIT 1": "token_transfer has its logs",
        "UPDATE token_transfer SET amount = amount - 1 WHERE unique_id = (SELECT max(unique_id) FROM token_transfer)":
            "token_transfer as projected",
    }  # fmt: skip
    for statement in spoilt:
        await conn.execute(statement)
    found = await check(chain, url, "--recompute", code=33)
    names = {drift["check"] for drift in found["drifts"]}
    assert set(spoilt.values()) <= names
    assert {"account_balances as projected", "orders as projected", "positions as projected"} <= names
    kept = await conn.fetch('SELECT "check", subject, detail FROM indexer.drift ORDER BY id')
    assert [dict(row) for row in kept] == found["drifts"]
    reprojected = await asyncio.to_thread(run, "reproject", "--chain", chain.config, env={"DATABASE_URL": url})
    assert reprojected.returncode == 0, reprojected.stderr
    await conn.close()
    assert (await check(chain, url, "--recompute"))["drifts"] == []


async def test_check_refuses_an_empty_database(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    assert run("migrate", env={"DATABASE_URL": url}).returncode == 0
    done = run("check", "--chain", chain.config, env={"DATABASE_URL": url})
    assert done.returncode == 31 and "nothing is stored yet" in done.stderr
