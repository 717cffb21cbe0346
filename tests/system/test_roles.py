"""Owner, writer and reader: what each can do is tried, and so is what each cannot."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
from click.testing import CliRunner, Result

from indexer import config
from indexer.cli import roles as cli
from indexer.cli.db import db_group
from indexer.db.catalog import sql_name, table_kind
from indexer.db.connection import Connection, connection
from indexer.embedded_pg.server import EmbeddedServer
from indexer.errors import ForeignDatabaseError, IndexerError, SchemaOlderError
from indexer.ops.doctor.database_checks import examine_database
from indexer.schema import deferred_indexes, migrate, roles
from indexer.schema.tables.metadata import internal, public
from indexer.schema.views.all_views import VIEWS
from indexer.store import change_log, enrichment, lease, raw_logs, stream_slots
from tests.support.daemon import run
from tests.support.waiting import eventually

CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"
CHAIN = 89346162
APPENDED_ONLY = ("reorg_journal", "orphaned_row", "orphaned_log", "commit_log", "change_log", "drift")


class Cast(NamedTuple):
    """A database's roles and their URLs; `admin` is the server's superuser."""

    roles: roles.Roles
    admin: str
    owner: str
    writer: str
    reader: str


def secrets(name: str) -> dict[str, str]:
    return {f"REYA_INDEXER_{duty}_PASSWORD": f"{duty.lower()}-{name}" for duty in ("OWNER", "WRITER", "READER")}


def as_role(url: str, role: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def command(url: str, *arguments: str, env: dict[str, str] | None = None) -> Result:
    result = CliRunner().invoke(
        db_group, ["roles", "--chain", "devnet", *arguments], env={"DATABASE_URL": url} | (env or {})
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def drop_roles(server: EmbeddedServer, pattern: str, like: str) -> None:
    """Roles outlive the databases of a test: what they own in those goes first."""
    async with connection(server.url("postgres")) as conn:
        known = [row[0] for row in await conn.fetch("SELECT rolname FROM pg_roles WHERE rolname ~ $1", pattern)]
        made = await conn.fetch("SELECT datname FROM pg_database WHERE datname LIKE $1", like)
        for (database,) in made if known else ():
            async with connection(server.url(database)) as inside:
                await inside.execute(f"REASSIGN OWNED BY {', '.join(known)} TO CURRENT_USER")
                await inside.execute(f"DROP OWNED BY {', '.join(known)} CASCADE")
        if known:
            await conn.execute(f"DROP ROLE {', '.join(known)}")


@pytest.fixture
def prefix(server: EmbeddedServer, fresh_database: Callable[[], str]) -> Iterator[str]:
    """Of the test's roles."""
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    asyncio.run(drop_roles(server, f"^{name}_", "test_%"))


@pytest.fixture(scope="module")
def actors(server: EmbeddedServer) -> Iterator[Cast]:
    """Of a migrated database that tests share, who leave it as it is."""
    name = f"shared{uuid.uuid4().hex[:8]}"
    server.ensure_database(name)
    made = cast(server.url(name), name)
    asyncio.run(migrate.upgrade_async(made.owner))
    yield made
    asyncio.run(drop_roles(server, f"^{name}_", name))


def cast(url: str, prefix: str) -> Cast:
    """Roles that can log in."""
    assert command(url, "--prefix", prefix, env=secrets(prefix)).exit_code == 0
    named = roles.role_names(prefix)
    urls = [as_role(url, role, f"{duty}-{prefix}") for duty, role in named._asdict().items()]
    return Cast(named, url, *urls)


async def refused(conn: Connection, *statements: str) -> None:
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)


# -- the command


def test_the_command_shows_does_and_repeats_without_a_password_anywhere(
    fresh_database: Callable[[], str], prefix: str, tmp_path: Path
) -> None:
    url = fresh_database()
    (tmp_path / "secret").write_text("of the file\n")
    env = {"REYA_INDEXER_WRITER_PASSWORD_FILE": str(tmp_path / "secret"), "REYA_INDEXER_OWNER_PASSWORD": "of the shell"}
    shown = command(url, "--prefix", prefix, "--dry-run", env=env).output
    assert f'CREATE ROLE "{prefix}_reader" NOLOGIN;' in shown and "LOGIN PASSWORD '<not shown>'" in shown
    done = json.loads(command(url, "--prefix", prefix, "--json", env=env).output)
    assert [statement + ";" for statement in done["statements"]] == shown.splitlines()
    for text in (shown, json.dumps(done)):
        assert "of the" not in text and "SCRAM" not in text
    assert "nothing to do" in command(url, "--prefix", prefix).output
    with pytest.raises(IndexerError, match="roles of this database are"):
        command(url, "--prefix", f"{prefix}x")
    assert command(url, "--prefix", "pg_x").exit_code == 2

    async def look() -> None:
        async with connection(url) as conn:
            found = await conn.fetch(
                "SELECT rolname, rolcanlogin, rolpassword FROM pg_authid WHERE rolname LIKE $1 || '_%' ORDER BY 1",
                prefix,
            )
            assert [row["rolcanlogin"] for row in found] == [True, False, True]
            assert all((row["rolpassword"] or "SCRAM").startswith("SCRAM") for row in found)
        for role, password in ((f"{prefix}_writer", "of%20the%20file"), (f"{prefix}_owner", "of%20the%20shell")):
            async with connection(as_role(url, role, password)) as conn:
                assert await conn.fetchval("SELECT current_user") == role

    asyncio.run(look())


def test_a_role_that_may_do_more_is_refused(
    server: EmbeddedServer, fresh_database: Callable[[], str], prefix: str
) -> None:
    url = fresh_database()

    async def execute(statement: str) -> None:
        async with connection(url) as conn:
            await conn.execute(statement)

    asyncio.run(execute(f"CREATE ROLE {prefix}_writer SUPERUSER"))
    with pytest.raises(IndexerError, match=r"_writer already exists and is a superuser.*--prefix"):
        command(url, "--prefix", prefix)
    asyncio.run(execute(f"ALTER ROLE {prefix}_writer NOSUPERUSER"))
    assert command(url, "--prefix", prefix).exit_code == 0
    asyncio.run(execute(f"GRANT {prefix}_owner TO {prefix}_reader"))
    with pytest.raises(IndexerError, match=f"_reader already exists and is a member of {prefix}_owner"):
        command(url, "--prefix", prefix)


def test_roles_and_migrations_wait_for_each_other(
    fresh_database: Callable[[], str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_database()

    async def beside_a_migration() -> None:
        async with migrate.transaction(url):
            with pytest.raises(IndexerError, match=r"in use.*Nothing was changed"):
                await asyncio.to_thread(command, url, "--prefix", prefix)

    with monkeypatch.context() as impatient:
        impatient.setattr(cli, "_SESSION", {"lock_timeout": "100ms"})
        asyncio.run(beside_a_migration())
    assert command(url, "--prefix", prefix).exit_code == 0


async def test_nobody_else_makes_things_in_a_database_of_its_own(
    fresh_database: Callable[[], str], prefix: str
) -> None:
    url = fresh_database()
    async with connection(url) as conn:
        await conn.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")  # as before PostgreSQL 15
    actors = await asyncio.to_thread(cast, url, prefix)
    await migrate.upgrade_async(actors.owner)
    for who in (actors.writer, actors.reader):
        async with connection(who) as conn:
            await refused(conn, "CREATE TABLE public.mine (n int)")
    assert "nothing to do" in (await asyncio.to_thread(command, url, "--prefix", prefix)).output


async def test_doctor_finds_every_right_that_a_writer_needs(actors: Cast) -> None:
    async def told(url: str) -> tuple[str, str]:
        found = {one.check: one for one in await examine_database(config.load("devnet"), url)}
        return found["rights"].level, found["rights"].detail

    assert (await told(actors.writer))[0] == (await told(actors.owner))[0] == "good"
    level, said = await told(actors.reader)
    assert level == "fix" and "DELETE, INSERT" in said and " more" in said
    taken = {
        "INSERT ON indexer.attestation": 'INSERT on indexer."attestation"',
        "USAGE ON SEQUENCE indexer.attestation_id_seq": 'USAGE on indexer."attestation_id_seq"',
        "EXECUTE ON FUNCTION indexer.forget_enriched(bigint)": "EXECUTE on indexer.forget_enriched(bigint)",
    }  # fmt: skip
    async with connection(actors.owner) as owner:
        for right, named in taken.items():
            await owner.execute(f"REVOKE {right} FROM {actors.roles.writer}")
            assert named in (await told(actors.writer))[1]
            await owner.execute(f"GRANT {right} TO {actors.roles.writer}")
    assert (await told(actors.writer))[0] == "good"


async def test_a_command_that_lacks_a_right_says_so_in_one_line(actors: Cast) -> None:
    for arguments in (["check"], ["status"], ["incidents", "list"]):
        done = await asyncio.to_thread(run, *arguments, "--chain", "devnet", env={"DATABASE_URL": actors.reader})
        assert done.returncode == 24 and "the database: lacks a right: permission denied" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and "doctor" in done.stderr


def test_a_verifier_is_what_the_server_makes_of_the_password() -> None:
    made = roles.verifier("pencil", b"0123456789abcdef")
    assert made.startswith("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$") and made.count("$") == 2
    assert made != roles.verifier("pencil2", b"0123456789abcdef")
    for bad in ("", "ümlaut", "a\nb"):
        with pytest.raises(IndexerError, match="password"):
            roles.verifier(bad)


# -- each role


async def test_the_owner_migrates_and_what_it_makes_has_its_rights(
    fresh_database: Callable[[], str], prefix: str
) -> None:
    actors = await asyncio.to_thread(cast, fresh_database(), prefix)
    await migrate.upgrade_async(actors.owner, "0013")
    await migrate.upgrade_async(actors.owner)
    assert await migrate.check_async(actors.owner) == []
    await migrate.downgrade_async(actors.owner, "base")
    await migrate.upgrade_async(actors.owner)
    async with connection(actors.admin) as conn:
        assert await roles.setup(conn, actors.roles, {}) == []
        # A table that a later release makes: the migrate that made it gives the rights.
        await conn.execute(f"SET ROLE {actors.roles.owner}; DROP VIEW trades; CREATE VIEW trades AS {VIEWS['trades']};"
                           " CREATE TABLE indexer.later (n int); RESET ROLE")  # fmt: skip
        assert len(await roles.grants(conn, actors.roles)) == 2
    await migrate.upgrade_async(actors.owner)
    async with connection(actors.writer) as conn:
        await conn.execute("INSERT INTO indexer.later VALUES (1)")
    async with connection(actors.reader) as conn:
        await conn.execute("SELECT FROM trades")
        await refused(conn, "SELECT FROM indexer.later")


async def test_roles_of_a_database_that_was_made_without_them(fresh_database: Callable[[], str], prefix: str) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url, "0014")
    async with connection(url) as conn:
        await conn.execute("CREATE TABLE indexer.raw_log_p3 PARTITION OF indexer.raw_log FOR VALUES FROM (30) TO (40);"
                           ' CREATE TABLE public."Theirs" (id int)')  # fmt: skip
    actors = await asyncio.to_thread(cast, url, prefix)
    await migrate.upgrade_async(url)  # by the superuser, who makes things as the owner
    async with connection(url) as conn:
        assert await roles.setup(conn, actors.roles, {}) == []
        owners = await conn.fetch(
            "SELECT DISTINCT pg_get_userbyid(relowner) AS owner FROM pg_class WHERE relname <> 'Theirs'"
            " AND relnamespace IN ('public'::regnamespace, 'indexer'::regnamespace)"
        )
        assert [row["owner"] for row in owners] == [actors.roles.owner]
        left = await conn.fetchval(
            "SELECT relowner::regrole::text = current_user FROM pg_class WHERE relname = 'Theirs'"
        )
        assert left
    await migrate.downgrade_async(actors.owner, "base")


async def test_roles_do_not_take_a_database_of_others(fresh_database: Callable[[], str], prefix: str) -> None:
    url = fresh_database()
    async with connection(url) as conn:
        await conn.execute("CREATE TABLE public.orders (id text)")
    with pytest.raises(ForeignDatabaseError, match=r"public\.orders.*--adopt"):
        await asyncio.to_thread(command, url, "--prefix", prefix)


async def test_a_role_that_may_create_roles_is_enough(fresh_database: Callable[[], str], prefix: str) -> None:
    # What a managed PostgreSQL gives: no superuser, the database's owner.
    url, admin = fresh_database(), f"{prefix}_admin"
    async with connection(url) as conn:
        await conn.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'admin'")
        await conn.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} OWNER TO {admin}")
    mine = as_role(url, admin, "admin")
    await migrate.upgrade_async(mine, "0014")
    actors = await asyncio.to_thread(cast, mine, prefix)
    await migrate.upgrade_async(mine)
    assert "nothing to do" in (await asyncio.to_thread(command, mine, "--prefix", prefix)).output
    assert await migrate.check_async(actors.owner) == []
    async with connection(actors.writer) as conn:
        await raw_logs.ensure_partitions(conn, 0, 1)
    async with connection(actors.reader) as conn:
        await conn.execute('SELECT FROM "Market"')


async def test_the_reader_reads_what_is_public_and_nothing_else(actors: Cast) -> None:
    async with connection(actors.reader) as conn:
        for name in (*public.tables, *VIEWS):
            await conn.execute(f"SELECT * FROM {sql_name(name)} LIMIT 1")
        for name in ("checkpoint", "commit_log", "change_log"):
            await conn.execute(f"SELECT * FROM indexer.{name}")
        for name in public.tables:
            column = f'"{next(iter(public.tables[name].columns)).name}"'
            await refused(
                conn, f"INSERT INTO {sql_name(name)} DEFAULT VALUES", f"DELETE FROM {sql_name(name)}",
                f"UPDATE {sql_name(name)} SET {column} = {column}", f"TRUNCATE {sql_name(name)}",
            )  # fmt: skip
        await refused(conn, 'UPDATE "WalletDetails" SET name = NULL', "INSERT INTO trades (id) VALUES ('1')")
        for table in internal.sorted_tables:
            if table.name not in ("checkpoint", "commit_log", "change_log"):
                await refused(conn, f"SELECT * FROM indexer.{table.name}")
            await refused(conn, f"DELETE FROM indexer.{table.name}", f"TRUNCATE indexer.{table.name}")
        await refused(conn, "SELECT indexer.make_raw_log_partition(1)", "CREATE TABLE indexer.mine (n int)",
                      "SELECT indexer.make_change_log_partition(1)", "SELECT indexer.drop_change_log_partition(1)",
                      "SELECT * FROM indexer.alembic_version", "CREATE TABLE public.mine (n int)")  # fmt: skip


async def test_the_writer_changes_no_schema_no_journal_and_nothing_of_applications(actors: Cast) -> None:
    async with connection(actors.writer) as conn:
        for name in public.tables:
            table = sql_name(name)
            await refused(conn, f"ALTER TABLE {table} ADD COLUMN x int", f"DROP TABLE {table}",
                          f"CREATE INDEX ON {table} (ctid)", f"ALTER TABLE {table} DISABLE TRIGGER ALL")  # fmt: skip
            if table_kind(name) in ("application", "reserved"):
                await refused(conn, f"INSERT INTO {table} DEFAULT VALUES", f"DELETE FROM {table}", f"TRUNCATE {table}")
            if table_kind(name) == "append":
                await refused(conn, f"UPDATE {table} SET unique_id = 1")
        await refused(
            conn, 'UPDATE "ConditionalOrders" SET status = \'x\'', 'UPDATE "WalletDiscordLink" SET rank = \'x\'',
            "DROP VIEW trades", "CREATE TABLE public.mine (n int)", "CREATE TABLE indexer.mine (n int)",
            "DROP TABLE indexer.raw_log", "INSERT INTO indexer.deferred_index VALUES ('x', 'DROP TABLE orders')",
            "UPDATE indexer.alembic_version SET version_num = '0001'", "DROP FUNCTION indexer.refuse_change() CASCADE",
            "CREATE SCHEMA mine",
        )  # fmt: skip
        for name in APPENDED_ONLY:
            column = f'"{list(internal.tables[f"indexer.{name}"].columns)[-1].name}"'
            await refused(conn, f"DELETE FROM indexer.{name}", f"TRUNCATE indexer.{name}",
                          f"UPDATE indexer.{name} SET {column} = {column}")  # fmt: skip


async def test_the_writer_takes_back_what_the_owner_enriched_and_nothing_of_applications(actors: Cast) -> None:
    key, read = {"tier_id": 7}, enrichment.EnrichmentRun(50, b"\x01" * 32, 1_700_000_000, 0, resumed=False)
    async with connection(actors.owner) as owner, connection(actors.writer) as writer:
        assert await enrichment.save(owner, "fee_tier_parameters", key, {"taker_fee": 3}, read)
        await owner.execute("INSERT INTO fee_tier_parameters (tier_id, block_number) VALUES (8, 60)")
        await enrichment.forget_above(writer, 50)
        assert len(await owner.fetch("SELECT FROM fee_tier_parameters")) == 2
        await enrichment.forget_above(writer, 49)
        assert [row[0] for row in await owner.fetch("SELECT tier_id FROM fee_tier_parameters")] == [8]
        assert not await owner.fetch("SELECT FROM indexer.enrichment")
        await owner.execute("DELETE FROM fee_tier_parameters")
    async with connection(actors.reader) as conn:
        await refused(conn, "SELECT indexer.forget_enriched(0)")


async def test_the_writer_makes_partitions_of_the_size_that_is_counted_on(actors: Cast) -> None:
    last = 3 * raw_logs.PARTITION_BLOCKS
    async with connection(actors.writer) as conn:
        await raw_logs.ensure_partitions(conn, last - 1, last)
        await raw_logs.ensure_partitions(conn, last - 1, last)
        bounds = await conn.fetch(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound, c.relowner::regrole::text AS owner"
            " FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' ORDER BY 1"
        )
        assert [tuple(row) for row in bounds] == [
            (f"raw_log_p{n}", f"FOR VALUES FROM ('{n}0000000') TO ('{n + 1}0000000')", actors.roles.owner)
            for n in (2, 3)
        ]
        for bad in ("-1", "NULL", "92233720368"):
            with pytest.raises(asyncpg.NumericValueOutOfRangeError):
                await conn.execute(f"SELECT indexer.make_raw_log_partition({bad})")


async def test_the_writer_makes_and_drops_partitions_of_the_change_log(actors: Cast) -> None:
    made = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'indexer.change_log'::regclass"
    async with connection(actors.writer) as conn:
        size = change_log.PARTITION_COMMITS
        slot = await stream_slots.create(conn, "one", "instant")
        await conn.execute("INSERT INTO indexer.change_log VALUES ($1, 0, 1, 'copy', 'x', 0, '')", 2 * size - 1)
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute("INSERT INTO indexer.change_log VALUES ($1, 0, 1, 'copy', 'x', 0, '')", 2 * size)
        assert sorted(row[0] for row in await conn.fetch(made)) == [f"indexer.change_log_p{n}" for n in (0, 1)]
        # The function itself refuses to drop what a slot has not confirmed.
        await conn.execute("UPDATE indexer.stream_slot SET seq = $1", size - 2)
        assert slot.seq == 0 and not await conn.fetchval("SELECT indexer.drop_change_log_partition(0)")
        await refused(conn, "DROP TABLE indexer.change_log_p0")
        await conn.execute("UPDATE indexer.stream_slot SET seq = $1", size - 1)
        await change_log.drop_confirmed(conn, capturing=True)
        assert [row[0] for row in await conn.fetch(made)] == ["indexer.change_log_p1"]
        for bad in ("-1", "NULL", "1125899906842623"):
            with pytest.raises(asyncpg.NumericValueOutOfRangeError):
                await conn.execute(f"SELECT indexer.make_change_log_partition({bad})")
        await conn.execute("SELECT indexer.make_change_log_partition(140737488355326)")


async def test_the_writer_keeps_indexes_and_says_who_can_build_those_put_off(actors: Cast) -> None:
    async with connection(actors.writer) as conn, connection(actors.owner) as owner:
        assert await deferred_indexes.drop_indexes(conn, await lease.acquire(conn, "writer") or 0) == 0
        await conn.execute("UPDATE indexer.lease SET holder = NULL")
        assert await deferred_indexes.drop_indexes(owner, await lease.acquire(owner, "owner") or 0) > 10
        with pytest.raises(SchemaOlderError, match="once as the owner of the tables"):
            await deferred_indexes.build_indexes([conn], lambda *_: None)
        await deferred_indexes.build_indexes([owner], lambda *_: None)
        await deferred_indexes.build_indexes([conn], lambda *_: None)
    assert await migrate.check_async(actors.owner) == []


async def test_roles_see_that_each_others_processes_live(actors: Cast) -> None:
    async with connection(actors.owner) as owner, connection(actors.writer) as writer:
        assert await lease.acquire(owner, "the owner's") is not None
        assert await lease.acquire(writer, "the writer's") is None
        assert await lease.request(writer, "the writer's") is None
        assert await lease.wanted_by(owner) == "the writer's"
        pid = await owner.fetchval("SELECT pg_backend_pid()")
        await owner.close()
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"
        await eventually(lambda: writer.fetchval(gone, pid), "the end of the owner's process")
        assert await lease.acquire(writer, "the writer's") is not None


async def test_doctor_has_nothing_to_fix_for_the_writer(actors: Cast) -> None:
    done = await asyncio.to_thread(run, "doctor", "--json", "--chain", "devnet", env={"DATABASE_URL": actors.writer})
    fix = [f for f in json.loads(done.stdout)["findings"] if f["level"] == "fix" and f["subject"] != "endpoints"]
    assert not fix, fix
