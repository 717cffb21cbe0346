"""The schema in a real PostgreSQL: migrations there and back, the contract's columns, and the consumers' queries."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from click.testing import CliRunner
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from indexer.cli.migrate import migrate_command
from indexer.db.catalog import COLUMNS, KEYS, sql_name, table_kind
from indexer.db.connection import connection
from indexer.errors import (
    DatabaseUnreachableError,
    ForeignDatabaseError,
    IndexerError,
    SchemaNewerError,
    SchemaOlderError,
)
from indexer.schema import migrate, revisions
from indexer.schema.tables.metadata import TABLES, internal, public
from indexer.schema.views.all_views import VIEWS
from indexer.store import coverage

Databases = Callable[[], str]
DATA = Path(__file__).parents[1] / "data"

# Everything that a schema can leave behind; the database's own settings come last.
_CATALOG = """
SELECT 'class ' || n.nspname || '.' || c.relname || ' ' || c.relkind::text FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'indexer')
UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
    || (CASE WHEN attnotnull THEN ' not null' ELSE '' END) || attidentity::text
    || COALESCE(pg_get_expr(adbin, adrelid), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
  WHERE n.nspname IN ('public', 'indexer') AND attnum > 0 AND NOT attisdropped AND c.relkind IN ('r', 'p', 'v')
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'indexer'))
UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname IN ('public', 'indexer')
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'indexer'
UNION ALL SELECT 'setting ' || unnest(setconfig) FROM pg_db_role_setting
  WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1
"""


async def _catalog(url: str) -> list[str]:
    async with connection(url, search_path="pg_catalog") as conn:
        return [row[0] for row in await conn.fetch(_CATALOG)]


@asynccontextmanager
async def _migrated(url: str) -> AsyncIterator[asyncpg.Connection]:
    await migrate.upgrade_async(url)
    async with connection(url) as conn:
        yield conn


async def test_upgrade_downgrade_upgrade_ends_where_it_began(fresh_database: Databases) -> None:
    url = fresh_database()
    before = await _catalog(url)
    await migrate.upgrade_async(url)
    first = await _catalog(url)
    assert "setting TimeZone=UTC" in first
    async with connection(url) as conn:
        await conn.execute("CREATE TABLE indexer.raw_log_p0 PARTITION OF indexer.raw_log FOR VALUES FROM (0) TO (10)")
        await conn.execute("SELECT indexer.make_change_log_partition(0)")
    await migrate.downgrade_async(url, "base")
    assert await _catalog(url) == before
    await migrate.upgrade_async(url)
    assert await _catalog(url) == first


async def test_each_single_step_goes_up_and_down_again(fresh_database: Databases) -> None:
    url = fresh_database()
    below = "base"
    for revision in sorted(revisions.known_revisions()):
        before = await _catalog(url)
        await migrate.upgrade_async(url, revision)
        after = await _catalog(url)
        await migrate.downgrade_async(url, below)
        assert await _catalog(url) == before
        await migrate.upgrade_async(url, revision)
        assert await _catalog(url) == after
        below = revision


async def test_check_is_clean_and_ignores_partitions_and_tables_of_others(fresh_database: Databases) -> None:
    url = fresh_database()
    async with _migrated(url) as conn:
        await conn.execute("CREATE TABLE indexer.raw_log_p7 PARTITION OF indexer.raw_log FOR VALUES FROM (70) TO (80)")
        await conn.execute("SELECT indexer.make_change_log_partition(7)")
        await conn.execute('CREATE TABLE public."AccountNotes" (account_id numeric PRIMARY KEY)')
    assert await migrate.check_async(url) == []


async def test_check_names_what_differs(fresh_database: Databases) -> None:
    url = fresh_database()
    async with _migrated(url) as conn:
        await conn.execute("ALTER TABLE public.token_transfer ADD COLUMN extra text")
        await conn.execute("ALTER TABLE indexer.commit_log ALTER COLUMN rows TYPE numeric")
        await conn.execute("DROP INDEX public.orders_unique_id_key; CREATE TABLE indexer.stray (n int)")
        await conn.execute("CREATE OR REPLACE VIEW public.trades AS " + VIEWS["trades"] + " WHERE o.fee > 0")
        await conn.execute('DROP VIEW public."Market"')
    found = "\n".join(await migrate.check_async(url))
    for part in ("extra", "modify_type", "orders_unique_id_key", "stray", "trades has another", "Market is missing"):
        assert part in found


async def test_migrations_make_exactly_what_the_metadata_describes(fresh_database: Databases) -> None:
    # Autogenerate compares neither check nor exclusion constraints, identities or the orders of keys: the catalog does.
    url, described = fresh_database(), fresh_database()
    await migrate.upgrade_async(url)
    async with connection(described) as conn:
        await conn.execute("CREATE SCHEMA indexer")
        dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
        for table in (*internal.sorted_tables, *public.sorted_tables):
            await conn.execute(str(CreateTable(table).compile(dialect=dialect)))
            for index in table.indexes:
                await conn.execute(str(CreateIndex(index).compile(dialect=dialect)))
        for name, query in VIEWS.items():
            await conn.execute(f"CREATE VIEW {sql_name(name)} AS {query}")
    made = [line for line in await _catalog(url) if "alembic_version" not in line and not line.startswith("setting")]
    assert await _catalog(described) == made


async def test_columns_are_the_contracts(fresh_database: Databases) -> None:
    with (DATA / "contract_columns.tsv").open() as file:
        wanted = {(r["table"], r["column"]): (r["type"], r["nullable"]) for r in csv.DictReader(file, delimiter="\t")}
    async with _migrated(fresh_database()) as conn:
        rows = await conn.fetch(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, c.relkind FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace"
            " AND a.attnum > 0 AND c.relkind IN ('r', 'v') AND c.relname !~ '_(finalized|safe)$'"
        )
    found = {}
    for table, column, type_, not_null, relkind in rows:
        # A view's columns are always nullable to PostgreSQL: what the contract asks there is tested with rows.
        nullable = wanted.get((table, column), ("", ""))[1] if relkind == b"v" else "no" if not_null else "yes"
        found[table, column] = (type_.replace(" without time zone", ""), nullable)
    assert found == wanted


async def test_every_published_query_runs_on_the_empty_database(fresh_database: Databases) -> None:
    statements = re.split(r"^-- @query .*$", (DATA / "queries.sql").read_text(), flags=re.M)[1:]
    assert len(statements) == 11
    async with _migrated(fresh_database()) as conn:
        for statement in statements:
            await conn.fetch(statement.strip().rstrip(";"))


async def test_market_view_is_not_null_and_survives_any_value(fresh_database: Databases) -> None:
    huge = 10**78 - 1
    async with _migrated(fresh_database()) as conn:
        await conn.execute(
            "INSERT INTO market_storage (market_id, name, risk_block_id, collateral_pool_id, block_number)"
            f" VALUES (1, 'ETH-rUSD', 2, 3, 1), (2, NULL, NULL, NULL, 1), (3, 'X', {huge}, -{huge}, 1)"
        )
        await conn.execute(
            "INSERT INTO market_trackers (market_data_id, last_mtm_price, open_interest, last_funding_rate,"
            f" block_number) VALUES (1, 2500e18, 7e18, -3e15, 1), (3, {huge}, {huge}, -{huge}, 1)"
        )
        await conn.execute("INSERT INTO indexer.market_feature VALUES (1, '0xa'), (2, '0xb')")
        await conn.execute(
            "INSERT INTO indexer.feature_flag VALUES ('0x1', '0xa', true, false), ('0x2', '0xa', true, false),"
            " ('0x1', '0xb', true, true)"
        )
        await conn.execute(
            "INSERT INTO order_history (id, market_id, order_base, price, type, processed, transaction_hash,"
            " block_timestamp, block_number, unique_id, created_at)"
            " SELECT m || '-' || n, m, b, p, t, false, '0x', extract(epoch FROM now())::bigint - age, 1, m * 10 + n,"
            " now() FROM (VALUES (1, 0, 5e18, 1000e18, 'order', 90000), (1, 1, 2e18, 2000e18, 'order', 80000),"
            " (1, 2, -1e18, 2500e18, 'liquidation', 10), (1, 3, 1e18, 1e18, 'adl', 5),"
            f" (3, 1, {huge}, 0, 'order', 9), (3, 2, -{huge}, {huge}, 'order', 8)) AS v(m, n, b, p, t, age)"
        )
        rows = {row["id"]: dict(row) for row in await conn.fetch('SELECT * FROM public."Market"')}
    assert set(rows) == {1, 2, 3}
    assert all(value is not None for row in rows.values() for value in row.values())
    eth = rows[1]
    assert (eth["ticker"], eth["markPrice"], eth["isActive"]) == ("ETH-rUSD", 2500.0, True)
    assert (eth["volume24H"], eth["priceChange24H"], eth["priceChange24HPercentage"]) == (6500.0, 500.0, 25.0)
    assert (eth["openInterest"], eth["fundingRate"]) == (7.0, -0.003)
    assert (eth["riskBlockId"], eth["rootCollateralPoolId"]) == (2, 3)
    assert (rows[2]["ticker"], rows[2]["isActive"], rows[2]["volume24H"]) == ("", False, 0.0)
    assert (rows[3]["riskBlockId"], rows[3]["rootCollateralPoolId"]) == (0, 0)


async def test_trades_repeat_orders(fresh_database: Databases) -> None:
    async with _migrated(fresh_database()) as conn:
        await conn.execute(
            "INSERT INTO orders (id, market_id, account_id, executed_base, price, fee, transaction_hash,"
            " block_timestamp, block_number, unique_id, created_at)"
            " VALUES ('0x1-2', 1, 5, -4, 3, 2, '0x1', 9, 8, 800002, now())"
        )
        row = await conn.fetchrow("SELECT * FROM trades")
    assert row is not None and dict(row) == {
        "id": "0x1-2", "market_id": 1, "account_id": 5, "base": -4, "price": 3, "fee": 2,
        "transaction_hash": "0x1", "block_timestamp": 9, "block_number": 8, "unique_id": 800002,
    }  # fmt: skip


async def test_coverage_refuses_overlap_of_one_contract_only(fresh_database: Databases) -> None:
    first, second = "0x" + "11" * 20, "0x" + "22" * 20
    async with _migrated(fresh_database()) as conn:
        await coverage.add(conn, [first, second], 10, 20)
        await coverage.add(conn, [first], 21, 30)
        with pytest.raises(asyncpg.ExclusionViolationError):
            await coverage.add(conn, [first], 25, 40)
        await coverage.add(conn, [second], 25, 40)
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute("INSERT INTO indexer.coverage SELECT id, 'empty' FROM indexer.contract")


async def test_singletons_are_there_and_stay_single(fresh_database: Databases) -> None:
    async with _migrated(fresh_database()) as conn:
        assert await conn.fetchval("SELECT value FROM indexer.epoch") == 0
        assert await conn.fetchval("SELECT token FROM indexer.lease") == 0
        assert await conn.fetchval("SELECT number FROM indexer.checkpoint") is None
        for name in ("checkpoint", "epoch", "lease"):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                await conn.execute(f"INSERT INTO indexer.{name} (single) VALUES (false)")


async def test_classify_tells_empty_ours_and_foreign(fresh_database: Databases) -> None:
    url, foreign = fresh_database(), fresh_database()
    async with connection(url) as conn:
        assert await revisions.classify(conn) == "empty"
        assert await revisions.current_revision(conn) is None
        await migrate.upgrade_async(url)
        assert await revisions.classify(conn) == "ours"
        assert await revisions.current_revision(conn) == revisions.head_revision()
    async with connection(foreign) as conn:
        await conn.execute('CREATE TABLE public."Users" (id int)')
        assert await revisions.classify(conn) == "foreign"
    before = await _catalog(foreign)
    with pytest.raises(ForeignDatabaseError, match=r"public\.Users"):
        await migrate.upgrade_async(foreign)
    assert await _catalog(foreign) == before


async def test_a_newer_or_older_schema_is_named(fresh_database: Databases) -> None:
    url = fresh_database()
    with pytest.raises(SchemaOlderError):
        await migrate.check_async(url)
    async with _migrated(url) as conn:
        await conn.execute("UPDATE indexer.alembic_version SET version_num = '9999'")
    for attempt in (migrate.upgrade_async(url), migrate.downgrade_async(url, "base"), migrate.check_async(url)):
        with pytest.raises(SchemaNewerError, match="9999"):
            await attempt
    with pytest.raises(IndexerError, match="no schema revision 'x'"):
        await migrate.upgrade_async(url, "x")


async def test_downgrade_refuses_to_drop_what_an_application_wrote(fresh_database: Databases) -> None:
    url = fresh_database()
    async with _migrated(url) as conn:
        await conn.execute("INSERT INTO public.\"WalletDetails\" VALUES ('0x1', 'name', NULL)")
        before = await _catalog(url)
        with pytest.raises(IndexerError, match="WalletDetails"):
            await migrate.downgrade_async(url, "base")
        assert await _catalog(url) == before
        assert await conn.fetchval('SELECT count(*) FROM public."WalletDetails"') == 1


def test_the_command_migrates_checks_and_asks_before_it_drops(
    fresh_database: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", fresh_database())

    def run(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(migrate_command, ["--chain", "reya", *args], catch_exceptions=True)
        if isinstance(result.exception, IndexerError):
            raise result.exception
        return result.exit_code, result.output

    head = revisions.head_revision()
    with pytest.raises(SchemaOlderError):
        run("--check")
    code, output = run("--json")
    assert code == 0 and {"from": None, "to": head, "head": head}.items() <= json.loads(output).items()
    assert "nothing to do" in run()[1]
    assert run("--check")[0] == 0
    code, output = run("--downgrade", "base")
    assert code == 2 and "--yes" in output
    assert run("--to", "9999")[0] == 2
    assert f"{head} -> none" in run("--downgrade", "base", "--yes")[1]


async def test_two_starters_migrate_one_after_the_other(fresh_database: Databases) -> None:
    url = fresh_database()
    await asyncio.gather(*(migrate.upgrade_async(url) for _ in range(3)))
    assert await migrate.check_async(url) == []


async def test_a_role_without_rights_is_told_which_it_needs(fresh_database: Databases) -> None:
    url = fresh_database()
    role = f"plain_{uuid.uuid4().hex[:8]}"
    async with connection(url) as conn:
        await conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'plain'")
        parts = urlsplit(url)
        mine = parts._replace(netloc=f"{role}:plain@{parts.netloc.rpartition('@')[2]}").geturl()
        with pytest.raises(IndexerError, match=r"permission denied .* needs CREATE"):
            await migrate.upgrade_async(mine)
        await conn.execute(f"DROP ROLE {role}")


async def test_an_unreachable_database_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnreachableError) as caught:
        await migrate.upgrade_async("postgresql://user:secret@127.0.0.1:1/db?sslmode=disable")
    assert "127.0.0.1:1" in str(caught.value) and "secret" not in str(caught.value)


def test_every_projected_table_has_what_the_store_needs() -> None:
    for name, table in TABLES.items():
        assert KEYS[name]
        assert set(COLUMNS[name]) == {column.name for column in table.columns}
        if table_kind(name) == "append":
            leading = [next(iter(index.columns)).name for index in table.indexes]
            assert "unique_id" in leading, f"{name}: a rollback would scan the whole table"
            assert table.info["block"] in ("block_number", "unique_id / 100000")
    assert {table_kind(name) for name in public.tables} == {"append", "state", "application", "reserved"}
