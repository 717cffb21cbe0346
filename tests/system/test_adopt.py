"""`migrate --adopt`: a database that others made is compared, refused or worked on, and what they made stays."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from indexer import config
from indexer.cli.migrate import migrate_command
from indexer.db.connection import connection
from indexer.errors import AdoptionRefusedError, ForeignDatabaseError, IndexerError
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.projector.reproject import Reprojection
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.schema import adopted_tables, adoption, migrate, revisions
from indexer.schema.deferred_indexes import drop_indexes
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS
from indexer.store import enrichment, lease
from tests.scenarios.harness import Daemon
from tests.support.oracle.base import Row
from tests.support.oracle.compare import differences, fetch_database
from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.world import exchange
from tests.system.test_roles import CHAIN, CONFIG, Cast, cast, prefix

__all__ = ["prefix"]

# What a live database may have beyond or besides the contract, and this program can live with.
HARMLESS = """
CREATE TABLE public."Users" (id text PRIMARY KEY, wallet text REFERENCES public."WalletDetails" (wallet));
CREATE TABLE public._prisma_migrations (id varchar(36) PRIMARY KEY);
CREATE TABLE public."Market" (id numeric(78,0) PRIMARY KEY, ticker text NOT NULL);
CREATE TABLE public.trades (id text PRIMARY KEY);
ALTER TABLE public."WalletDetails" ADD COLUMN avatar text NOT NULL DEFAULT '', ALTER COLUMN name TYPE varchar(40);
ALTER TABLE public.fee_tier_parameters ADD COLUMN tag text NOT NULL DEFAULT 't';
ALTER TABLE public."ConditionalOrders" DROP COLUMN nonce, ADD CONSTRAINT priced CHECK (trigger_price > 0);
ALTER TABLE public.order_history ADD COLUMN note text, ALTER COLUMN fee TYPE numeric, ALTER COLUMN source TYPE varchar;
ALTER TABLE public.market_storage ALTER COLUMN block_number DROP NOT NULL;
DROP INDEX public.order_history_created_at_idx;
DROP TABLE public.token_transfer, public.position_raw, public."Candle";
INSERT INTO public."WalletDetails" (wallet, name) VALUES ('0x1', 'n');
INSERT INTO public."Users" VALUES ('u', '0x1');
INSERT INTO public.swaps VALUES ('s', 1, 'a', 'b', 2, 3, 4, '0x', 5, 6, 7);
"""
HARMLESS_LINES = {
    ("(database)", "its time zone becomes UTC for new sessions"),
    ("Market", "is there already: this program's view of that name is not made"),
    ("trades", "is there already: this program's view of that name is not made"),
    ("WalletDetails", 'column "avatar" is none of ours'),
    ("WalletDetails", '"name" is character varying(40), not text'),
    ("fee_tier_parameters", 'column "tag" is none of ours'),
    ("ConditionalOrders", 'has no column "nonce"'),
    ("order_history", 'column "note" is none of ours: its values go when rows are projected again'),
    ("order_history", '"fee" is numeric, not numeric(78,0)'),
    ("order_history", '"source" is character varying, not text'),
    ("order_history", 'has no index on "created_at": queries of consumers use it'),
    ("market_storage", '"block_number" may be NULL here; it never will be'),
    ("token_transfer", "is missing: it will be made"),
    ("position_raw", "is missing: it will be made"),
    ("Candle", "is missing: it will be made"),
}
# A deviation, the table, and what is said of it. Where there is a remedy it is tried.
BLOCKING = [
    ('ALTER TABLE order_history ALTER COLUMN account_id TYPE text', "order_history",
     '"account_id" is text, not numeric(78,0)'),
    ("ALTER TABLE orders ALTER COLUMN price TYPE numeric(65,30)", "orders",
     '"price" is numeric(65,30), not numeric(78,0)'),
    ("ALTER TABLE orders DROP COLUMN me_nonce", "orders", 'has no column "me_nonce"'),
    ("ALTER TABLE positions ALTER COLUMN base SET NOT NULL", "positions",
     '"base" is NOT NULL: what is not known is NULL'),
    ("ALTER TABLE orders ADD COLUMN taker text NOT NULL", "orders",
     'column "taker" must be given and is none of ours'),
    ("ALTER TABLE positions DROP CONSTRAINT positions_pkey", "positions",
     'has no unique key on "market_id", "account_id"'),
    ("ALTER TABLE positions DROP CONSTRAINT positions_pkey, ADD PRIMARY KEY (account_id)", "positions",
     "a unique index on account_id would refuse rows"),
    ("CREATE UNIQUE INDEX ON orders (transaction_hash)", "orders",
     "a unique index on transaction_hash would refuse rows"),
    ("CREATE UNIQUE INDEX ON orders (lower(id))", "orders",
     "a unique index on an expression or condition would refuse rows"),
    ("DROP INDEX margin_accounts_balance_entries_unique_id_idx;"
     " CREATE UNIQUE INDEX ON margin_accounts_balance_entries (unique_id)", "margin_accounts_balance_entries",
     "a unique index on unique_id would refuse rows"),
    ("DROP INDEX orders_unique_id_key", "orders", 'has no index on "unique_id": a rollback would read the whole table'),
    ("ALTER TABLE orders ADD CONSTRAINT owned FOREIGN KEY (account_id) REFERENCES account_owner_updated_snapshot",
     "account_owner_updated_snapshot",
     "foreign key owned of orders (FOREIGN KEY (account_id) REFERENCES account_owner_updated_snapshot(account_id))"
     " could refuse what the chain says"),
    ("ALTER TABLE orders ADD CONSTRAINT priced CHECK (price > 0)", "orders",
     "check priced of orders (CHECK ((price > (0)::numeric))) could refuse what the chain says"),
    ("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "orders", "has row security, which could hide rows"),
    ("ALTER TABLE orders DROP COLUMN fee, ADD COLUMN fee numeric(78,0) GENERATED ALWAYS AS (price * 2) STORED",
     "orders", '"fee" is generated: it cannot be written'),
    ("DROP TABLE account_balances; CREATE VIEW account_balances AS SELECT 1 AS account_id", "account_balances",
     "is no table: projections cannot write it"),
    ('ALTER TABLE orders ADD CONSTRAINT "of ( a "" x" CHECK (price > 0), ADD COLUMN "a""b" text NOT NULL', "orders",
     'check of ( a " x of orders (CHECK ((price > (0)::numeric))) could refuse what the chain says'),
    ("CREATE RULE hidden AS ON INSERT TO orders DO INSTEAD NOTHING", "orders",
     "rule hidden does something else instead of a change, or beside it"),
    ("ALTER TABLE orders SET UNLOGGED", "orders", "is UNLOGGED: a crash of the server empties it"),
    ("DROP TABLE account_balances; CREATE TABLE account_balances (account_id numeric(78,0), collateral text,"
     " balance numeric(78,0), block_number numeric(78,0), PRIMARY KEY (account_id, collateral))"
     " PARTITION BY RANGE (account_id)", "account_balances",
     "is partitioned, or a partition: a row that has no place there would be refused"),
    ("CREATE SCHEMA indexer; CREATE TABLE indexer.block (n int)", "(schema indexer)",
     "holds block of others: everything in it is this program's, and goes with it"),
    ("INSERT INTO market_storage (market_id, block_number) VALUES (1, 1)", "market_storage",
     "has rows of another writer: all rows of this table must be projections of the chain"),
]  # fmt: skip


async def made_by_others(url: str, *deviations: str) -> None:
    """The contract's tables, without views and with nothing of this program."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    async with connection(url) as conn:
        for table in public.sorted_tables:
            await conn.execute(str(CreateTable(table).compile(dialect=dialect)))
            for index in table.indexes:
                await conn.execute(str(CreateIndex(index).compile(dialect=dialect)))
        for statement in deviations:
            await conn.execute(statement)


async def everything(url: str) -> list[str]:
    """What the catalogs say of all tables and views of `public`, with their rows."""
    async with connection(url) as conn:
        names = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        )
        lines = await adopted_tables.catalog_snapshot(conn, frozenset(row[0] for row in names))
        return lines + [
            row[0] for row in await conn.fetch("SELECT nspname FROM pg_namespace WHERE nspname = 'indexer'")
        ]


async def theirs(url: str) -> list[str]:
    """The same of what was there before, and rows of applications."""
    async with connection(url) as conn:
        lines = await adopted_tables.catalog_snapshot(
            conn, await adopted_tables.names(conn) | {"Users", "_prisma_migrations"}
        )
        for name in ('"Users"', '"WalletDetails"', "swaps"):
            lines += [row[0] for row in await conn.fetch(f"SELECT t.xmin || ' ' || t FROM public.{name} t")]
        return lines


def run(url: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("DATABASE_URL", url)
    result = CliRunner().invoke(migrate_command, ["--chain", "devnet", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        result.exception.add_note(result.output)
        raise result.exception
    return result.output


def test_what_differs_is_told_and_what_can_be_worked_with_is_adopted(
    fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_database()
    asyncio.run(made_by_others(url, HARMLESS))
    before = asyncio.run(everything(url))
    with pytest.raises(ForeignDatabaseError, match="--adopt --check"):
        run(url, monkeypatch)
    told = json.loads(run(url, monkeypatch, "--adopt", "--check", "--json"))
    assert not told["adopted"] and not any(one["blocks"] for one in told["differences"])
    assert {(one["table"], one["what"]) for one in told["differences"]} == HARMLESS_LINES
    assert "can be adopted" in run(url, monkeypatch, "--adopt", "--check")
    assert asyncio.run(everything(url)) == before
    output = run(url, monkeypatch, "--adopt")
    assert f"adopted at schema revision {revisions.head_revision()}" in output
    for table, what in HARMLESS_LINES:
        assert any(table in line and what in line for line in output.splitlines()), what
    with pytest.raises(IndexerError, match="already"):
        run(url, monkeypatch, "--adopt")
    assert "nothing to do" in run(url, monkeypatch)
    assert "schema as revision" in run(url, monkeypatch, "--check")


async def adopted_database(url: str) -> list[str]:
    """One that was adopted; what was there before."""
    await made_by_others(url, HARMLESS)
    assert not any(one.blocks for one in await migrate.adopt_async(url, dry_run=False))
    return await theirs(url)


async def test_no_step_up_or_down_touches_what_was_adopted(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    await made_by_others(url, HARMLESS)
    before = await everything(url)
    await migrate.adopt_async(url, dry_run=False)
    kept = await theirs(url)
    async with connection(url) as conn:
        assert await conn.fetchval("SELECT count(*) FROM indexer.adopted") == len(public.tables) - 3 + 2
        made = await conn.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'public'")
        assert {row[0] for row in made} == set(VIEWS) - {"Market", "trades"}
        assert await conn.fetchval("SELECT to_regclass('public.token_transfer')") is not None
    for revision in ("0013", "0011", "0007", "0002", "0001"):
        await migrate.downgrade_async(url, revision)
        assert await theirs(url) == kept
    await migrate.upgrade_async(url)
    assert (await theirs(url), await migrate.check_async(url)) == (kept, [])
    await migrate.downgrade_async(url, "base")
    assert await everything(url) == before


async def test_a_step_that_would_change_an_adopted_table_changes_nothing(
    fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_database()
    await adopted_database(url)
    before = await everything(url)
    monkeypatch.setattr(adopted_tables, "filter_statement", lambda statement, taken: statement)
    with pytest.raises((IndexerError, asyncpg.PostgresError)):
        await migrate.downgrade_async(url, "0007")  # 0008 set their storage parameters, had they been ours
    assert await everything(url) == before


async def test_an_adopted_table_that_was_changed_since_is_told_and_stops_a_migration(
    fresh_database: Callable[[], str],
) -> None:
    url = fresh_database()
    await adopted_database(url)
    async with connection(url) as conn:
        await conn.execute("ALTER TABLE public.orders ADD CONSTRAINT priced CHECK (price > 0)")
    assert any("priced" in line for line in await migrate.check_async(url))
    assert any("priced" in one.what for one in await migrate.adopt_async(url, dry_run=True))
    await migrate.downgrade_async(url, "0014")
    with pytest.raises(AdoptionRefusedError, match=r"priced.*DROP CONSTRAINT"):
        await migrate.upgrade_async(url)
    async with connection(url) as conn:
        await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT priced; DROP TABLE public.positions CASCADE")
    with pytest.raises(AdoptionRefusedError, match="positions: was adopted and is gone"):
        await migrate.upgrade_async(url)


def test_what_cannot_be_worked_with_is_refused_with_its_own_code_and_nothing_is_done(
    fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_database()
    asyncio.run(made_by_others(url, BLOCKING[0][0], BLOCKING[2][0]))
    before = asyncio.run(everything(url))
    for arguments in (["--adopt"], ["--adopt", "--check"], ["--adopt", "--json"]):
        with pytest.raises(AdoptionRefusedError, match="2 blocking differences") as caught:
            run(url, monkeypatch, *arguments)
        assert caught.value.exit_code == 23
        assert '"me_nonce"' in caught.value.__notes__[0].replace('\\"', '"')
    assert "BLOCKS" in (shown := run_refused(url, monkeypatch)) and "ADD COLUMN" in shown
    assert asyncio.run(everything(url)) == before


def run_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(AdoptionRefusedError) as caught:
        run(url, monkeypatch, "--adopt")
    return caught.value.__notes__[0]


async def test_each_obstacle_is_found_and_its_remedy_removes_it(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    await made_by_others(url)
    async with connection(url) as conn:
        clean = await adoption.compare(conn)
        assert {one.table for one in clean} == {"(database)"}
        for deviation, table, what in BLOCKING:
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute(deviation)
            found = [one for one in await adoption.compare(conn) if one.blocks]
            assert (table, what) in {(one.table, one.what) for one in found}, found
            remedies = [one.remedy for one in found if one.remedy]
            for remedy in dict.fromkeys(remedies):
                await conn.execute(remedy)
            left = {(one.table, one.what) for one in await adoption.compare(conn) if one.blocks}
            assert not [one for one in found if one.remedy and (one.table, one.what) in left], deviation
            await transaction.rollback()


async def test_the_indexer_works_on_adopted_tables_as_on_its_own(
    fresh_database: Callable[[], str], prefix: str
) -> None:
    url = fresh_database()
    before = await adopted_database(url)
    actors: Cast = await asyncio.to_thread(cast, url, prefix)
    assert await theirs(url) == before  # rights apart, which are no part of that
    tree, rng, deployment = Tree(), random.Random("adopt"), config.load("devnet")
    final = exchange(tree).grow(tree.genesis.hash, 80, rng, 1.5)
    tip = exchange(tree).grow(final.hash, 20, rng, 2.0)
    async with SimNode(tree, tip.hash, CHAIN) as node:
        node.finalized = node.safe = final.number
        pool = Pool([node.url], CHAIN)
        await pool.open()
        runner = Runner(deployment, actors.writer, pool, DaemonProgress(), EngineOptions(first=0, last=final.number))
        await runner.open()
        await runner.backfill()
        await runner.close()
        await pool.close()
        daemon = Daemon(actors.writer, [node], deployment)
        await daemon.open()
        await daemon.settle()
        tip = exchange(tree).fork(tip.hash, 10, 12, rng, 2.0)
        node.head = tip.hash
        await daemon.settle()
        await daemon.stop()
    meant = recompute(tree.logs(tip.hash), CONFIG)
    assert not differences(meant, await rows(url))
    async with connection(actors.writer) as conn, connection(actors.writer) as side:
        assert (await Reprojection(deployment, conn, side, lambda _: None).run(None, ())).whole
    assert not differences(meant, await rows(url))
    async with connection(actors.reader) as conn:
        assert await conn.fetchval("SELECT count(*) FROM orders_finalized") > 0
        assert await conn.fetchval('SELECT count(*) FROM "WalletDetails"') == 1
    async with connection(actors.owner) as owner, connection(actors.writer) as writer:
        read = await enrichment.pin_block(owner)
        assert await enrichment.save(owner, "fee_tier_parameters", {"tier_id": 7}, {"taker_fee": 3}, read)
        assert await owner.fetchval("SELECT tag FROM fee_tier_parameters") == "t"
        await enrichment.forget_above(writer, read.number - 1)
        assert not await owner.fetch("SELECT FROM fee_tier_parameters")
    async with connection(url) as conn:
        # An initial load does not put off the indexes of others.
        await conn.execute("TRUNCATE public.orders, public.token_transfer; UPDATE indexer.lease SET holder = NULL")
        assert await drop_indexes(conn, await lease.acquire(conn, "test") or 0) == 2
    assert await theirs(url) == before


async def rows(url: str) -> dict[str, list[Row]]:
    """Without what others keep beside ours."""
    found = await fetch_database(url)
    for row in found["order_history"]:
        assert row.pop("note") is None
    return found
