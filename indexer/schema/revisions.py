"""Which schema a database has. Alembic, which changes it, is slow to import and stays with `migrate`."""

from __future__ import annotations

from functools import cache
from typing import Literal

from indexer.db.catalog import SCHEMA
from indexer.db.connection import Connection, connection
from indexer.errors import SchemaNewerError, SchemaOlderError
from indexer.runtime.resources import data_dir

Kind = Literal["empty", "foreign", "ours"]
LOCK = 0x7265_7961_6D69_6772  # advisory, "reyamigr": held by whoever makes, changes or hands over what is ours

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
    """Every revision there is a step for: its file begins with the number."""
    return frozenset(path.name.split("_")[0] for path in (data_dir("migrations") / "versions").glob("[0-9]*_*.py"))


def head_revision() -> str:
    """The revision that this release needs."""
    return max(known_revisions())


async def classify(conn: Connection) -> Kind:
    """ "ours" with our version table; "foreign" with tables or views of others; else "empty"."""
    if await conn.fetchval("SELECT to_regclass('indexer.alembic_version')") is not None:
        return "ours"
    return "foreign" if await foreign_table(conn) else "empty"


async def foreign_table(conn: Connection) -> str | None:
    """A table or view in a database that is not ours; what extensions brought does not count."""
    found: str | None = await conn.fetchval(_FOREIGN, SCHEMA)
    return found


async def current_revision(conn: Connection) -> str | None:
    """The revision of a database that is ours; None where it is not, or before the first step."""
    if await conn.fetchval("SELECT to_regclass('indexer.alembic_version')") is None:
        return None
    revision: str | None = await conn.fetchval("SELECT version_num FROM indexer.alembic_version")
    return revision


async def require_head(conn: Connection) -> None:
    """Raises SchemaNewerError or SchemaOlderError where the schema is not this release's: whoever is about to write
    asks, because a migration may have come between its start and now."""
    revision = await current_revision(conn)
    if revision == head_revision():
        return
    if revision is not None and revision in known_revisions():
        raise SchemaOlderError(
            f"schema revision {revision}, this release needs {head_revision()}", "Run `reya-indexer migrate`"
        )
    raise SchemaNewerError(f"schema revision {revision} is newer than this release knows", "Run the newer release")


async def revision_of(url: str) -> str | None:
    """current_revision() over a connection of its own."""
    async with connection(url) as conn:
        return await current_revision(conn)
