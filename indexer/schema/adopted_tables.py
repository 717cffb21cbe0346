"""Adopted tables: those that existed before `migrate --adopt`. Migrations never alter or drop them.

Migrations are written for databases that they created themselves. On an adopted database every statement that would
touch an adopted table is skipped, in both directions. After each command the catalogs must describe these tables
exactly as before, or everything is rolled back. This does not protect rows: the indexer owns the rows of projected
tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from indexer.db.catalog import PUBLIC_TABLES
from indexer.db.connection import Connection
from indexer.errors import IndexerError

Names = frozenset[str]

# Created by the adoption and dropped with the schema, not by a migration: no step up or down may lose the record of
# which tables are adopted.
CREATE = "CREATE TABLE indexer.adopted (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"

_NAME = r'((?:public\.)?(?:"[^"]+"|[A-Za-z_]\w*)|indexer\.\w+)'
_TARGETS = (
    re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?{_NAME}"),
    re.compile(rf"CREATE (?:OR REPLACE )?VIEW {_NAME}"),
    re.compile(rf"CREATE (?:UNIQUE )?INDEX .*? ON (?:ONLY )?{_NAME}"),
    re.compile(rf"(?:CREATE|DROP) TRIGGER .*? ON {_NAME}"),
    re.compile(rf"ALTER (?:TABLE|VIEW) (?:IF EXISTS )?(?:ONLY )?{_NAME}"),
    re.compile(rf"(?:LOCK TABLE|TRUNCATE(?: TABLE)?|UPDATE|DELETE FROM|INSERT INTO) (?:ONLY )?{_NAME}"),
    re.compile(rf"DO \$\$.*?FROM {_NAME}"),
)
_DROP = re.compile(r"(DROP (?:TABLE|VIEW) (?:IF EXISTS )?)(.*?)( CASCADE)?")
_DROP_INDEX = re.compile(rf"DROP INDEX (?:IF EXISTS )?{_NAME}")
_EMPTY = re.compile(rf"SELECT EXISTS \(SELECT FROM {_NAME}\)")
NOTHING = "SELECT WHERE false"

_STATE = """
SELECT 'table ' || c.relname || ' ' || c.relkind::text || ' ' || c.relowner::regrole || ' ' || c.relrowsecurity || ' '
    || COALESCE(c.reloptions::text, '') AS line
  FROM pg_class c WHERE c.oid = ANY($1::oid[])
UNION ALL SELECT 'column ' || attrelid::regclass || ' ' || attnum || ' ' || attname || ' '
    || format_type(atttypid, atttypmod) || ' ' || attnotnull || attidentity::text || attgenerated::text || ' '
    || COALESCE(pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE attrelid = ANY($1::oid[]) AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE conrelid = ANY($1::oid[])
UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = ANY($1::oid[])
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = ANY($1::oid[])
UNION ALL SELECT 'view ' || c.relname || ' ' || pg_get_viewdef(c.oid)
  FROM pg_class c WHERE c.oid = ANY($1::oid[]) AND c.relkind IN ('v', 'm')
ORDER BY 1
"""


async def names(conn: Connection) -> Names:
    """Return the names of the adopted relations in `public`; empty if nothing was adopted."""
    if await conn.fetchval("SELECT to_regclass('indexer.adopted')") is None:
        return frozenset()
    return frozenset(row[0] for row in await conn.fetch("SELECT name FROM indexer.adopted"))


async def record(conn: Connection, taken: Iterable[str]) -> None:
    """Record the adopted names. Call inside the transaction that adopts."""
    await conn.execute(CREATE)
    await conn.executemany("INSERT INTO indexer.adopted (name) VALUES ($1)", [(name,) for name in sorted(taken)])


def filter_statement(statement: str, taken: Names) -> str:
    """Return a migration's statement, or its replacement if it would touch an adopted relation."""
    if not taken:
        return statement
    plain = " ".join(statement.split())
    for pattern in _TARGETS:
        if (match := pattern.match(plain)) and _plain(match[1]) in taken:
            return NOTHING
    if (match := _DROP_INDEX.match(plain)) and _table_of(_plain(match[1])) in taken:
        return NOTHING
    if (match := _EMPTY.fullmatch(plain)) and _plain(match[1]) in taken:
        return "SELECT false"  # The query asks whether dropping it would lose rows.
    if match := _DROP.fullmatch(plain):
        left = [name for name in match[2].split(", ") if _plain(name) not in taken]
        return f"{match[1]}{', '.join(left)}{match[3] or ''}" if left else NOTHING
    return statement


def _plain(name: str) -> str:
    """Strip `public.` and quotes from a name. Others keep their schema, so they match no adopted name."""
    return name.removeprefix("public.").strip('"')


def _table_of(index: str) -> str:
    """Return the table of an index by its name, which begins with the table's; "" if there is none."""
    return max((name for name in PUBLIC_TABLES if index.startswith(f"{name}_")), key=len, default="")


async def catalog_snapshot(conn: Connection, taken: Names) -> list[str]:
    """Return everything that the catalogs say about these relations, except privileges, as sorted lines."""
    oids = await conn.fetch(
        "SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY($1::text[])"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f')",
        list(taken),
    )
    return [row["line"] for row in await conn.fetch(_STATE, [row["oid"] for row in oids])]


async def ensure_unchanged(conn: Connection, taken: Names, before: list[str]) -> None:
    """Raise IndexerError if a step changed an adopted relation. The caller's transaction must then be rolled back."""
    after = await catalog_snapshot(conn, taken)
    if changed := sorted(set(before) ^ set(after)):
        raise IndexerError(
            f"a step would change a table that this program did not create: {changed[0]}",
            "Nothing was changed. This is a bug in this release",
        )
