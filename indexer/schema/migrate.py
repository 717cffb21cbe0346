"""Schema migrations with Alembic over asyncpg. They run from a wheel as well as from a checkout (no alembic.ini).

Each command is one transaction under an advisory lock: two concurrent starts cannot collide, and a failed step leaves
no trace.
"""

from __future__ import annotations

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
from indexer.db.database_errors import database_wait_name
from indexer.db.refusals import refusal
from indexer.errors import AdoptionRefusedError, DatabaseUnreachableError, IndexerError, WriteInterceptedError
from indexer.runtime import signals
from indexer.runtime.resources import data_dir
from indexer.runtime.secrets import redact
from indexer.schema import adopted_tables, adoption, deferred_indexes, roles
from indexer.schema.adoption import SchemaDifference
from indexer.schema.revisions import (
    LOCK,
    classify,
    current_revision,
    head_revision,
    known_revisions,
    require_head,
    require_known,
)
from indexer.schema.tables.columns import SCHEMA
from indexer.schema.tables.metadata import internal, public
from indexer.schema.views.all_views import VIEWS

log = structlog.get_logger()

METADATA = [public, internal]
# A step may rewrite a large table, and a second process waits for the first: the limits are longer than in a working
# session.
_SESSION = {"lock_timeout": "300s", "statement_timeout": "0", "search_path": "public"}
_PARTITION = re.compile(r"(raw|change)_log_p\d+")


def _included(name: str | None, type_: str, parents: Any, taken: adopted_tables.Names = frozenset()) -> bool:
    """Say whether autogenerate compares an object; `include_name` of Alembic.

    It compares our schema except run-time partitions, and in `public` only the described tables that were not adopted.
    """
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
    """Run one transaction that holds the migration lock, acts as the owner role, and leaves adopted tables unchanged.

    asyncpg itself parses the URL, including sslmode and other query arguments. Raises DatabaseUnreachableError;
    ForeignDatabaseError (unless `adopting`) or SchemaNewerError for a database that this release must not touch;
    IndexerError for what PostgreSQL refuses.
    """

    async def session() -> asyncpg.Connection:
        return await connection.connect(url, timeout_s=connection.DAY_S, **_SESSION)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=NullPool)
    try:
        async with engine.connect() as conn, conn.begin():
            await conn.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            raw = await _raw(conn)
            await require_known(raw, url, adopting=adopting)
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
    """If roles are set up, act as the owner role, so that a more privileged session creates objects that it owns."""
    existing = await roles.existing_roles(conn)
    if existing and await conn.fetchval("SELECT pg_has_role($1, 'MEMBER') AND current_user <> $1", existing.owner):
        await conn.execute(f"SET LOCAL ROLE {quoted(existing.owner)}")


def _spare(conn: AsyncConnection, taken: adopted_tables.Names) -> None:
    """Filter all further statements of this session, so that none touches an adopted relation."""

    def replace(_: object, __: object, statement: str, parameters: Any, *___: object) -> tuple[str, Any]:
        filtered = adopted_tables.filter_statement(statement, taken)
        if filtered != statement:
            log.debug("left_out", statement=" ".join(statement.split())[:120], instead=filtered)
        return filtered, parameters

    if taken:
        event.listen(conn.sync_connection, "before_cursor_execute", replace, retval=True)


async def _grant(conn: Any) -> None:
    """Grant the roles their rights on what the migrations created."""
    if (existing := await roles.existing_roles(conn)) is not None:
        for statement in await roles.grants(conn, existing):
            await conn.execute(statement)


async def _build_deferred(conn: AsyncConnection) -> None:
    """Build the indexes that an initial load deferred: a migration expects the tables as earlier ones left them."""
    raw = await _raw(conn)
    if await raw.fetchval("SELECT to_regclass('indexer.deferred_index')") is not None:
        await deferred_indexes.build_indexes(
            [raw], lambda name, left: log.info("building_index", index=name, left=left)
        )


_NAME_TAKEN = (
    asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateColumnError,
    asyncpg.DuplicateFunctionError, asyncpg.DuplicateSchemaError,
)  # fmt: skip


def _refusal(url: str, error: DBAPIError) -> IndexerError:
    """Return what ends a migration that the server refused; nothing was changed."""
    cause = (error.orig.__cause__ if error.orig else None) or error
    words, again = " ".join(str(cause).split()), "Nothing was changed; migrate again"
    if error.connection_invalidated:
        return DatabaseUnreachableError(f"{redact(url)}: connection lost: {words}", again)
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        remedy = "Nothing was changed. The role needs CREATE on the database and on its schema public"
        return WriteInterceptedError(f"{redact(url)}: {words}", remedy)
    if isinstance(cause, _NAME_TAKEN):
        remedy = "Nothing was changed. Rename or drop what has that name, and migrate again"
        return WriteInterceptedError(f"{redact(url)}: {words}", remedy)
    if refused := refusal(cause):
        return WriteInterceptedError(f"{redact(url)}: {refused.message}", refused.remedy)
    return DatabaseUnreachableError(f"{redact(url)}: {database_wait_name(cause)}: {words}", again)


def _known(revision: str, *aliases: str) -> None:
    if revision not in known_revisions() | set(aliases):
        known = ", ".join(sorted(known_revisions()))
        raise IndexerError(f"no schema revision {revision!r}", f"Known: {known}, {', '.join(aliases)}")


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate up to a revision. Does nothing if the database is at it or beyond."""
    signals.run(upgrade_async(url, revision))


async def upgrade_async(url: str, revision: str = "head") -> None:
    """Do upgrade() inside a running event loop. Raises AdoptionRefusedError if an adopted table no longer fits."""
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
    """Raise AdoptionRefusedError if a difference blocks: the program cannot work with it."""
    blocking = [difference for difference in differences if difference.blocks]
    if blocking:
        first, more = blocking[0], f" and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        raise AdoptionRefusedError(
            f"{redact(url)}: {first.table}: {first.what}{more}",
            f"Nothing was changed. {first.remedy or 'Change it'}; `reya-indexer migrate --adopt --check` lists every"
            " difference",
        )


def adopt(url: str, *, dry_run: bool) -> list[SchemaDifference]:
    """Adopt an existing database: create what is missing, and leave what exists as it is.

    Returns its differences from the described tables. Does nothing on a dry run or if a difference blocks. Raises
    IndexerError if the database is ours already.
    """
    return signals.run(adopt_async(url, dry_run=dry_run))


async def adopt_async(url: str, *, dry_run: bool) -> list[SchemaDifference]:
    """Do adopt() inside a running event loop."""
    async with transaction(url, adopting=True) as conn:
        raw = await _raw(conn)
        if await classify(raw) == "ours":
            taken = await adopted_tables.names(raw)
            if dry_run and taken:
                return await adoption.compare(raw, taken)
            raise IndexerError(
                f"{redact(url)}: already belongs to this program", "`reya-indexer migrate` keeps it up to date"
            )
        differences, taken = await adoption.compare(raw), await adoption.existing_names(raw)
        if dry_run or any(difference.blocks for difference in differences):
            await conn.rollback()
            return differences
        await conn.run_sync(lambda sync: command.upgrade(_config(connection=sync), "head"))
        await adopted_tables.record(raw, taken)
        await _grant(raw)
        return differences


def downgrade(url: str, revision: str) -> None:
    """Migrate down to a revision, or to "base", which drops everything that the migrations created.

    Raises IndexerError, with nothing changed, if a table to be dropped has rows of an application.
    """
    signals.run(downgrade_async(url, revision))


async def downgrade_async(url: str, revision: str) -> None:
    """Do downgrade() inside a running event loop."""
    _known(revision, "base")
    async with transaction(url) as conn:
        await _build_deferred(conn)
        await conn.run_sync(lambda sync: command.downgrade(_config(connection=sync), revision))
        raw = await _raw(conn)
        if await raw.fetchval("SELECT to_regclass('indexer.checkpoint')") is not None:
            # Projected rows were dropped with their tables. Without a digest the next run, of whatever release, has to
            # project them again.
            await raw.execute("UPDATE indexer.checkpoint SET digest = NULL")


def check(url: str) -> list[str]:
    """Return how the database differs from this release's description, one line each; empty if it does not.

    Raises SchemaOlderError if it is not migrated to this release.
    """
    return signals.run(check_async(url))


async def check_async(url: str) -> list[str]:
    """Do check() inside a running event loop."""
    async with transaction(url) as conn:
        raw = await _raw(conn)
        await require_head(raw, url)
        taken = await adopted_tables.names(raw)
        differences = await conn.run_sync(partial(_compare, taken=taken))
        differences += await _compare_views(raw, taken)
        adopted = await adoption.compare(raw, taken)
        differences += [f"{difference.table}: {difference.what}" for difference in adopted if difference.blocks]
        if waiting := await deferred_indexes.pending(raw):
            differences.append(f"deferred until the initial load ends: {', '.join(waiting)}")
        await conn.rollback()
        return differences


def _compare(connection: Connection, taken: adopted_tables.Names) -> list[str]:
    options = {**CONTEXT, "target_metadata": METADATA, "include_name": partial(_included, taken=taken)}
    options["include_object"] = lambda _, name, type_, __, ___: type_ != "table" or name not in taken
    context = MigrationContext.configure(connection, opts=options)
    changes: list[Any] = compare_metadata(context, METADATA)  # type: ignore[arg-type]  # accepts a sequence too
    # One difference is a tuple; several differences of one column are a list of tuples.
    return [
        " ".join(str(part) for part in change)
        for item in changes
        for change in (item if isinstance(item, list) else [item])
    ]


async def _compare_views(conn: Any, taken: adopted_tables.Names) -> list[str]:
    """Compare the views' text as PostgreSQL parses it, by way of temporary views, because views have no metadata."""
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
