"""Views repeat every digit of the chain's integers: each against plain Python integers up to 2^255, remainders of 1 wei
included; and no view definition divides an amount, so that none begins to."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from sqlalchemy import BigInteger, Boolean, Column, Integer, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.db.catalog import sql_name
from indexer.db.connection import Connection, connection
from indexer.schema import migrate
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS
from indexer.schema.views.finality_views import split

Databases = Callable[[], str]
Row = dict[str, Any]
CONTRACT = Path(__file__).parents[1] / "data" / "contract_columns.tsv"
HUGE = 2**255
CREATED = "2026-01-02T03:04:05.678"
FINAL, SAFE = 10, 20  # blocks
LONG_AGO = 30 * 86_400  # seconds
# Not a double: nearest to its successor once there is a wei more, to its predecessor when the wei is lost.
ODD = (2**53 + 1) * 10**18 + 1


@asynccontextmanager
async def migrated(url: str, revision: str = "head") -> AsyncIterator[Connection]:
    await migrate.upgrade_async(url, revision)
    async with connection(url) as conn:
        yield conn


async def insert(conn: Connection, table: str, row: Row) -> None:
    """A row whose columns that are not named are NULL; integers go as text."""
    text = json.dumps(row)
    await conn.execute(
        f"INSERT INTO {sql_name(table)} SELECT * FROM jsonb_populate_record(NULL::{sql_name(table)}, $1::jsonb)", text
    )


class Execution(NamedTuple):
    account: int
    market: int
    base: int
    price: int
    pnl: int | None
    fee: int
    type: str = "order"
    age: int = 60  # seconds


EXECUTIONS = [
    Execution(1, 1, 1, 1, 1, 1),  # the least that there is
    Execution(2, 1, HUGE, HUGE, HUGE, HUGE),
    Execution(2, 1, -1, 1, 1, 1, "liquidation"),
    Execution(3, 2, HUGE - 1, -1 + 2**254, -HUGE, HUGE - 1),
    Execution(3, 2, 10**18 + 1, 3 * 10**21 + 1, -1, 10**6 + 1, age=LONG_AGO),
    Execution(3, 1, -(10**36) - 1, 10**36 + 1, None, 10**12 + 1),
    Execution(4, 2, 7, 10**18 + 1, None, 1, age=LONG_AGO),
    Execution(4, 2, HUGE, HUGE, HUGE, HUGE, "adl"),  # counts in no statistics
]
OWNERS = {1: "0xa", 2: "0xa", 3: "0xb", 4: "0xc"}


async def write_executions(conn: Connection) -> None:
    now = await conn.fetchval("SELECT extract(epoch FROM now())::bigint")
    for n, one in enumerate(EXECUTIONS):
        row = {
            "id": f"0x-{n}", "market_id": one.market, "account_id": one.account, "order_base": one.base,
            "price": one.price, "fee": one.fee, "r_pnl": one.pnl, "type": one.type, "processed": True,
            "transaction_hash": "0x", "block_timestamp": now - one.age, "block_number": 7, "unique_id": 700_100 + n,
            "created_at": CREATED,
        }  # fmt: skip
        await insert(conn, "order_history", row)
    for account, owner in OWNERS.items():
        row = {
            "account_id": account, "new_owner": owner, "transaction_hash": "0x", "block_timestamp": 1,
            "block_number": 7, "unique_id": 700_000 + account, "created_at": CREATED,
        }  # fmt: skip
        await insert(conn, "account_owner_updated_snapshot", row)


def counted(within: int | None = None) -> list[Execution]:
    return [one for one in EXECUTIONS if one.type != "adl" and (within is None or one.age < within)]


def volume(executions: Iterable[Execution]) -> Fraction:
    return Fraction(sum(abs(one.base) * one.price for one in executions), 10**36)


def sums(executions: list[Execution]) -> Row:
    gains = [one.pnl for one in executions if one.pnl is not None]
    return {
        "volume": volume(executions),
        "number_of_trades": len(executions),
        "realized_pnl": Fraction(sum(gains), 10**18) if gains else None,
        "fees": Fraction(sum(one.fee for one in executions), 10**6),
        "updated_at": datetime.fromisoformat(CREATED),
    }


def grouped(key: Callable[[Execution], Any]) -> dict[Any, Row]:
    groups: dict[Any, list[Execution]] = defaultdict(list)
    for one in counted():
        groups[key(one)].append(one)
    return {name: sums(executions) for name, executions in groups.items()}


async def view(conn: Connection, name: str, *keys: str) -> dict[Any, Row]:
    """Its rows by key; a numeric as the exact fraction that it is."""
    await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=Fraction, format="text")
    rows = [dict(row) for row in await conn.fetch(f"SELECT * FROM {sql_name(name)}")]
    found = {tuple(row.pop(key) for key in keys): row for row in rows}
    return {key[0] if len(key) == 1 else key: row for key, row in found.items()}


async def test_statistics_have_every_digit(fresh_database: Databases) -> None:
    async with migrated(fresh_database()) as conn:
        await write_executions(conn)
        assert await view(conn, "trading_stats_account", "account_id") == grouped(lambda one: one.account)
        by_both = grouped(lambda one: (one.account, one.market))
        assert await view(conn, "trading_stats_account_market", "account_id", "market_id") == by_both
        by_wallet = grouped(lambda one: OWNERS[one.account])
        for wallet, row in by_wallet.items():
            row["volume_14d"] = volume(one for one in counted(14 * 86_400) if OWNERS[one.account] == wallet)
        assert await view(conn, "trading_stats_wallet", "wallet_address") == by_wallet
        # What a division loses is asked about: the least volume, and one wei beside 2^510.
        assert by_both[1, 1]["volume"] == Fraction(1, 10**36) and by_wallet["0xa"]["volume"].denominator == 10**36 // 2


async def test_balances_executions_and_trades_repeat_integers(fresh_database: Databases) -> None:
    async with migrated(fresh_database()) as conn:
        await write_executions(conn)
        balances = {(1, "0xa"): HUGE, (1, "0xb"): -HUGE, (2, "0xa"): HUGE - 1, (2, "0xb"): 1}
        for n, ((account, collateral), balance) in enumerate(balances.items()):
            key = {"account_id": account, "collateral": collateral, "block_number": 1}
            await insert(conn, "account_balances", key | {"balance": balance})
            entry = key | {"id": f"0x-{n}", "transaction_hash": "0x", "block_timestamp": HUGE - n, "unique_id": n}
            await insert(conn, "account_collateral_balance_entries", entry | {"created_at": CREATED})
        assert await view(conn, "account_collateral_net_balance", "account_id", "collateral") == {
            key: {"net_balance": balance, "block_timestamp": HUGE - n}
            for n, (key, balance) in enumerate(balances.items())
        }
        impacts = await view(conn, "order_with_vol_price_impact", "id")
        assert {row["vol_price_impact"] for row in impacts.values()} == {None} and len(impacts) == len(EXECUTIONS)
        values = {"market_id": HUGE, "account_id": HUGE - 1, "price": HUGE - 2, "fee": 1, "block_number": HUGE - 4}
        order = values | {"transaction_hash": "0x", "block_timestamp": HUGE - 3, "unique_id": 2**63 - 1}
        await insert(conn, "orders", order | {"id": "0x-1", "executed_base": -HUGE, "created_at": CREATED})
        assert await view(conn, "trades", "id") == {"0x-1": order | {"base": -HUGE}}


async def test_the_market_has_the_double_that_is_nearest_to_the_exact_value(fresh_database: Databases) -> None:
    """The Prisma schema says Float; that is how a value may differ from the chain's, and the only way."""
    async with migrated(fresh_database()) as conn:
        await write_executions(conn)
        trackers = {1: (ODD, -ODD, ODD), 2: (HUGE, HUGE - 1, -HUGE), 3: (1, 1, -1)}
        for market, (price, rate, interest) in trackers.items():
            await insert(conn, "market_storage", {"market_id": market, "block_number": 1})
            row = {"market_data_id": market, "mark_price": price, "last_funding_rate": rate, "block_number": 1}
            await insert(conn, "market_trackers", row | {"open_interest": interest})
        found = await view(conn, "Market", "id")
    assert float(Fraction(ODD, 10**18)) != float(2**53)
    for market, (price, rate, interest) in trackers.items():
        mine = [one for one in counted(86_400) if one.market == market]
        change = mine[-1].price - mine[0].price if mine else 0
        percentage = float(Fraction(100 * change, mine[0].price)) if mine else 0.0
        row = found[market]
        assert row["markPrice"] == float(Fraction(price, 10**18))
        assert row["fundingRate"] == float(Fraction(rate, 10**18))
        assert row["openInterest"] == row["longOI"] == row["shortOI"] == float(Fraction(interest, 10**18))
        assert row["volume24H"] == float(volume(mine))
        assert row["priceChange24H"] == float(Fraction(change, 10**18))
        assert row["priceChange24HPercentage"] == pytest.approx(percentage, rel=1e-15)  # a ratio


def example(column: Column[Any], n: int) -> Any:
    """A value as JSON has it, of version `n` of a row; keys are the same in all of them."""
    match column.type:
        case SmallInteger():
            return 2**15 - 1 - n
        case BigInteger():
            return 2**63 - 1 - n
        case Numeric():
            return 5 if column.primary_key else (HUGE - n) * (-1) ** n
        case Text():
            return "key" if column.primary_key else f"version {n}"
        case Boolean():
            return n % 2 == 0
        case Integer():
            return 2**31 - 1 - n
        case TIMESTAMP():
            return CREATED
        case JSONB():
            return [[str(HUGE - n), HUGE - n]]
    raise TypeError(f"{column!r}: no example")


def comparable(row: Row) -> Row:
    """As `example` makes it."""
    shown = {name: int(value) if isinstance(value, Fraction) else value for name, value in row.items()}
    shown = {n: v.isoformat(timespec="milliseconds") if isinstance(v, datetime) else v for n, v in shown.items()}
    return {n: json.loads(v) if isinstance(v, str) and v.startswith("[[") else v for n, v in shown.items()}


async def test_safe_and_finalized_rows_have_every_digit_of_the_rows_that_they_were(fresh_database: Databases) -> None:
    finality = [name for name in VIEWS if split(name)[1]]
    async with migrated(fresh_database()) as conn:
        await conn.execute(
            "UPDATE indexer.checkpoint SET number = 30, rollback_floor = $1, safe_block = $2", FINAL, SAFE
        )
        tables = {split(name)[0]: public.tables[split(name)[0]] for name in finality}
        for name, table in tables.items():
            versions = [{c.name: example(c, n) for c in table.columns} for n in range(3)]
            if table.info["kind"] == "append":
                for n, (block, row) in enumerate(zip((FINAL, SAFE, SAFE + 1), versions, strict=True)):
                    row |= {"unique_id": block * 100_000 + n, "id": f"0x-{n}"}
                    await insert(conn, name, row)
                wanted = {"_finalized": versions[:1], "_safe": versions[:2]}
            else:
                key = json.dumps({c.name: versions[0][c.name] for c in table.primary_key.columns})
                for block, row in ((FINAL + 1, versions[0]), (SAFE + 1, versions[1])):
                    await conn.execute(
                        "INSERT INTO indexer.before_image (block_number, table_name, key, row) VALUES ($1, $2, $3, $4)",
                        block, name, key, json.dumps(row),
                    )  # fmt: skip
                await insert(conn, name, versions[2])
                wanted = {"_finalized": versions[:1], "_safe": versions[1:2]}
            for suffix, rows in wanted.items():
                order = "unique_id" if table.info["kind"] == "append" else "1"
                found = await conn.fetch(f'SELECT * FROM public."{name}{suffix}" ORDER BY {order}')
                assert [comparable(exact(row)) for row in found] == rows, f"{name}{suffix}"
    assert len(tables) > 25 and len(finality) == 2 * len(tables)


def exact(row: asyncpg.Record) -> Row:
    numbers = {name: Fraction(value) for name, value in row.items() if type(value).__name__ == "Decimal"}
    return dict(row) | numbers


def test_every_view_is_compared_here() -> None:
    named = {name for name in VIEWS if not split(name)[1]}
    assert named == {
        "trades", "Market", "trading_stats_account", "trading_stats_account_market", "trading_stats_wallet",
        "account_collateral_net_balance", "order_with_vol_price_impact",
    }  # fmt: skip


# -- definitions

# What may lose digits of a number: a division, a function that rounds or divides, a float.
_LOSSY = re.compile(
    r"/[^,)]*|%|\^|\b(?:div|mod|avg|round|trunc|floor|ceil(?:ing)?|power|sqrt|exp|ln|log|var\w*|stddev\w*|regr_\w+|corr"
    r"|percentile_\w+|to_number|to_char)\(|(?:double precision|\breal\b|\bfloat[48]?\b)(?: AS \"?\w+\"?)?",
    re.IGNORECASE,
)
DEFINITIONS = """SELECT c.relname, pg_get_viewdef(c.oid, true) FROM pg_class c
WHERE c.relkind IN ('v', 'm') AND c.relnamespace IN ('public'::regnamespace, 'indexer'::regnamespace)"""
RATIO = "/ NULLIF(d.first_price"


def lossy(definition: str) -> list[str]:
    """The places of a view definition that may lose digits."""
    return _LOSSY.findall(re.sub(r"'(?:[^']|'')*'", "''", definition))


def float_columns(table: str) -> list[str]:
    """What the Prisma schema fixes as Float."""
    with CONTRACT.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row["column"] for row in rows if row["table"] == table and row["type"] == "double precision"]


async def test_no_view_divides_an_amount_or_makes_it_a_float_where_the_prisma_schema_does_not(
    fresh_database: Databases,
) -> None:
    async with migrated(fresh_database()) as conn:
        found = {name: lossy(definition) for name, definition in await conn.fetch(DEFINITIONS)}
    assert set(found) == set(VIEWS)
    # One ratio of two prices, and as the last thing a cast to each column that is a Float.
    market = found.pop("Market")
    assert market.count(RATIO) == 1
    market.remove(RATIO)
    assert sorted(market) == sorted(f'double precision AS "{column}"' for column in float_columns("Market"))
    assert {name: places for name, places in found.items() if places} == {}


LOSSY_QUERIES = (
    "SELECT sum(fee) / 1e6 AS fee FROM orders",
    "SELECT fee/1000000 AS fee FROM orders",
    "SELECT div(fee, 1000000) AS fee FROM orders",
    "SELECT fee % 1000000 AS fee FROM orders",
    "SELECT avg(price) AS price FROM orders",
    "SELECT round(price * 1e-18, 8) AS price FROM orders",
    "SELECT price::float AS price FROM orders",
    "SELECT CAST(price AS real) * 1e-18 AS price FROM orders",
    "SELECT price * 10 ^ -18 AS price FROM orders",
)


async def test_a_view_that_loses_digits_is_found(fresh_database: Databases) -> None:
    async with migrated(fresh_database()) as conn:
        for n, query in enumerate(LOSSY_QUERIES):
            await conn.execute(f"CREATE VIEW public.later_{n} AS {query}")
        await conn.execute("CREATE VIEW public.exact AS SELECT sum(fee) * 1e-6 AS fee, '1/2'::text AS half FROM orders")
        found = {name: lossy(definition) for name, definition in await conn.fetch(DEFINITIONS)}
    assert [n for n in range(len(LOSSY_QUERIES)) if not found[f"later_{n}"]] == []
    assert found["exact"] == []


# -- the migration

BELOW, AFTER = "0024", "0025"
REPLACED = ("Market", "trading_stats_account", "trading_stats_account_market", "trading_stats_wallet")
KEPT = """SELECT c.oid, c.relname, c.relowner, c.relacl::text, c.reloptions::text, obj_description(c.oid),
  (SELECT array_agg((a.attname, format_type(a.atttypid, a.atttypmod), a.attacl::text, col_description(c.oid, a.attnum))
     ::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid)
FROM pg_class c WHERE c.relnamespace IN ('public'::regnamespace, 'theirs'::regnamespace) AND c.relkind IN ('v', 'm')
ORDER BY c.oid"""


async def test_the_replaced_views_keep_rights_comments_options_and_the_views_of_others(
    fresh_database: Databases,
) -> None:
    url = fresh_database()
    async with migrated(url, BELOW) as conn:
        await write_executions(conn)
        await conn.execute("CREATE SCHEMA theirs")
        for name in REPLACED:
            column = "id" if name == "Market" else "updated_at"
            await conn.execute(
                f"GRANT SELECT ON {sql_name(name)} TO pg_monitor;"
                f"GRANT UPDATE ({column}) ON {sql_name(name)} TO PUBLIC;"
                f"COMMENT ON VIEW {sql_name(name)} IS 'theirs'; COMMENT ON COLUMN {sql_name(name)}.{column} IS 'key';"
                f"ALTER VIEW {sql_name(name)} SET (security_barrier = true, security_invoker = true);"
                f'CREATE VIEW theirs."{name}" AS SELECT * FROM {sql_name(name)}'
            )
        await conn.execute("CREATE MATERIALIZED VIEW theirs.fees AS SELECT sum(fees) FROM trading_stats_wallet")
        before = await conn.fetch(KEPT)
    for revision in (BELOW, AFTER, BELOW, AFTER):
        await (migrate.downgrade_async if revision == BELOW else migrate.upgrade_async)(url, revision)
        async with connection(url) as conn:
            assert await conn.fetch(KEPT) == before
            fees = await conn.fetchval("SELECT fees FROM theirs.trading_stats_account WHERE account_id = 2")
            assert (Fraction(fees) == Fraction(HUGE + 1, 10**6)) == (revision == AFTER)
    assert len([row for row in before if row["relowner"]]) == len(VIEWS) + len(REPLACED) + 1
