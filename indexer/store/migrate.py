"""Schema migrations: Alembic over asyncpg, from an installed wheel as from a checkout (no alembic.ini).

One command is one transaction under an advisory lock: two starters do not collide, and a failing step leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import structlog
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from indexer.config import redact
from indexer.errors import DatabaseUnreachable, ForeignDatabase, IndexerError, SchemaNewer, SchemaOlder
from indexer.resources import data_dir
from indexer.store import database, deferred
from indexer.store.schema import classify, current_revision, foreign_table, head_revision, known_revisions
from indexer.store.tables import VIEWS, own, public, sql_name
from indexer.store.tables.own import SCHEMA

log = structlog.get_logger()

METADATA = [public, own]
_LOCK = 0x7265_7961_6D69_6772  # "reyamigr"
# A step may work on a large table, and a second starter waits for the first: longer limits than a working session's.
_SESSION = {"lock_timeout": "300s", "statement_timeout": "0", "search_path": "public"}
_PARTITION = re.compile(r"raw_log_p\d+")


def _included(name: str | None, type_: str, parents: Any) -> bool:
    """What autogenerate compares: our schema but for run-time partitions; of `public` only tables that we describe."""
    if type_ == "schema":
        return name in (None, SCHEMA)
    if type_ != "table" or name is None:
        return True
    if parents["schema_name"] == SCHEMA:
        return name != "alembic_version" and not _PARTITION.fullmatch(name)
    return name in public.tables


CONTEXT: dict[str, Any] = {
    "version_table": "alembic_version",
    "version_table_schema": SCHEMA,
    "include_schemas": True,
    "include_name": _included,
    "compare_type": True,
    "compare_server_default": True,
}


def _config(**attributes: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(data_dir("migrations")).replace("%", "%%"))
    config.attributes.update(attributes)
    return config


@contextlib.asynccontextmanager
async def transaction(url: str) -> AsyncIterator[AsyncConnection]:
    """One SQLAlchemy transaction that holds the migration lock to its end.

    asyncpg reads the URL itself, sslmode and other query arguments included. Raises DatabaseUnreachable, and
    ForeignDatabase or SchemaNewer for a database that no step of this release may touch, IndexerError for what
    PostgreSQL refuses.
    """

    async def session() -> asyncpg.Connection:
        return await database.connect(url, patience=database.A_DAY, **_SESSION)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=NullPool)
    try:
        async with engine.connect() as conn, conn.begin():
            await conn.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            await _refuse(url, await _raw(conn))
            yield conn
    except DBAPIError as error:
        raise _refusal(url, error) from error
    finally:
        await engine.dispose()


async def _raw(conn: AsyncConnection) -> Any:
    return (await conn.get_raw_connection()).driver_connection


async def _build_deferred(conn: AsyncConnection) -> None:
    """What an initial load put off: a step finds the tables as the steps before it left them."""
    raw = await _raw(conn)
    if await raw.fetchval("SELECT to_regclass('indexer.deferred_index')") is not None:
        await deferred.build(raw, lambda name, left: log.info("building_index", index=name, left=left))


def _refusal(url: str, error: DBAPIError) -> IndexerError:
    cause = " ".join(str(error.orig.__cause__ if error.orig else error).split())
    if error.connection_invalidated:
        return DatabaseUnreachable(f"{redact(url)}: connection lost: {cause}", "Nothing was changed; migrate again")
    remedy = "Nothing was changed. The role needs CREATE on the database and on its schema public"
    return IndexerError(f"{redact(url)}: {cause}", remedy)


async def _refuse(url: str, conn: Any) -> None:
    if await classify(conn) == "foreign":
        raise ForeignDatabase(
            f"{redact(url)}: {await foreign_table(conn)} is not a table of this program",
            "Name an empty database, or the right one, in DATABASE_URL",
        )
    revision = await current_revision(conn)
    if revision is not None and revision not in known_revisions():
        raise SchemaNewer(
            f"{redact(url)}: schema revision {revision} is newer than this release knows",
            f"Run the newer release; this one knows up to {head_revision()}",
        )


def _known(revision: str, *aliases: str) -> None:
    if revision not in known_revisions() | set(aliases):
        known = ", ".join(sorted(known_revisions()))
        raise IndexerError(f"no schema revision {revision!r}", f"Known: {known}, {', '.join(aliases)}")


def upgrade(url: str, revision: str = "head") -> None:
    """Migrates up to a revision; does nothing where the database is there or beyond."""
    asyncio.run(upgrade_async(url, revision))


async def upgrade_async(url: str, revision: str = "head") -> None:
    _known(revision, "head")
    async with transaction(url) as conn:
        if await current_revision(await _raw(conn)) not in (revision, None, head_revision()):
            await _build_deferred(conn)
        await conn.run_sync(lambda sync: command.upgrade(_config(connection=sync), revision))


def downgrade(url: str, revision: str) -> None:
    """Migrates down to a revision, or to "base": nothing of ours stays then.

    Raises IndexerError, with nothing changed, when a table to be dropped holds rows of an application.
    """
    asyncio.run(downgrade_async(url, revision))


async def downgrade_async(url: str, revision: str) -> None:
    _known(revision, "base")
    async with transaction(url) as conn:
        await _build_deferred(conn)
        await conn.run_sync(lambda sync: command.downgrade(_config(connection=sync), revision))
        raw = await _raw(conn)
        if await raw.fetchval("SELECT to_regclass('indexer.checkpoint')") is not None:
            # Projected rows went with their tables: whoever runs next must project again, this release included.
            await raw.execute("UPDATE indexer.checkpoint SET digest = NULL")


def check(url: str) -> list[str]:
    """How the database differs from this release's description of it, a line each; none when it is equal.

    Raises SchemaOlder when it is not migrated to this release.
    """
    return asyncio.run(check_async(url))


async def check_async(url: str) -> list[str]:
    async with transaction(url) as conn:
        raw = await _raw(conn)
        revision = await current_revision(raw)
        if revision != head_revision():
            raise SchemaOlder(
                f"{redact(url)}: schema revision {revision or 'none'}, this release needs {head_revision()}",
                "Run `reya-indexer migrate`",
            )
        differences = await conn.run_sync(_compare)
        differences += await _compare_views(raw)
        if waiting := await deferred.pending(raw):
            differences.append(f"deferred until the initial load ends: {', '.join(waiting)}")
        await conn.rollback()
        return differences


def _compare(connection: Connection) -> list[str]:
    context = MigrationContext.configure(connection, opts={**CONTEXT, "target_metadata": METADATA})
    found: list[Any] = compare_metadata(context, METADATA)  # type: ignore[arg-type]  # takes a sequence as well
    # One difference is a tuple; several of one column come as a list of tuples.
    return [
        " ".join(str(part) for part in one) for each in found for one in (each if isinstance(each, list) else [each])
    ]


async def _compare_views(conn: Any) -> list[str]:
    """Views have no metadata: their text is compared as PostgreSQL reads it, through temporary twins."""
    differences = []
    for name, query in VIEWS.items():
        await conn.execute(f"CREATE TEMPORARY VIEW migrate_check AS {query}")
        equal = await conn.fetchval(
            "SELECT pg_get_viewdef('pg_temp.migrate_check'::regclass) = pg_get_viewdef(to_regclass($1))", sql_name(name)
        )
        await conn.execute("DROP VIEW pg_temp.migrate_check")
        if not equal:
            differences.append(f"view {name} {'is missing' if equal is None else 'has another definition'}")
    return differences
