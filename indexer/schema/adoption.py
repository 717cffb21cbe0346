"""Comparison of an existing database with the described tables: what differs, and whether this release can use it.

In projected tables, everything counts that could refuse a row, change it, or hide it from a query. The program neither
writes nor reads the tables of applications: differences there are reported but never block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from indexer.db.catalog import quoted, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.schema.adopted_tables import Names
from indexer.schema.tables.metadata import public
from indexer.schema.views.all_views import VIEWS

PROJECTED = ("append", "state")


class DifferenceKind(Enum):
    """What a difference is about, where its reader does not treat all alike.

    HINDRANCE: a rule, trigger or row security, which `doctor` finds by its own look at the tables. KEY and INDEX: one
    that is lacking, which a load that defers them has still to build.
    """

    OTHER = "other"
    HINDRANCE = "hindrance"
    KEY = "key"
    INDEX = "index"


class SchemaDifference(NamedTuple):
    """One difference. `blocks`: the program cannot work with it. `remedy`: SQL for the table's owner, or ""."""

    table: str
    what: str
    blocks: bool = False
    remedy: str = ""
    kind: DifferenceKind = DifferenceKind.OTHER


@dataclass
class Column:
    """A column as it is in the database. `type`: as format_type() spells it; `default`: has a default or identity."""

    type: str
    not_null: bool
    default: bool
    generated: bool


class Constraint(NamedTuple):
    """A constraint. `kind`: contype of pg_constraint; `table`: the table that has it, as SQL."""

    kind: str
    name: str
    table: str
    definition: str


@dataclass
class ExistingRelation:
    """A relation as it is in the database.

    `keys`: columns of each unique index, with None for an expression, a condition or a check that is deferred to the
    commit. `leading`: columns of each index that covers all rows.
    """

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
    bounded: bool = False  # partitioned without a default, or itself a partition: a row may have no partition to go to


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
    """Read the existing relations with these names."""
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
    """Return every difference from the described tables, blocking ones first.

    `only`: compare just these relations, adopted earlier, whose rows are the indexer's by now.
    """
    wanted = [*public.tables, *VIEWS] if only is None else sorted(only)
    existing, differences = await read(conn, wanted), list[SchemaDifference]()
    for name in wanted:
        relation = existing.get(name)
        if relation is None and only is not None:
            needed = name in public.tables and table_kind(name) in PROJECTED
            differences.append(SchemaDifference(name, "was adopted and is gone", needed))
        elif relation is None:
            if name in public.tables:
                differences.append(SchemaDifference(name, "is missing: it will be made"))
        elif name not in public.tables:
            differences.append(SchemaDifference(name, "is there already: this program's view of that name is not made"))
        else:
            differences += table_differences(public.tables[name], relation)
            # With row security the query would fail. It is already reported as a difference.
            if only is None and table_kind(name) in PROJECTED and relation.kind in "rp" and not relation.row_security:
                differences += await _rows(conn, name)
    if only is None and (taken := await conn.fetchval(_IN_OUR_SCHEMA)):
        what = f"holds {taken} of others: everything in it is this program's, and goes with it"
        differences.append(
            SchemaDifference("(schema indexer)", what, True, "ALTER SCHEMA indexer RENAME TO indexer_of_others;")
        )
    if only is None and not await conn.fetchval(_IN_UTC):
        differences.append(SchemaDifference("(database)", "its time zone becomes UTC for new sessions"))
    return sorted(differences, key=lambda difference: not difference.blocks)


async def existing_names(conn: Connection) -> Names:
    """Return the names of described tables and views that already exist as relations in `public`."""
    return frozenset(await read(conn, [*public.tables, *VIEWS]))


async def _rows(conn: Connection, name: str) -> list[SchemaDifference]:
    if not await conn.fetchval(f"SELECT EXISTS (SELECT FROM {sql_name(name)})"):
        return []
    what = "has rows of another writer: all rows of this table must be projections of the chain"
    return [
        SchemaDifference(name, what, True, f"TRUNCATE {sql_name(name)}; -- they are projected again from the chain")
    ]


def table_differences(table: Table, relation: ExistingRelation) -> list[SchemaDifference]:
    """Compare a described table with the relation of its name. Pure."""
    if table_kind(table.name) not in PROJECTED:
        if relation.kind not in "rp":
            return [SchemaDifference(table.name, "is no table; nothing of this program needs it")]
        return [difference._replace(blocks=False) for difference in _columns(table, relation)]
    if relation.kind not in "rp":
        return [SchemaDifference(table.name, "is no table: projections cannot write it", True)]
    return [
        *_columns(table, relation),
        *_keys(table, relation),
        *_indexes(table, relation),
        *_obstacles(table, relation),
    ]


def _columns(table: Table, relation: ExistingRelation) -> Iterator[SchemaDifference]:
    alter = f"ALTER TABLE {sql_name(table.name)}"
    for column in table.columns:
        name, wanted = f'"{column.name}"', type_name(column.type)
        existing = relation.columns.get(column.name)
        if existing is None:
            ending = "" if column.nullable else " NOT NULL"
            yield SchemaDifference(
                table.name, f"has no column {name}", True, f"{alter} ADD COLUMN {name} {wanted}{ending};"
            )
            continue
        if existing.type != wanted:
            remedy = f"{alter} ALTER COLUMN {name} TYPE {wanted} USING {name}::{wanted};"
            fits = can_store(existing.type, wanted)
            yield SchemaDifference(
                table.name, f"{name} is {existing.type}, not {wanted}", not fits, "" if fits else remedy
            )
        if existing.generated:
            yield SchemaDifference(table.name, f"{name} is generated: it cannot be written", True)
        if existing.not_null and column.nullable:
            remedy = f"{alter} ALTER COLUMN {name} DROP NOT NULL;"
            yield SchemaDifference(table.name, f"{name} is NOT NULL: what is not known is NULL", True, remedy)
        if not existing.not_null and not column.nullable:
            yield SchemaDifference(table.name, f"{name} may be NULL here; it never will be")
    for extra in relation.columns.keys() - table.columns.keys():
        existing = relation.columns[extra]
        if existing.not_null and not existing.default:
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
    """Return the SQL type as format_type() spells it."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    spelled: str = type_.compile(dialect)
    return re.sub(r", (\d)", r",\1", spelled.lower())


def can_store(found: str, wanted: str) -> bool:
    """Say whether a column of type `found` stores and returns every value of type `wanted` unchanged.

    Counterexamples: numeric with a scale, which returns decimals for integers; text of limited length.
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


def _keys(table: Table, relation: ExistingRelation) -> Iterator[SchemaDifference]:
    """Require the primary key, by which rows are found, and no stricter unique key, which would refuse rows."""
    wanted = [column.name for column in table.primary_key.columns]
    own_keys = [set(wanted), *({c.name for c in i.columns} for i in table.indexes if i.unique)]
    if not any(set(key) == set(wanted) for key in relation.keys):
        columns = ", ".join(f'"{name}"' for name in wanted)
        remedy = f"ALTER TABLE {sql_name(table.name)} ADD PRIMARY KEY ({columns});"
        if relation.primary:
            remedy = f"CREATE UNIQUE INDEX ON {sql_name(table.name)} ({columns});"
        yield SchemaDifference(table.name, f"has no unique key on {columns}", True, remedy, DifferenceKind.KEY)
    for key in relation.keys:
        known = {name for name in key if name is not None}
        if None in key or not any(described <= known for described in own_keys):
            columns = ", ".join("an expression or condition" if name is None else name for name in key)
            yield SchemaDifference(table.name, f"a unique index on {columns} would refuse rows", True)


def _indexes(table: Table, relation: ExistingRelation) -> Iterator[SchemaDifference]:
    """Require the index on unique_id, by which a rollback finds append rows. Other missing ones only slow consumers."""
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        columns = [column.name for column in index.columns]
        if any(leading[: len(columns)] == columns for leading in relation.leading):
            continue
        unique = "UNIQUE " if index.unique else ""
        spelled = ", ".join(f'"{name}"' for name in columns)
        remedy = f'CREATE {unique}INDEX "{index.name}" ON {sql_name(table.name)} ({spelled});'
        needed = columns == ["unique_id"] and table_kind(table.name) == "append"
        why = "a rollback would read the whole table" if needed else "queries of consumers use it"
        yield SchemaDifference(table.name, f"has no index on {spelled}: {why}", needed, remedy, DifferenceKind.INDEX)


def _obstacles(table: Table, relation: ExistingRelation) -> Iterator[SchemaDifference]:
    kinds, name = {"f": "foreign key", "c": "check", "x": "exclusion"}, sql_name(table.name)
    for kind, label, on_table, definition in relation.constraints:
        what = f"{kinds[kind]} {label} of {on_table} ({definition}) could refuse what the chain says"
        yield SchemaDifference(table.name, what, True, f"ALTER TABLE {on_table} DROP CONSTRAINT {quoted(label)};")
    for rule in relation.rules:
        what = f"rule {rule} does something else instead of a change, or beside it"
        remedy = f"DROP RULE {quoted(rule)} ON {name};"
        yield SchemaDifference(table.name, what, True, remedy, DifferenceKind.HINDRANCE)
    if relation.unlogged:
        what = "is UNLOGGED: a crash of the server empties it"
        yield SchemaDifference(table.name, what, True, f"ALTER TABLE {name} SET LOGGED;")
    if relation.bounded:
        what = "is partitioned, or a partition: a row that has no place there would be refused"
        remedy = f"CREATE TABLE {sql_name(table.name + '_default')} PARTITION OF {name} DEFAULT;"
        yield SchemaDifference(table.name, what, True, remedy if relation.kind == "p" else "")
    if relation.row_security:
        yield SchemaDifference(
            table.name, "has row security, which could hide rows", True,
            f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;", DifferenceKind.HINDRANCE,
        )  # fmt: skip
    for trigger in relation.triggers:
        what = f"trigger {trigger} runs for each change; it must not change rows"
        yield SchemaDifference(table.name, what, kind=DifferenceKind.HINDRANCE)
