"""A database that others made against the contract: what differs, and whether this release can work on it.

Of the tables that projections fill everything counts that could refuse a row, change it, or hide how it is found. The
tables of applications are nothing that the program writes or reads: what differs there is told only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from indexer.db.catalog import quoted, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.schema.adopted_tables import Names
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS

PROJECTED = ("append", "state")


class SchemaDifference(NamedTuple):
    """`blocks`: the program cannot work so. `remedy`: SQL for the owner of the table, where there is some."""

    table: str
    what: str
    blocks: bool = False
    remedy: str = ""


@dataclass
class Column:
    type: str
    not_null: bool
    default: bool
    generated: bool


class Constraint(NamedTuple):
    """`place`: the table that it is of, as SQL."""

    kind: str
    name: str
    place: str
    definition: str


@dataclass
class ExistingRelation:
    """A relation as it is. `keys`: columns of unique indexes, None among them for an expression, a condition or a
    check that waits for the commit; `leading`: columns of every index of all rows."""

    kind: str
    row_security: bool
    primary: bool = False
    columns: dict[str, Column] = field(default_factory=dict)
    keys: list[list[str | None]] = field(default_factory=list)
    leading: list[list[str | None]] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    unlogged: bool = False
    bounded: bool = False  # rows must lie in a partition, and there may be none for them


_RELATIONS = """
SELECT c.oid, c.relname AS name, c.relkind::text AS kind, c.relrowsecurity AS secured,
  c.relpersistence <> 'p' AS unlogged, c.relispartition OR EXISTS (
    SELECT FROM pg_partitioned_table p WHERE p.partrelid = c.oid AND p.partstrat <> 'h' AND p.partdefid = 0) AS bounded
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_COLUMNS = """
SELECT attrelid AS oid, attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null,
  atthasdef OR attidentity <> '' AS filled, attgenerated <> '' OR attidentity = 'a' AS generated
FROM pg_attribute WHERE attrelid = ANY($1::oid[]) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_INDEXES = """
SELECT i.indrelid AS oid, i.indisunique AS one, i.indisprimary AS first,
  i.indpred IS NOT NULL OR NOT i.indimmediate AS partial, ARRAY(
  SELECT a.attname::text FROM unnest(i.indkey[:i.indnkeyatts - 1]) WITH ORDINALITY k(n, place)
  LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.place) AS columns
FROM pg_index i WHERE i.indrelid = ANY($1::oid[]) AND i.indisvalid
"""
_CONSTRAINTS = """
SELECT r.oid, k.contype::text AS kind, k.conname AS name, k.conrelid::regclass::text AS place,
  pg_get_constraintdef(k.oid) AS definition
FROM unnest($1::oid[]) r(oid) JOIN pg_constraint k ON r.oid IN (k.conrelid, k.confrelid)
WHERE k.contype IN ('f', 'c', 'x') AND k.conparentid = 0
"""
_IN_UTC = """
SELECT EXISTS (SELECT FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setrole = 0 AND lower(c) = 'timezone=utc'
  AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_RULES = "SELECT ev_class AS oid, rulename AS name FROM pg_rewrite WHERE ev_class = ANY($1::oid[]) AND ev_type <> '1'"
_IN_OUR_SCHEMA = """
SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace('indexer') AND relkind <> 'i'
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('indexer') ORDER BY 1 LIMIT 1
"""
_TRIGGERS = "SELECT tgrelid AS oid, tgname AS name FROM pg_trigger WHERE tgrelid = ANY($1::oid[]) AND NOT tgisinternal"


async def read(conn: Connection, names: list[str]) -> dict[str, ExistingRelation]:
    """Those relations of these names that there are."""
    rows = await conn.fetch(_RELATIONS, names)
    by_oid = {
        row["oid"]: ExistingRelation(row["kind"], row["secured"], unlogged=row["unlogged"], bounded=row["bounded"])
        for row in rows
    }
    oids = list(by_oid)
    for row in await conn.fetch(_COLUMNS, oids):
        column = Column(row["type"], row["not_null"], row["filled"], row["generated"])
        by_oid[row["oid"]].columns[row["name"]] = column
    for row in await conn.fetch(_INDEXES, oids):
        by_oid[row["oid"]].primary |= row["first"]
        if row["one"]:
            by_oid[row["oid"]].keys.append([*row["columns"], *([None] if row["partial"] else [])])
        if not row["partial"]:
            by_oid[row["oid"]].leading.append(row["columns"])
    for row in await conn.fetch(_CONSTRAINTS, oids):
        by_oid[row["oid"]].constraints.append(Constraint(*(row[c] for c in ("kind", "name", "place", "definition"))))
    for row in await conn.fetch(_TRIGGERS, oids):
        by_oid[row["oid"]].triggers.append(row["name"])
    for row in await conn.fetch(_RULES, oids):
        by_oid[row["oid"]].rules.append(row["name"])
    return {row["name"]: by_oid[row["oid"]] for row in rows}


async def compare(conn: Connection, only: Names | None = None) -> list[SchemaDifference]:
    """Every difference from the contract, those that block first. `only`: of tables that were adopted earlier, whose
    rows are ours by now."""
    wanted = [*public.tables, *VIEWS] if only is None else sorted(only)
    found, differences = await read(conn, wanted), list[SchemaDifference]()
    for name in wanted:
        there = found.get(name)
        if there is None and only is not None:
            needed = name in public.tables and table_kind(name) in PROJECTED
            differences.append(SchemaDifference(name, "was adopted and is gone", needed))
        elif there is None:
            if name in public.tables:
                differences.append(SchemaDifference(name, "is missing: it will be made"))
        elif name not in public.tables:
            differences.append(SchemaDifference(name, "is there already: this program's view of that name is not made"))
        else:
            differences += table_differences(public.tables[name], there)
            # Row security would make the look an error instead of the difference that it is told as already.
            if only is None and table_kind(name) in PROJECTED and there.kind in "rp" and not there.row_security:
                differences += await _rows(conn, name)
    if only is None and (taken := await conn.fetchval(_IN_OUR_SCHEMA)):
        what = f"holds {taken} of others: everything in it is this program's, and goes with it"
        differences.append(
            SchemaDifference("(schema indexer)", what, True, "ALTER SCHEMA indexer RENAME TO indexer_of_others;")
        )
    if only is None and not await conn.fetchval(_IN_UTC):
        differences.append(SchemaDifference("(database)", "its time zone becomes UTC for new sessions"))
    return sorted(differences, key=lambda one: not one.blocks)


async def existing_names(conn: Connection) -> Names:
    """Relations of others under names of ours."""
    return frozenset(await read(conn, [*public.tables, *VIEWS]))


async def _rows(conn: Connection, name: str) -> list[SchemaDifference]:
    if not await conn.fetchval(f"SELECT EXISTS (SELECT FROM {sql_name(name)})"):
        return []
    what = "has rows of another writer: all rows of this table must be projections of the chain"
    return [
        SchemaDifference(name, what, True, f"TRUNCATE {sql_name(name)}; -- they are projected again from the chain")
    ]


def table_differences(table: Table, found: ExistingRelation) -> list[SchemaDifference]:
    """Pure: a described table against what is there under its name."""
    if table_kind(table.name) not in PROJECTED:
        if found.kind not in "rp":
            return [SchemaDifference(table.name, "is no table; nothing of this program needs it")]
        return [one._replace(blocks=False) for one in _columns(table, found)]
    if found.kind not in "rp":
        return [SchemaDifference(table.name, "is no table: projections cannot write it", True)]
    return [*_columns(table, found), *_keys(table, found), *_indexes(table, found), *_obstacles(table, found)]


def _columns(table: Table, found: ExistingRelation) -> Iterator[SchemaDifference]:
    alter = f"ALTER TABLE {sql_name(table.name)}"
    for column in table.columns:
        name, wanted = f'"{column.name}"', type_name(column.type)
        there = found.columns.get(column.name)
        if there is None:
            ending = "" if column.nullable else " NOT NULL"
            yield SchemaDifference(
                table.name, f"has no column {name}", True, f"{alter} ADD COLUMN {name} {wanted}{ending};"
            )
            continue
        if there.type != wanted:
            remedy = f"{alter} ALTER COLUMN {name} TYPE {wanted} USING {name}::{wanted};"
            fits = can_store(there.type, wanted)
            yield SchemaDifference(
                table.name, f"{name} is {there.type}, not {wanted}", not fits, "" if fits else remedy
            )
        if there.generated:
            yield SchemaDifference(table.name, f"{name} is generated: it cannot be written", True)
        if there.not_null and column.nullable:
            remedy = f"{alter} ALTER COLUMN {name} DROP NOT NULL;"
            yield SchemaDifference(table.name, f"{name} is NOT NULL: what is not known is NULL", True, remedy)
        if not there.not_null and not column.nullable:
            yield SchemaDifference(table.name, f"{name} may be NULL here; it never will be")
    for extra in found.columns.keys() - table.columns.keys():
        there = found.columns[extra]
        if there.not_null and not there.default:
            what, remedy = (
                f'column "{extra}" must be given and is none of ours',
                f"{alter} ALTER COLUMN {quoted(extra)}",
            )
            yield SchemaDifference(table.name, what, True, f"{remedy} DROP NOT NULL;")
        else:
            lost = table_kind(table.name) in PROJECTED
            what = f'column "{extra}" is none of ours'
            yield SchemaDifference(table.name, what + (": its values go when rows are projected again" if lost else ""))


def type_name(type_: Any) -> str:
    """As format_type() spells it."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    spelt: str = type_.compile(dialect)
    return re.sub(r", (\d)", r",\1", spelt.lower())


def can_store(found: str, wanted: str) -> bool:
    """Whether a column of one type takes and gives back every value of the other, unchanged.

    Not so: numeric with a scale, which gives back decimals for integers; text of limited length.
    """
    wider = {
        "numeric(78,0)": {"numeric"},
        "text": {"character varying"},
        "smallint": {"integer", "bigint"},
        "integer": {"bigint"},
        "timestamp(3) without time zone": {"timestamp without time zone"}
        | {f"timestamp({n}) without time zone" for n in (4, 5, 6)},
    }
    size = re.fullmatch(r"numeric\((\d+),0\)", found)
    return found in wider.get(wanted, ()) or (wanted == "numeric(78,0)" and size is not None and int(size[1]) >= 78)


def _keys(table: Table, found: ExistingRelation) -> Iterator[SchemaDifference]:
    """The key that rows are found by, and no key beyond ours: it would refuse rows."""
    wanted = [column.name for column in table.primary_key.columns]
    ours = [set(wanted), *({c.name for c in i.columns} for i in table.indexes if i.unique)]
    if not any(set(key) == set(wanted) for key in found.keys):
        columns = ", ".join(f'"{name}"' for name in wanted)
        remedy = f"ALTER TABLE {sql_name(table.name)} ADD PRIMARY KEY ({columns});"
        if found.primary:
            remedy = f"CREATE UNIQUE INDEX ON {sql_name(table.name)} ({columns});"
        yield SchemaDifference(table.name, f"has no unique key on {columns}", True, remedy)
    for key in found.keys:
        known = {name for name in key if name is not None}
        if None in key or not any(one <= known for one in ours):
            columns = ", ".join("an expression or condition" if name is None else name for name in key)
            yield SchemaDifference(table.name, f"a unique index on {columns} would refuse rows", True)


def _indexes(table: Table, found: ExistingRelation) -> Iterator[SchemaDifference]:
    """Append rows are taken back by unique_id; what else is missing makes consumers wait."""
    for index in sorted(table.indexes, key=lambda one: str(one.name)):
        columns = [column.name for column in index.columns]
        if any(there[: len(columns)] == columns for there in found.leading):
            continue
        unique = "UNIQUE " if index.unique else ""
        spelt = ", ".join(f'"{name}"' for name in columns)
        remedy = f'CREATE {unique}INDEX "{index.name}" ON {sql_name(table.name)} ({spelt});'
        needed = columns == ["unique_id"] and table_kind(table.name) == "append"
        why = "a rollback would read the whole table" if needed else "queries of consumers use it"
        yield SchemaDifference(table.name, f"has no index on {spelt}: {why}", needed, remedy)


def _obstacles(table: Table, found: ExistingRelation) -> Iterator[SchemaDifference]:
    kinds, name = {"f": "foreign key", "c": "check", "x": "exclusion"}, sql_name(table.name)
    for one in found.constraints:
        what = f"{kinds[one.kind]} {one.name} of {one.place} ({one.definition}) could refuse what the chain says"
        yield SchemaDifference(table.name, what, True, f"ALTER TABLE {one.place} DROP CONSTRAINT {quoted(one.name)};")
    for rule in found.rules:
        what = f"rule {rule} does something else instead of a change, or beside it"
        yield SchemaDifference(table.name, what, True, f"DROP RULE {quoted(rule)} ON {name};")
    if found.unlogged:
        what = "is UNLOGGED: a crash of the server empties it"
        yield SchemaDifference(table.name, what, True, f"ALTER TABLE {name} SET LOGGED;")
    if found.bounded:
        what = "is partitioned, or a partition: a row that has no place there would be refused"
        remedy = f"CREATE TABLE {sql_name(table.name + '_default')} PARTITION OF {name} DEFAULT;"
        yield SchemaDifference(table.name, what, True, remedy if found.kind == "p" else "")
    if found.row_security:
        yield SchemaDifference(
            table.name, "has row security, which could hide rows", True,
            f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;",
        )  # fmt: skip
    for trigger in found.triggers:
        yield SchemaDifference(table.name, f"trigger {trigger} runs for each change; it must not change rows")
