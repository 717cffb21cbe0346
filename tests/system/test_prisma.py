"""What the indexer wrote, read through the real Prisma client and its pg adapter: the same to the last digit."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from sqlalchemy import Column, Float, Numeric, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from indexer.embedded_pg.server import EmbeddedServer
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS, view_columns
from tests.support.anvil.emission import Abis, Emission
from tests.support.anvil.flows import World
from tests.support.daemon import run
from tests.support.prisma import reader
from tests.support.simchain.chain import SimLog, SimTx, Tree
from tests.support.simchain.node import ThreadedNode
from tests.support.simchain.world import exchange

_OWNED = "account_owner_updated_snapshot"
ID, HIGHEST, LOWEST = 2**128 - 1, 2**256 - 1, -(2**255)
WALLET = "0x" + "ab" * 20
Rows = list[dict[str, Any]]


class Filled(NamedTuple):
    url: str
    folder: Path

    def ask(self, *questions: list[Any]) -> list[Any]:
        return [reader.plain(answer) for answer in reader.ask(self.url, questions)]

    def one(self, model: str, method: str, **arguments: Any) -> Any:
        return self.ask([model, method, arguments])[0]

    def sql(self, query: str) -> Rows:
        """Rows of a query whose columns are text, bool or null."""

        async def fetch() -> Rows:
            conn = await asyncpg.connect(self.url)
            try:
                return [dict(row) for row in await conn.fetch(query)]
            finally:
                await conn.close()

        return asyncio.run(fetch())


def extremes() -> SimTx:
    """An account, a market and amounts at the ends of their types."""
    world = World(Abis("devnet"), 0)

    def moved(account: int, amount: int) -> Emission:
        return world.log(
            "core", "AccountCollateralSharesUpdated", accountId=account, collateral=world.rusd, sharesDelta=amount
        )

    made = [
        world.log("core", "MarketRegistered", marketId=ID, quoteCollateral=world.rusd, name="last"),
        world.log("core", "AccountOwnerUpdated", accountId=ID, newOwner=WALLET),
        moved(ID, LOWEST),
        moved(ID - 1, -LOWEST - 1),
        world.log("rusd", "Transfer", to=WALLET, value=HIGHEST),
        world.log("rusd", "Transfer", to=WALLET, value=HIGHEST - 1),
        world.log("passive_perp", "PassivePerpMatchOrder", marketId=ID, accountId=ID, orderBase=-(10**24)),
    ]
    return SimTx(b"\x11" * 32, tuple(SimLog(e.address, e.topics, e.data) for e in made))


@pytest.fixture(scope="module")
def filled(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A database that `backfill` filled from a simulated chain and an application wrote to, and a generated client."""
    folder = tmp_path_factory.mktemp("prisma")
    reader.generate(folder)
    tree, rng = Tree(), random.Random("prisma")
    tip = tree.extend(exchange(tree).grow(tree.genesis.hash, 900, rng, 0.6).hash, [extremes()])
    server.ensure_database("prisma")
    found = Filled(server.url("prisma"), folder)
    with ThreadedNode(tree, tip.hash, 89346162) as node:
        node.finalized = node.safe = tip.number
        done = run(
            "backfill", "--chain", "devnet", "--rpc-url", node.url, "--from-block", "0", env={"DATABASE_URL": found.url}
        )
    assert done.returncode == 0, done.stderr
    found.sql("INSERT INTO \"WalletDetails\" SELECT DISTINCT new_owner, 'name of ' || new_owner"
              " FROM account_owner_updated_snapshot WHERE account_id % 2 = 1")  # fmt: skip
    found.sql('INSERT INTO risk_matrix VALUES (1, 2, \'[["-1", {"a": null}]]\', 3, 4, 5)')
    found.sql(f"INSERT INTO \"ConditionalOrders\" SELECT 'c' || i, i, 1, 'TP', i > 1, 0.1, {LOWEST}, {2**63 - 1}, '',"
              f" -{2**63}, 2, 3, '', {HIGHEST}, '', 'PENDING', 4, 5 FROM generate_series(1, 2) i")  # fmt: skip
    yield found


def as_text(column: Column[Any]) -> str:
    """A column as reader.plain() has it: Decimals without trailing zeros, DateTimes as JavaScript writes them."""
    name = f'"{column.name}"'
    if isinstance(column.type, Numeric):
        return f"trim_scale({name})::text AS {name}"
    if isinstance(column.type, TIMESTAMP):
        return f'to_char({name}, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\') AS {name}'
    return name if column.type.python_type in (bool, str) else f"{name}::text"


def property_of(name: str) -> str:
    """The client's property of a model."""
    return name[0].lower() + name[1:]


def key_of(where: dict[str, Any]) -> dict[str, Any]:
    """What findUnique wants for a key of one or of several columns."""
    return where if len(where) == 1 else {"_".join(where): where}


def test_the_schema_is_valid_without_warnings_and_formatted(filled: Filled) -> None:
    said = reader.prisma(filled.folder, "validate")
    assert "is valid" in said and "warn" not in said.lower()
    assert "formatted correctly" in reader.prisma(filled.folder, "format", "--check")


def test_the_views_have_the_columns_that_the_schema_says(filled: Filled) -> None:
    found = filled.sql(
        "SELECT c.relname || '.' || a.attname AS name, upper(format_type(a.atttypid, a.atttypmod)) AS type"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v'"
    )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    described = {
        f"{view.name}.{column.name}": column.type.compile(dialect).replace(", ", ",")
        for view in view_columns().tables.values()
        for column in view.columns
    }
    assert {row["name"]: row["type"] for row in found} == described


def test_every_table_and_view_reads_as_sql_does(filled: Filled) -> None:
    tables = [*public.tables.values(), *view_columns().tables.values()]
    keys = [[column.name for column in table.primary_key.columns] for table in tables]
    answers = filled.ask(
        *(
            [property_of(t.name), "findMany", {"orderBy": [{n: "asc"} for n in k]}]
            for t, k in zip(tables, keys, strict=True)
        )
    )
    rows = dict.fromkeys(VIEWS, 0)
    for table, key, answer in zip(tables, keys, answers, strict=True):
        found = comparable(filled, table, key)
        for row in answer:
            for column in table.columns:
                if isinstance(column.type, Float):
                    row[column.name] = float(row[column.name])
                elif isinstance(column.type, JSONB):
                    row[column.name] = json.dumps(row[column.name])
        assert answer == found, table.name
        rows[table.name] = len(answer)
    for name in ("order_history", "orders", "position_raw", "account_balances", "token_transfer", "trades", "Market",
                 "trading_stats_wallet", "positions_finalized", "risk_matrix", "ConditionalOrders"):  # fmt: skip
        assert rows[name], name


def comparable(filled: Filled, table: Table, key: list[str]) -> Rows:
    order = ", ".join(f'"{table.name}"."{name}"' for name in key)
    found = filled.sql(f'SELECT {", ".join(map(as_text, table.columns))} FROM public."{table.name}" ORDER BY {order}')
    floats = [column.name for column in table.columns if isinstance(column.type, Float)]
    return [row | {name: float(row[name]) for name in floats} for row in found]


def test_one_row_by_its_key(filled: Filled) -> None:
    for name in ("order_history", "position_raw", "account_balances", "trades", "positions_finalized"):
        table = public.tables.get(name, view_columns().tables.get(name))
        assert table is not None
        key = [column.name for column in table.primary_key.columns]
        rows = comparable(filled, table, key)[::40]
        wanted = [key_of({n: row[n] for n in key}) for row in rows] + [key_of(dict.fromkeys(key, "5"))]
        assert filled.ask(*([name, "findUnique", {"where": where}] for where in wanted)) == [*rows, None], name


def test_relations_give_the_rows_that_sql_joins(filled: Filled) -> None:
    orders = filled.one(
        "order_history", "findMany", orderBy={"unique_id": "asc"},
        include={"owner": {"include": {"wallet_details": True}}, "market": {"include": {"market_trackers": True}}},
    )  # fmt: skip
    found = [
        [
            order["id"],
            (order["owner"] or {}).get("new_owner"),
            ((order["owner"] or {}).get("wallet_details") or {}).get("name"),
            (order["market"] or {}).get("quote_collateral"),
            ((order["market"] or {}).get("market_trackers") or {}).get("open_interest"),
        ]
        for order in orders
    ]
    joined = filled.sql(
        "SELECT o.id, s.new_owner, w.name, m.quote_collateral, t.open_interest::text FROM order_history o"
        " LEFT JOIN account_owner_updated_snapshot s USING (account_id)"
        ' LEFT JOIN "WalletDetails" w ON w.wallet = s.new_owner'
        " LEFT JOIN market_storage m USING (market_id) LEFT JOIN market_trackers t ON t.market_data_id = o.market_id"
        " ORDER BY o.unique_id"
    )
    assert found == [list(row.values()) for row in joined]
    assert found[-1][1:3] == [WALLET, "name of " + WALLET]
    for part in (1, 2, 3, 4):  # each is there for some rows and missing for others
        assert {row[part] is None for row in found} == {True, False}, part


def test_relations_from_the_other_side(filled: Filled) -> None:
    owners = filled.one(
        "account_owner_updated_snapshot", "findMany", orderBy={"account_id": "asc"},
        include={
            "orders": {"select": {"id": True}, "orderBy": {"unique_id": "desc"}, "take": 2},
            "account_balances": {"include": {"asset": True}},
            "_count": {"select": {"order_history": True, "position_raw": True}},
        },
    )  # fmt: skip
    found = [
        [
            [order["id"] for order in owner["orders"]],
            [[b["balance"], b["asset"] and b["asset"]["decimals"]] for b in owner["account_balances"]],
            owner["_count"]["order_history"],
            owner["_count"]["position_raw"],
        ]
        for owner in owners
    ]
    joined = filled.sql(
        "SELECT ARRAY(SELECT id FROM orders o WHERE o.account_id = s.account_id ORDER BY unique_id DESC LIMIT 2) ids,"
        ' ARRAY(SELECT ARRAY[balance::text, a.decimals::text] FROM account_balances b LEFT JOIN "Asset" a'
        "   ON a.address = b.collateral WHERE b.account_id = s.account_id ORDER BY collateral) AS balances,"
        " (SELECT count(*)::text FROM order_history o WHERE o.account_id = s.account_id) AS history,"
        " (SELECT count(*)::text FROM position_raw p WHERE p.account_id = s.account_id) AS positions"
        " FROM account_owner_updated_snapshot s ORDER BY account_id"
    )
    assert found == [list(row.values()) for row in joined]
    by_wallet = filled.one("walletDetails", "findUnique", where={"wallet": WALLET}, include={_OWNED: True})
    assert [owner["account_id"] for owner in by_wallet[_OWNED]] == [str(ID)]


def test_integers_at_the_ends_of_their_types(filled: Filled) -> None:
    account, transfers, order, opposite, application = filled.ask(
        ["account_balances", "findMany", {"where": {"account_id": {"decimal": str(ID)}}}],
        ["token_transfer", "findMany", {"where": {"to_address": WALLET}, "orderBy": {"amount": "desc"}}],
        ["order_history", "findFirst", {"where": {"account_id": str(ID), "market_id": str(ID)}}],
        ["account_balances", "findFirst", {"where": {"balance": {"gte": {"decimal": str(-LOWEST - 1)}}}}],
        ["conditionalOrders", "findFirst", {"where": {"exchange_id": {"bigint": str(2**63 - 1)}, "is_long": True}}],
    )
    assert [row["balance"] for row in account] == [str(LOWEST)]
    assert [row["amount"] for row in transfers] == [str(HIGHEST), str(HIGHEST - 1)]
    assert (order["order_base"], order["account_id"], order["market_id"]) == (str(-(10**24)), str(ID), str(ID))
    assert (opposite["account_id"], opposite["balance"]) == (str(ID - 1), str(-LOWEST - 1))
    assert [application[name] for name in ("exchange_id", "counterparty_account_id", "nonce", "order_base")] == [
        str(2**63 - 1), str(-(2**63)), str(HIGHEST), str(LOWEST),
    ]  # fmt: skip


def test_filters_and_orders(filled: Filled) -> None:
    (middle,) = filled.sql(
        "SELECT (array_agg(unique_id ORDER BY unique_id))[100]::text AS id,"
        " (array_agg(price ORDER BY price))[100]::text AS price,"
        " (array_agg(block_timestamp ORDER BY unique_id))[100]::text AS at FROM order_history"
    )
    id_, price, at = {"bigint": middle["id"]}, {"decimal": middle["price"]}, middle["at"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"unique_id": {"gte": id_}}, f"unique_id >= {middle['id']}"),
        ({"unique_id": {"lt": id_}}, f"unique_id < {middle['id']}"),
        ({"price": {"gte": price}}, f"price >= {middle['price']}"),
        ({"price": {"lt": price, "not": None}}, f"price < {middle['price']}"),
        ({"price": price}, f"price = {middle['price']}"),
        ({"order_base": {"lt": "0"}, "block_timestamp": {"gt": at}}, f"order_base < 0 AND block_timestamp > {at}"),
        ({"market_id": {"in": ["1", {"decimal": "3"}, str(ID)]}}, f"market_id IN (1, 3, {ID})"),
        ({"market_id": {"notIn": ["1", "3"]}}, "market_id NOT IN (1, 3)"),
        ({"type": {"in": ["liquidation", "adl"]}, "processed": False},
         "type IN ('liquidation', 'adl') AND NOT processed"),
        ({"r_pnl": None}, "r_pnl IS NULL"),
        ({"r_pnl": {"not": None}}, "r_pnl IS NOT NULL"),
        ({"NOT": {"r_pnl": {"gte": "0"}}}, "NOT r_pnl >= 0"),
        ({"OR": [{"r_pnl": {"lt": "0"}}, {"fee": {"equals": "0"}}]}, "r_pnl < 0 OR fee = 0"),
        ({"created_at": {"gte": {"date": "2025-02-19T21:22:00.000Z"}}}, "created_at >= '2025-02-19 21:22:00'"),
        ({"transaction_hash": {"startsWith": "0x1"}}, "transaction_hash LIKE '0x1%'"),
        ({"owner": {"isNot": {}}}, "account_id NOT IN (SELECT account_id FROM account_owner_updated_snapshot)"),
        ({"owner": {"is": {"wallet_details": {"is": {}}}}}, "account_id IN (SELECT account_id FROM"
         ' account_owner_updated_snapshot JOIN "WalletDetails" ON wallet = new_owner)'),
    ]  # fmt: skip
    order = {"orderBy": [{"r_pnl": {"sort": "desc", "nulls": "last"}}, {"unique_id": "asc"}], "select": {"id": True}}
    answers = filled.ask(*(["order_history", "findMany", {"where": where, **order}] for where, _ in cases))
    counts = filled.ask(*(["order_history", "count", {"where": where}] for where, _ in cases))
    for (where, condition), answer, count in zip(cases, answers, counts, strict=True):
        ids = filled.sql(f"SELECT id FROM order_history WHERE {condition} ORDER BY r_pnl DESC NULLS LAST, unique_id")
        assert answer == ids and count == str(len(ids)), where
        assert ids, f"{condition} says nothing"
    # What the schema's head warns of: it asks for the column, and not one is null.
    assert filled.one("order_history", "count", where={"owner": None}) == "0"


def test_pages(filled: Filled) -> None:
    page = {"orderBy": {"unique_id": "desc"}, "take": 7, "select": {"unique_id": True}}
    first = filled.one("orders", "findMany", **page)
    at = {"unique_id": {"bigint": first[-1]["unique_id"]}}
    second, skipped = filled.ask(
        ["orders", "findMany", {**page, "cursor": at, "skip": 1}], ["orders", "findMany", {**page, "skip": 7}]
    )
    assert second == skipped
    assert first + second == filled.sql("SELECT unique_id::text FROM orders ORDER BY orders.unique_id DESC LIMIT 14")


def test_sums_and_groups_are_exact(filled: Filled) -> None:
    sums = filled.one(
        "token_transfer", "aggregate", _sum={"amount": True, "unique_id": True}, _max={"amount": True},
        _min={"amount": True, "unique_id": True}, _count={"_all": True, "unique_id": True},
    )  # fmt: skip
    (found,) = filled.sql(
        "SELECT sum(amount)::text AS amount, sum(unique_id)::text AS ids, max(amount)::text AS highest,"
        " min(amount)::text AS lowest, min(unique_id)::text AS first, count(*)::text AS n FROM token_transfer"
    )
    assert sums == {
        "_sum": {"amount": found["amount"], "unique_id": found["ids"]}, "_max": {"amount": found["highest"]},
        "_min": {"amount": found["lowest"], "unique_id": found["first"]},
        "_count": {"_all": found["n"], "unique_id": found["n"]},
    }  # fmt: skip
    assert len(found["amount"]) >= 78 and found["highest"] == str(HIGHEST)
    groups = filled.one(
        "order_history", "groupBy", by=["market_id", "type"], where={"price": {"gt": "0"}},
        _sum={"order_base": True, "r_pnl": True, "unique_id": True}, _count={"_all": True, "r_pnl": True},
        having={"order_base": {"_sum": {"not": "0"}}}, orderBy=[{"market_id": "asc"}, {"type": "asc"}],
    )  # fmt: skip
    rows = filled.sql(
        "SELECT market_id::text, type, sum(order_base)::text AS base, sum(r_pnl)::text AS pnl, sum(unique_id)::text AS"
        " ids, count(*)::text AS n, count(r_pnl)::text AS known FROM order_history WHERE price > 0"
        " GROUP BY order_history.market_id, type HAVING sum(order_base) <> 0 ORDER BY order_history.market_id, type"
    )
    assert len(rows) > 3 and groups == [
        {
            "market_id": row["market_id"], "type": row["type"],
            "_sum": {"order_base": row["base"], "r_pnl": row["pnl"], "unique_id": row["ids"]},
            "_count": {"_all": row["n"], "r_pnl": row["known"]},
        }
        for row in rows
    ]  # fmt: skip


def test_a_raw_query_is_exact_too(filled: Filled) -> None:
    query = (
        "SELECT amount, unique_id, NULL AS none, created_at FROM token_transfer ORDER BY amount DESC, unique_id LIMIT 3"
    )
    (answer,) = filled.ask(["$queryRaw", query])
    columns = [public.tables["token_transfer"].columns[name] for name in ("amount", "unique_id", "created_at")]
    rows = filled.sql(f"SELECT NULL AS none, {', '.join(map(as_text, columns))} FROM ({query}) q")
    assert answer == rows and answer[0]["amount"] == str(HIGHEST)


def test_a_client_that_deletes_an_applications_row_changes_no_row_of_the_indexer(filled: Filled) -> None:
    before = filled.sql("SELECT account_id::text, new_owner FROM account_owner_updated_snapshot ORDER BY 1")
    owned, other = filled.ask(
        ["walletDetails", "delete", {"where": {"wallet": WALLET}}],
        ["walletDetails", "update", {"where": {"wallet": WALLET}, "data": {"name": "renamed"}}],
    )
    assert owned == {"error": "P2014"} and other["name"] == "renamed"
    assert before == filled.sql("SELECT account_id::text, new_owner FROM account_owner_updated_snapshot ORDER BY 1")
