"""That a change took effect: the rows that the server counted are compared with the rows that had to change.

A BEFORE trigger that returns NULL, or a rule, makes the server report success over fewer rows. Committed, that leaves
orphaned rows in the tables for good, with a journal that says they are gone. Rows that row level security hides are an
error of the server's: every session of ours turns `row_security` off, under which nothing is filtered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from indexer.db.catalog import COLUMNS, SCHEMA, quoted, schema_and_name, sql_name
from indexer.db.connection import Connection
from indexer.errors import WriteInterceptedError

# What comes between a statement and the rows of a table: row triggers that may drop or change a row before it is
# written (not those of replication, which do not fire here), and rules.
_FOUND = """
SELECT tgrelid::regclass::text AS place, 'trigger' AS kind, tgname::text AS name FROM pg_trigger
WHERE tgrelid = ANY($1::text[]::regclass[]) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
  AND tgtype & 1 = 1 AND tgtype & 66 > 0
UNION ALL SELECT ev_class::regclass::text, 'rule', rulename::text FROM pg_rewrite
WHERE ev_class = ANY($1::text[]::regclass[]) AND ev_type <> '1' AND ev_enabled IN ('O', 'A')
ORDER BY 1, 2, 3
"""
_SECURED = """
SELECT oid::regclass::text AS place, row_security_active(oid) AS active FROM pg_class
WHERE oid = ANY($1::text[]::regclass[]) AND relrowsecurity ORDER BY 1
"""
# Every table that a step writes; no partition, because statements name the whole table.
_OURS = f"""
SELECT format('%s.%I', relnamespace::regnamespace, relname) FROM pg_class WHERE relkind IN ('r', 'p') AND (
  relnamespace = to_regnamespace('{SCHEMA}') OR relnamespace = 'public'::regnamespace AND relname = ANY($1::text[]))
"""


class Hindrance(NamedTuple):
    """`kind`: "trigger", "rule" or "row security" of table `place`. `active`: whether it applies to this role.
    `remedy`: SQL for the table's owner."""

    place: str
    kind: str
    name: str
    active: bool

    @property
    def remedy(self) -> str:
        if self.kind == "row security":
            return f"ALTER TABLE {self.place} DISABLE ROW LEVEL SECURITY"
        if self.kind == "rule":
            return f"DROP RULE {quoted(self.name)} ON {self.place}"
        return f"ALTER TABLE {self.place} DISABLE TRIGGER {quoted(self.name)}"


async def hindrances(conn: Connection, tables: Sequence[str] | None = None) -> list[Hindrance]:
    """What may keep changes of these tables (as SQL) from taking effect; by default of all that a step writes."""
    if tables is None:
        projected = [schema_and_name(name)[1] for name in COLUMNS if schema_and_name(name)[0] == "public"]
        tables = [row[0] for row in await conn.fetch(_OURS, projected)]
    found = [Hindrance(place, kind, name, True) for place, kind, name in await conn.fetch(_FOUND, tables)]
    return found + [Hindrance(place, "row security", "", on) for place, on in await conn.fetch(_SECURED, tables)]


def counted(status: str) -> int:
    """The number of rows in a command tag: "DELETE 27", "INSERT 0 3", "COPY 5"."""
    return int(status.rsplit(" ", 1)[1])


async def require(conn: Connection, table: str, verb: str, done: int, expected: int) -> None:
    """Raises WriteInterceptedError when a statement changed another number of rows than it had to. The caller's
    transaction then ends, and nothing of the step is committed."""
    if done == expected:
        return
    plain = ".".join(schema_and_name(table))
    found = [one for one in await hindrances(conn, [sql_name(table)]) if one.active]
    cause = ", ".join(f"{one.kind} {one.name}".strip() for one in found) or "a trigger or row level security"
    remedy = "; ".join(one.remedy for one in found) or "See what else changes this table"
    raise WriteInterceptedError(
        f"{verb} {done} of {expected} rows of {plain}: the others were withheld by {cause}. Nothing was committed",
        f"{remedy}. `reya-indexer doctor` lists every such table",
    )


async def delete(conn: Connection, table: str, where: str, *args: object, using: str = "") -> int:
    """Deletes the rows t of a table, and counts. Raises WriteInterceptedError when one stays.

    The rows are counted by the same statement, which sees the table as it was before: one round trip, and nobody can
    add a row between the two.
    """
    name = sql_name(table)
    done, expected = await conn.fetchrow(
        f"WITH gone AS (DELETE FROM {name} t {using and f'USING {using}'} WHERE {where} RETURNING 1)"
        f" SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM {name} t{using and f', {using}'} WHERE {where})",
        *args,
    ) or (0, 0)
    await require(conn, table, "deleted", done, expected)
    return int(done)
