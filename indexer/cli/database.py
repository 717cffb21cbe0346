"""Which database a command works on, and whether its schema fits this release."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import click
import structlog

from indexer import config
from indexer.config import Deployment, redact
from indexer.errors import ForeignDatabase, SchemaNewer, SchemaOlder
from indexer.pg.server import EmbeddedServer, database_name, default_data_dir
from indexer.store import schema
from indexer.store.database import Connection, connection
from indexer.store.standing import binding, check_binding

log = structlog.get_logger()

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REYA_INDEXER_DATA_DIR",
    show_envvar=True,
    help="Folder of the embedded PostgreSQL; unused with DATABASE_URL.",
)
pg_bin_option = click.option(
    "--pg-bin",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REYA_INDEXER_PG_BIN",
    show_envvar=True,
    help="bin folder of a PostgreSQL 14 or newer to use instead of the packaged one.",
)


def external_url() -> str | None:
    """DATABASE_URL, or what DATABASE_URL_FILE holds; None without either: then the embedded server is ours to start."""
    return config.secret("DATABASE_URL") or None


def open_url(deployment_name: str, data_dir: Path | None, pg_bin: Path | None) -> str:
    """The URL of the deployment's database; starts the embedded server and makes the database where needed."""
    url = external_url()
    if url:
        return url
    server = EmbeddedServer(data_dir or default_data_dir(), pg_bin)
    server.start()
    name = database_name(deployment_name)
    server.ensure_database(name)
    log.info("embedded_postgresql", data_dir=str(server.data_dir), database=name)
    return server.url(name)


def prepare_schema(url: str) -> None:
    """Migrates an empty database, and an older one of the embedded server; refuses everything else.

    Raises ForeignDatabase, SchemaOlder, SchemaNewer, DatabaseUnreachable.
    """
    kind, revision = asyncio.run(_examine(url))
    where = redact(url)
    if kind == "foreign":
        raise ForeignDatabase(
            f"{where}: holds tables, but not this program's",
            "Name an empty database, or the right one, in DATABASE_URL; or see `reya-indexer migrate --adopt --check`",
        )
    if kind == "ours" and revision == schema.head_revision():
        return
    if kind == "ours" and revision not in schema.known_revisions():
        raise SchemaNewer(
            f"{where}: schema revision {revision} is newer than this release knows", "Run the newer release, or upgrade"
        )
    if kind == "ours" and external_url():
        raise SchemaOlder(
            f"{where}: schema revision {revision}, this release needs {schema.head_revision()}",
            "Run `reya-indexer migrate` while no indexer runs",
        )
    log.info("migrating", database=where, to=schema.head_revision())
    from indexer.store import migrate  # here, because Alembic is slow to import and seldom needed

    migrate.upgrade(url)


@contextlib.asynccontextmanager
async def checked_connection(url: str, deployment: Deployment) -> AsyncIterator[Connection]:
    """A connection to a database that is migrated to this release and free, or bound to the deployment.

    Raises SchemaOlder, BoundElsewhere, DatabaseUnreachable.
    """
    async with connection(url) as conn:
        current = await schema.classify(conn) == "ours" and await schema.current_revision(conn)
        if current != schema.head_revision():
            raise SchemaOlder("this database is not migrated to this release", "Run `reya-indexer migrate`")
        bound = await binding(conn)
        if bound is not None:
            check_binding(bound, deployment.name, deployment.chain_id)
        yield conn


async def _examine(url: str) -> tuple[str, str | None]:
    async with connection(url) as conn:
        kind = await schema.classify(conn)
        return kind, await schema.current_revision(conn) if kind == "ours" else None
