"""Tables that a database had before `migrate --adopt`: never altered, never dropped.

Migrations are written for databases that they made themselves. On an adopted one the statements that would touch a
table of others are left out, step by step, up and down; and after each command the catalogs must say of these tables
what they said before, or everything is rolled back. Rows are another matter: those of projected tables are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from indexer.db.catalog import PUBLIC_TABLES
from indexer.db.connection import Connection
from indexer.errors import IndexerError

Names = frozenset[str]

# Made by the adoption and gone with the schema: no step up or down may forget whose the tables are.
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
    """Of relations in `public`; none where nothing was adopted."""
    if await conn.fetchval("SELECT to_regclass('indexer.adopted')") is None:
        return frozenset()
    return frozenset(row[0] for row in await conn.fetch("SELECT name FROM indexer.adopted"))


async def record(conn: Connection, taken: Iterable[str]) -> None:
    """In the transaction that adopts."""
    await conn.execute(CREATE)
    await conn.executemany("INSERT INTO indexer.adopted (name) VALUES ($1)", [(name,) for name in sorted(taken)])


def filter_statement(statement: str, taken: Names) -> str:
    """A migration's statement, or what is run instead of one that would touch a relation of others."""
    if not taken:
        return statement
    plain = " ".join(statement.split())
    for pattern in _TARGETS:
        if (found := pattern.match(plain)) and _plain(found[1]) in taken:
            return NOTHING
    if (found := _DROP_INDEX.match(plain)) and _table_of(_plain(found[1])) in taken:
        return NOTHING
    if (found := _EMPTY.fullmatch(plain)) and _plain(found[1]) in taken:
        return "SELECT false"  # whether it has rows that would go with it
    if found := _DROP.fullmatch(plain):
        left = [name for name in found[2].split(", ") if _plain(name) not in taken]
        return f"{found[1]}{', '.join(left)}{found[3] or ''}" if left else NOTHING
    return statement


def _plain(name: str) -> str:
    """A relation of `public` without schema and quotes; others keep their schema, which no name here has."""
    return name.removeprefix("public.").strip('"')


def _table_of(index: str) -> str:
    """By its name, which begins with the table's."""
    return max((name for name in PUBLIC_TABLES if index.startswith(f"{name}_")), key=len, default="")


async def catalog_snapshot(conn: Connection, taken: Names) -> list[str]:
    """Everything that the catalogs say of these relations, rights on them apart."""
    oids = await conn.fetch(
        "SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY($1::text[])"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f')",
        list(taken),
    )
    return [row["line"] for row in await conn.fetch(_STATE, [row["oid"] for row in oids])]


async def ensure_unchanged(conn: Connection, taken: Names, before: list[str]) -> None:
    """Raises IndexerError when a step changed an adopted relation: the caller's transaction is to be rolled back."""
    after = await catalog_snapshot(conn, taken)
    if changed := sorted(set(before) ^ set(after)):
        raise IndexerError(
            f"a step would change a table that this program did not make: {changed[0]}",
            "Nothing was changed; this is a fault of this release",
        )
