"""Checks of the tables for `doctor`: what others put on them that would refuse, drop or change a row."""

from __future__ import annotations

from indexer.config import Deployment
from indexer.db.catalog import COLUMNS, SCHEMA, quoted, schema_and_name, table_kind
from indexer.db.connection import Connection
from indexer.ops.doctor.findings import DoctorFindings
from indexer.schema import deferred_indexes, revisions
from indexer.store import effects

# A publication refuses updates and deletes of a table by whose columns a subscriber cannot find the row.
_UNIDENTIFIED = """
SELECT DISTINCT c.oid::regclass::text AS place, p.pubname AS publication
FROM pg_publication p JOIN pg_publication_tables t USING (pubname)
JOIN pg_class c ON c.relname = t.tablename AND c.relnamespace = to_regnamespace(quote_ident(t.schemaname))
WHERE (p.pubupdate OR p.pubdelete) AND (t.schemaname = $1 OR t.schemaname = 'public' AND t.tablename = ANY($2::text[]))
  AND (c.relreplident = 'n'
  OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)) ORDER BY 1
"""
_KEYS_TO_OURS = """
SELECT conrelid::regclass::text AS place, conname AS name, confrelid::regclass::text AS target FROM pg_constraint
WHERE contype = 'f' AND confdeltype <> 'c' AND conparentid = 0 AND connamespace <> to_regnamespace($1)
  AND confrelid IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace($1)) ORDER BY 1
"""
_INTERNAL = """
SELECT $1 || '.' || relname FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p')
"""


async def check_hindrances(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    """Find what would fail a step or silently change its rows; the first reorg would show it much too late."""
    if await revisions.classify(conn) != "ours":
        return
    hindrances = await effects.hindrances(conn)
    for item in hindrances:
        if item.kind == "row security" and not item.active:
            found.note(
                "row security", f"{item.place} has it; this role is exempt, other readers may miss rows", item.remedy
            )
        elif item.kind == "row security":
            found.fix("row security", f"{item.place} hides rows from this role by row level security", item.remedy)
        else:
            found.fix(
                "triggers", f"{item.kind} {item.name} of {item.place} may drop or change what is written", item.remedy
            )
    if not hindrances:
        found.good("triggers", "no row security, rule or trigger comes between the indexer and its tables")


async def check_tables(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    """Find keys, columns and constraints of others that could refuse a row or its removal in a reorg."""
    if await revisions.current_revision(conn) != revisions.head_revision():
        return  # Another release's tables differ from this one's.
    from indexer.schema import adoption  # Imported here because it loads SQLAlchemy.
    from indexer.schema.tables.metadata import internal

    kinds = adoption.DifferenceKind
    names = [schema_and_name(name) for name in COLUMNS if table_kind(name) in adoption.PROJECTED]
    differences = await adoption.compare(conn, frozenset(name for schema, name in names if schema == "public"))
    building = bool(await deferred_indexes.pending(conn))  # Keys are put off during an initial load.
    refusing = [
        difference
        for difference in differences
        if difference.blocks and difference.kind is not kinds.HINDRANCE
        and not (building and difference.kind in (kinds.KEY, kinds.INDEX))
    ]  # fmt: skip
    for difference in refusing:
        found.fix("tables", f"{difference.table}: {difference.what}", difference.remedy or "Take it back")
    absent = sorted(set(internal.tables) - {row[0] for row in await conn.fetch(_INTERNAL, SCHEMA)})
    for name in absent:
        found.fix("tables", f"{name} is gone", "Rename it back, or restore a backup: docs/how-to/backup-and-restore.md")
    keys = await conn.fetch(_KEYS_TO_OURS, SCHEMA)
    for place, name, target in keys:
        found.fix(
            "tables", f"foreign key {name} of {place} refers to {target}, whose rows go in reorgs",
            f"ALTER TABLE {place} DROP CONSTRAINT {quoted(name)};",
        )  # fmt: skip
    if not refusing and not keys and not absent:
        found.good("tables", "no key, column or constraint of others could refuse a row")


async def check_publications(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    """Find published tables whose updates and deletes the server would refuse."""
    lacking = await conn.fetch(_UNIDENTIFIED, SCHEMA, [schema_and_name(name)[1] for name in COLUMNS])
    for place, publication in lacking:
        found.fix(
            "publications", f"{publication} publishes {place}, which has no replica identity: changes are refused",
            f"ALTER TABLE {place} REPLICA IDENTITY FULL, or take it out of the publication",
        )  # fmt: skip
    if not lacking and await conn.fetchval("SELECT EXISTS (SELECT FROM pg_publication)"):
        found.good("publications", "every published table has a replica identity")
