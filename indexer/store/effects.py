"""Checks that a change took effect: compares the server's row count with the number of rows that had to change.

A BEFORE trigger that returns NULL, or a rule, makes the server report success although it changed fewer rows. If that
were committed, orphaned rows would stay in the tables for good while the journal says they were removed. Rows hidden by
row level security are a server error instead: all our sessions turn `row_security` off, which forbids filtering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from indexer.db.catalog import COLUMNS, SCHEMA, quoted, schema_and_name, sql_name
from indexer.db.connection import Connection
from indexer.errors import WriteInterceptedError

# Row triggers that may drop or change a row before it is written, and rules. Replication triggers do not fire here.
_INTERCEPTORS = """
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
# Every table that a step writes. Partitions are left out because statements name the partitioned table.
_WRITTEN_TABLES = f"""
SELECT format('%s.%I', relnamespace::regnamespace, relname) FROM pg_class WHERE relkind IN ('r', 'p') AND (
  relnamespace = to_regnamespace('{SCHEMA}') OR relnamespace = 'public'::regnamespace AND relname = ANY($1::text[]))
"""


class Hindrance(NamedTuple):
    """Something that may keep changes of table `place` from taking effect.

    `kind`: "trigger", "rule" or "row security". `active`: whether it applies to this role.
    """

    place: str
    kind: str
    name: str
    active: bool

    @property
    def remedy(self) -> str:
        """SQL for the table's owner that removes it."""
        if self.kind == "row security":
            return f"ALTER TABLE {self.place} DISABLE ROW LEVEL SECURITY"
        if self.kind == "rule":
            return f"DROP RULE {quoted(self.name)} ON {self.place}"
        return f"ALTER TABLE {self.place} DISABLE TRIGGER {quoted(self.name)}"


async def hindrances(conn: Connection, tables: Sequence[str] | None = None) -> list[Hindrance]:
    """List what may keep changes from taking effect.

    `tables`: SQL names; by default every table that a step writes.
    """
    if tables is None:
        projected = [schema_and_name(name)[1] for name in COLUMNS if schema_and_name(name)[0] == "public"]
        tables = [row[0] for row in await conn.fetch(_WRITTEN_TABLES, projected)]
    result = [Hindrance(place, kind, name, True) for place, kind, name in await conn.fetch(_INTERCEPTORS, tables)]
    return result + [Hindrance(place, "row security", "", on) for place, on in await conn.fetch(_SECURED, tables)]


async def require(conn: Connection, table: str, verb: str, done: int, expected: int) -> None:
    """Raise unless a statement changed exactly the expected number of rows.

    Args:
        conn: connection, inside the caller's transaction.
        table: table that the statement changed.
        verb: past participle for the message, such as "deleted".
        done: number of rows that the server changed.
        expected: number of rows that had to change.

    Raises:
        WriteInterceptedError: the two differ. The caller's transaction ends, and nothing of the step is committed.
    """
    if done == expected:
        return
    plain = ".".join(schema_and_name(table))
    active = [hindrance for hindrance in await hindrances(conn, [sql_name(table)]) if hindrance.active]
    cause = ", ".join(f"{h.kind} {h.name}".strip() for h in active) or "a trigger or row level security"
    remedy = "; ".join(h.remedy for h in active) or "See what else changes this table"
    raise WriteInterceptedError(
        f"{verb} {done} of {expected} rows of {plain}: the others were blocked by {cause}. Nothing was committed",
        f"{remedy}. `reya-indexer doctor` lists every such table",
    )


async def delete(conn: Connection, table: str, where: str, *args: object, using: str = "") -> int:
    """Delete rows of a table, aliased `t`, and return how many.

    The same statement counts the rows, and sees the table as it was before: this takes one round trip, and nobody can
    add a row between the count and the delete.

    Args:
        conn: connection, inside the caller's transaction.
        table: table to delete from.
        where: SQL condition over `t` and `using`.
        args: parameters of the condition.
        using: SQL of the USING clause, if any.

    Raises:
        WriteInterceptedError: a matching row was not deleted.
    """
    name = sql_name(table)
    done, expected = await conn.fetchrow(
        f"WITH gone AS (DELETE FROM {name} t {using and f'USING {using}'} WHERE {where} RETURNING 1)"
        f" SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM {name} t{using and f', {using}'} WHERE {where})",
        *args,
    ) or (0, 0)
    await require(conn, table, "deleted", done, expected)
    return int(done)
