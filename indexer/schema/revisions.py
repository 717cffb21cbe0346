"""Queries of a database's schema revision. They do not import Alembic, which is slow; `migrate` does."""

from __future__ import annotations

from functools import cache
from typing import Literal

from indexer.db.catalog import SCHEMA
from indexer.db.connection import Connection, connection
from indexer.errors import SchemaNewerError, SchemaOlderError
from indexer.runtime.resources import data_dir

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


async def require_head(conn: Connection) -> None:
    """Raise SchemaNewerError or SchemaOlderError if the schema is not this release's.

    Check before writing: a migration may have run since the process started.
    """
    revision = await current_revision(conn)
    if revision == head_revision():
        return
    if revision is not None and revision in known_revisions():
        raise SchemaOlderError(
            f"schema revision is {revision}, but this release requires {head_revision()}", "Run `reya-indexer migrate`"
        )
    raise SchemaNewerError(f"schema revision {revision} is newer than this release supports", "Run the newer release")


async def revision_of(url: str) -> str | None:
    """Return current_revision() of the database at `url`."""
    async with connection(url) as conn:
        return await current_revision(conn)
