"""Schema migrations: Alembic over asyncpg, from an installed wheel as from a checkout (no alembic.ini).

One command is one transaction under an advisory lock: two starters do not collide, and a failing step leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import structlog
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from indexer.db import connection
from indexer.db.catalog import quoted, sql_name
from indexer.errors import (
    AdoptionRefusedError,
    DatabaseUnreachableError,
    ForeignDatabaseError,
    IndexerError,
    SchemaNewerError,
    SchemaOlderError,
)
from indexer.runtime.resources import data_dir
from indexer.runtime.secrets import redact
from indexer.schema import adopted_tables, adoption, deferred_indexes, roles
from indexer.schema.adoption import SchemaDifference
from indexer.schema.revisions import LOCK, classify, current_revision, foreign_table, head_revision, known_revisions
from indexer.schema.tables.columns import SCHEMA, internal
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS

log = structlog.get_logger()

METADATA = [public, internal]
# A step may work on a large table, and a second starter waits for the first: longer limits than a working session's.
_SESSION = {"lock_timeout": "300s", "statement_timeout": "0", "search_path": "public"}
_PARTITION = re.compile(r"raw_log_p\d+")


def _included(name: str | None, type_: str, parents: Any, taken: adopted_tables.Names = frozenset()) -> bool:
    """What autogenerate compares: our schema but for run-time partitions; of `public` only tables that we describe and
    made."""
    if type_ == "schema":
        return name in (None, SCHEMA)
    if type_ != "table" or name is None:
        return True
    if parents["schema_name"] == SCHEMA:
        return name not in ("alembic_version", "adopted") and not _PARTITION.fullmatch(name)
    return name in public.tables and name not in taken


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
async def transaction(url: str, *, adopting: bool = False) -> AsyncIterator[AsyncConnection]:
    """One SQLAlchemy transaction that holds the migration lock to its end, works as the owner of what is ours, and
    leaves adopted tables as they are.

    asyncpg reads the URL itself, sslmode and other query arguments included. Raises DatabaseUnreachableError, and
    ForeignDatabaseError (unless it is `adopting`) or SchemaNewerError for a database that no step of this release
    may touch, IndexerError for what PostgreSQL refuses.
    """

    async def session() -> asyncpg.Connection:
        return await connection.connect(url, patience=connection.DAY_S, **_SESSION)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=NullPool)
    try:
        async with engine.connect() as conn, conn.begin():
            await conn.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            raw = await _raw(conn)
            await _refuse(url, raw, adopting)
            await _become_owner(raw)
            taken = await (adoption.existing_names(raw) if adopting else adopted_tables.names(raw))
            _spare(conn, taken)
            before = await adopted_tables.catalog_snapshot(raw, taken)
            yield conn
            if conn.in_transaction():
                await adopted_tables.ensure_unchanged(raw, taken, before)
    except DBAPIError as error:
        raise _refusal(url, error) from error
    finally:
        await engine.dispose()


async def _raw(conn: AsyncConnection) -> Any:
    return (await conn.get_raw_connection()).driver_connection


async def _become_owner(conn: Any) -> None:
    """Where roles were set up, who is more than the owner makes things as the owner: else they were not its own."""
    found = await roles.existing_roles(conn)
    if found and await conn.fetchval("SELECT pg_has_role($1, 'MEMBER') AND current_user <> $1", found.owner):
        await conn.execute(f"SET LOCAL ROLE {quoted(found.owner)}")


def _spare(conn: AsyncConnection, taken: adopted_tables.Names) -> None:
    """From here on no statement of this session touches a relation of others."""

    def replace(_: object, __: object, statement: str, parameters: Any, *___: object) -> tuple[str, Any]:
        kept = adopted_tables.filter_statement(statement, taken)
        if kept != statement:
            log.debug("left_out", statement=" ".join(statement.split())[:120], instead=kept)
        return kept, parameters

    if taken:
        event.listen(conn.sync_connection, "before_cursor_execute", replace, retval=True)


async def _grant(conn: Any) -> None:
    """The roles' rights on what the steps made."""
    if (found := await roles.existing_roles(conn)) is not None:
        for statement in await roles.grants(conn, found):
            await conn.execute(statement)


async def _build_deferred(conn: AsyncConnection) -> None:
    """What an initial load put off: a step finds the tables as the steps before it left them."""
    raw = await _raw(conn)
    if await raw.fetchval("SELECT to_regclass('indexer.deferred_index')") is not None:
        await deferred_indexes.build_indexes(
            [raw], lambda name, left: log.info("building_index", index=name, left=left)
        )


def _refusal(url: str, error: DBAPIError) -> IndexerError:
    cause = " ".join(str(error.orig.__cause__ if error.orig else error).split())
    if error.connection_invalidated:
        return DatabaseUnreachableError(
            f"{redact(url)}: connection lost: {cause}", "Nothing was changed; migrate again"
        )
    remedy = "Nothing was changed. The role needs CREATE on the database and on its schema public"
    return IndexerError(f"{redact(url)}: {cause}", remedy)


async def _refuse(url: str, conn: Any, adopting: bool) -> None:
    if await classify(conn) == "foreign" and not adopting:
        raise ForeignDatabaseError(
            f"{redact(url)}: {await foreign_table(conn)} is not a table of this program",
            "Name an empty database, or the right one, in DATABASE_URL; or see `reya-indexer migrate --adopt --check`",
        )
    revision = await current_revision(conn)
    if revision is not None and revision not in known_revisions():
        raise SchemaNewerError(
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
        raw = await _raw(conn)
        if taken := await adopted_tables.names(raw):
            _refuse_blocked(url, await adoption.compare(raw, taken))
        await _grant(raw)


def _refuse_blocked(url: str, differences: list[SchemaDifference]) -> None:
    """Raises AdoptionRefusedError for what the program cannot work with."""
    blocking = [one for one in differences if one.blocks]
    if blocking:
        first, more = blocking[0], f" and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        raise AdoptionRefusedError(
            f"{redact(url)}: {first.table}: {first.what}{more}",
            f"Nothing was changed. {first.remedy or 'Change it'}; `reya-indexer migrate --adopt --check` lists all",
        )


def adopt(url: str, *, dry_run: bool) -> list[SchemaDifference]:
    """Makes a database of others ours too: what is missing is made, what is there stays as it is.

    How it differs from the contract. Nothing is done on a dry run or when a difference blocks. Raises IndexerError for
    a database that is ours already.
    """
    return asyncio.run(adopt_async(url, dry_run=dry_run))


async def adopt_async(url: str, *, dry_run: bool) -> list[SchemaDifference]:
    async with transaction(url, adopting=True) as conn:
        raw = await _raw(conn)
        if await classify(raw) == "ours":
            taken = await adopted_tables.names(raw)
            if dry_run and taken:
                return await adoption.compare(raw, taken)
            raise IndexerError(
                f"{redact(url)}: is this program's already", "`reya-indexer migrate` keeps it up to date"
            )
        differences, taken = await adoption.compare(raw), await adoption.existing_names(raw)
        if dry_run or any(one.blocks for one in differences):
            await conn.rollback()
            return differences
        await conn.run_sync(lambda sync: command.upgrade(_config(connection=sync), "head"))
        await adopted_tables.record(raw, taken)
        await _grant(raw)
        return differences


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

    Raises SchemaOlderError when it is not migrated to this release.
    """
    return asyncio.run(check_async(url))


async def check_async(url: str) -> list[str]:
    async with transaction(url) as conn:
        raw = await _raw(conn)
        revision = await current_revision(raw)
        if revision != head_revision():
            raise SchemaOlderError(
                f"{redact(url)}: schema revision {revision or 'none'}, this release needs {head_revision()}",
                "Run `reya-indexer migrate`",
            )
        taken = await adopted_tables.names(raw)
        differences = await conn.run_sync(partial(_compare, taken=taken))
        differences += await _compare_views(raw, taken)
        differences += [f"{one.table}: {one.what}" for one in await adoption.compare(raw, taken) if one.blocks]
        if waiting := await deferred_indexes.pending(raw):
            differences.append(f"deferred until the initial load ends: {', '.join(waiting)}")
        await conn.rollback()
        return differences


def _compare(connection: Connection, taken: adopted_tables.Names) -> list[str]:
    options = {**CONTEXT, "target_metadata": METADATA, "include_name": partial(_included, taken=taken)}
    options["include_object"] = lambda _, name, type_, __, ___: type_ != "table" or name not in taken
    context = MigrationContext.configure(connection, opts=options)
    found: list[Any] = compare_metadata(context, METADATA)  # type: ignore[arg-type]  # takes a sequence as well
    # One difference is a tuple; several of one column come as a list of tuples.
    return [
        " ".join(str(part) for part in one) for each in found for one in (each if isinstance(each, list) else [each])
    ]


async def _compare_views(conn: Any, taken: adopted_tables.Names) -> list[str]:
    """Views have no metadata: their text is compared as PostgreSQL reads it, through temporary twins."""
    differences = []
    for name, query in ((name, query) for name, query in VIEWS.items() if name not in taken):
        await conn.execute(f"CREATE TEMPORARY VIEW migrate_check AS {query}")
        equal = await conn.fetchval(
            "SELECT pg_get_viewdef('pg_temp.migrate_check'::regclass) = pg_get_viewdef(to_regclass($1))", sql_name(name)
        )
        await conn.execute("DROP VIEW pg_temp.migrate_check")
        if not equal:
            differences.append(f"view {name} {'is missing' if equal is None else 'has another definition'}")
    return differences
