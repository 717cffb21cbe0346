"""Queries of a database's schema revision. They do not import Alembic, which is slow; `migrate` does."""

from __future__ import annotations

from functools import cache
from typing import Literal

from indexer.db.catalog import SCHEMA
from indexer.db.connection import Connection, connection
from indexer.errors import DatabaseUnreachableError, ForeignDatabaseError, SchemaNewerError, SchemaOlderError
from indexer.runtime.resources import data_dir
from indexer.runtime.secrets import redact

Kind = Literal["empty", "foreign", "ours"]
LOCK = 0x7265_7961_6D69_6772  # advisory, "reyamigr": held while creating, changing or reassigning our objects

_FOREIGN = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('public', $1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  )
ORDER BY 1 LIMIT 1
"""


@cache
def known_revisions() -> frozenset[str]:
    """Return every revision that has a migration; the file names begin with it."""
    return frozenset(path.name.split("_")[0] for path in (data_dir("migrations") / "versions").glob("[0-9]*_*.py"))


def head_revision() -> str:
    """Return the revision that this release needs."""
    return max(known_revisions())


async def classify(conn: Connection) -> Kind:
    """Return "ours" if our version table exists, "foreign" if there are other tables or views, else "empty"."""
    if await conn.fetchval("SELECT to_regclass('indexer.alembic_version')") is not None:
        return "ours"
    return "foreign" if await foreign_table(conn) else "empty"


async def foreign_table(conn: Connection) -> str | None:
    """Return a table or view in `public` or `indexer`, except those of extensions; None if there is none."""
    name: str | None = await conn.fetchval(_FOREIGN, SCHEMA)
    return name


async def current_revision(conn: Connection) -> str | None:
    """Return the revision of a database that is ours; None if it is not, or before the first migration."""
    if await conn.fetchval("SELECT to_regclass('indexer.alembic_version')") is None:
        return None
    revision: str | None = await conn.fetchval("SELECT version_num FROM indexer.alembic_version")
    return revision


async def require_known(conn: Connection, url: str = "", *, adopting: bool = False) -> str | None:
    """Return the schema revision; None for an empty database, or for tables of others that are being adopted.

    `url`: named in the errors, without its secrets. Raises ForeignDatabaseError for tables of others, SchemaNewerError,
    DatabaseUnreachableError while a restore is under way.
    """
    kind, where = await classify(conn), f"{redact(url)}: " if url else ""
    if kind == "foreign" and not adopting:
        raise ForeignDatabaseError(
            f"{where}table {await foreign_table(conn)} does not belong to this program",
            "Set DATABASE_URL to an empty database, or to the right one; or see `reya-indexer migrate --adopt --check`",
        )
    revision = await current_revision(conn)
    if revision is None and kind == "ours":
        raise DatabaseUnreachableError(
            f"{where}the table of the schema revision is empty, as in the middle of a restore",
            "Wait for the restore to end, or restore into an empty database",
        )
    if revision is not None and revision not in known_revisions():
        raise SchemaNewerError(
            f"{where}schema revision {revision} is newer than this release supports",
            f"Run the newer release; this one supports up to {head_revision()}",
        )
    return revision


async def require_head(conn: Connection, url: str = "") -> None:
    """Raise ForeignDatabaseError, SchemaNewerError or SchemaOlderError if the schema is not this release's.

    Check before writing: a migration may have run since the process started.
    """
    revision, where = await require_known(conn, url), f"{redact(url)}: " if url else ""
    if revision is None:
        raise SchemaOlderError(f"{where}no index yet", "Start `reya-indexer run` or `backfill` first")
    if revision != head_revision():
        raise SchemaOlderError(
            f"{where}schema revision is {revision}, but this release requires {head_revision()}",
            "Run `reya-indexer migrate` while no indexer runs",
        )


async def revision_of(url: str) -> str | None:
    """Return current_revision() of the database at `url`."""
    async with connection(url) as conn:
        return await current_revision(conn)
