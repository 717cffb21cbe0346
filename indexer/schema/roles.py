"""Three roles with least rights: an owner that migrates, a writer that indexes, a reader for consumers.

`<prefix>_owner` owns the schema `indexer` and all our tables; a later `migrate` finds the roles of a database by the
owner of this schema. `<prefix>_writer` is for the daemon: it inserts and removes rows of projected tables and changes
nothing else in `public`; journal and archive are append-only to it. `<prefix>_reader` reads `public`, and of `indexer`
only the progress of the index.

The statements are computed from the catalogs, so that a second run does nothing and tables of later releases get their
rights from the `migrate` that creates them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from indexer.db.catalog import quoted, table_kind
from indexer.db.connection import Connection
from indexer.errors import IndexerError
from indexer.schema import adopted_tables
from indexer.schema.revisions import LOCK, require_known
from indexer.schema.tables.columns import SCHEMA
from indexer.schema.tables.metadata import ENRICHED, TABLES, public
from indexer.schema.views.all_views import VIEWS

Rights = dict[str, set[str]]  # role -> privileges

_READ = {"SELECT"}
_APPEND = {"SELECT", "INSERT"}
_TAKE_BACK = {"SELECT", "INSERT", "DELETE", "TRUNCATE"}  # append rows are never updated
_CHANGE = {"SELECT", "INSERT", "UPDATE", "DELETE"}
_EMPTIED = {"before_image", "staged_block", "staged_log"}
_ADDED_TO = {"commit_log", "change_log", "drift"}  # besides the tables that a trigger keeps append-only
_MIGRATIONS = {"alembic_version", "adopted", "deferred_index"}  # the owner runs the statements in deferred_index
_CONSUMERS = {"checkpoint", "commit_log", "change_log"}

_RELATIONS = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, pg_get_userbyid(c.relowner) AS owner,
  pg_has_role(c.relowner, 'USAGE') AS mine, c.relispartition AS partition,
  EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'append_only') AS append_only,
  c.relacl AS acl
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('public', 'indexer') AND c.relkind IN ('r', 'p', 'v', 'S') ORDER BY 1, 2
"""
_SCHEMA = """
SELECT pg_get_userbyid(nspowner) AS owner, pg_has_role(nspowner, 'USAGE') AS mine, nspacl FROM pg_namespace
WHERE nspname = 'indexer'
"""
_FUNCTIONS = """
SELECT p.oid, p.oid::regprocedure::text AS name, pg_get_userbyid(p.proowner) AS owner,
  pg_has_role(p.proowner, 'USAGE') AS mine, p.prosecdef AS definer, p.proacl AS acl
FROM pg_proc p WHERE p.pronamespace = to_regnamespace('indexer') ORDER BY 1
"""
_MORE = """
SELECT rolname AS role, CASE WHEN rolsuper THEN 'is a superuser' WHEN rolcreaterole THEN 'may create roles'
    WHEN rolbypassrls THEN 'passes by row security' WHEN rolreplication THEN 'may read everything by replication'
    ELSE 'is a member of ' || $1 END AS what
FROM pg_roles r WHERE rolname = ANY($2::text[]) AND (rolsuper OR rolcreaterole OR rolbypassrls OR rolreplication
  OR EXISTS (SELECT FROM pg_roles o WHERE o.rolname = $1 AND pg_has_role(r.oid, o.oid, 'MEMBER')))
ORDER BY 1
"""
# Before PostgreSQL 15, and in a database upgraded from it, everybody may create objects in `public`.
_OPEN = """
SELECT EXISTS (SELECT FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'public' AND grantee = 0
  AND privilege_type = 'CREATE' AND pg_has_role(nspowner, 'USAGE'))
"""
_GRANTED = """
SELECT r.rolname AS role, a.privilege_type AS privilege
FROM aclexplode($1::aclitem[]) a JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = ANY($2::text[])
"""


class Roles(NamedTuple):
    """Names of the three roles."""

    owner: str
    writer: str
    reader: str


def role_names(prefix: str) -> Roles:
    """Return the names of the roles with this prefix."""
    return Roles(f"{prefix}_owner", f"{prefix}_writer", f"{prefix}_reader")


async def existing_roles(conn: Connection) -> Roles | None:
    """Return the roles of a database, found by the owner of its schema `indexer`; None if none were set up."""
    owner = await conn.fetchval(
        "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE oid = to_regnamespace('indexer')"
    )
    if owner is None or not owner.endswith("_owner"):
        return None
    roles = role_names(owner.removesuffix("_owner"))
    known = await conn.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = ANY($1::text[])", list(roles))
    return roles if known == len(roles) else None


async def setup(conn: Connection, roles: Roles, verifiers: Mapping[str, str]) -> list[str]:
    """Return the statements that create the roles, make the owner own our objects, and grant each role its rights.

    Empty if everything is set up already. Takes the migration lock: until the end of the caller's transaction no
    `migrate` creates more objects. `verifiers`: passwords by role, from `verifier()`; these roles can log in. Raises
    IndexerError if the database's roles have another prefix or an existing role has more rights, ForeignDatabaseError
    or SchemaNewerError if the database is not ours.
    """
    await conn.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
    await require_known(conn)
    others = await existing_roles(conn)
    if others not in (None, roles):
        raise IndexerError(
            f"the roles of this database are {', '.join(others or ())}", "Pass their prefix with --prefix"
        )
    if more := await conn.fetch(_MORE, roles.owner, [roles.writer, roles.reader]):
        raise IndexerError(
            f"role {more[0]['role']} already exists and {more[0]['what']}",
            "Take that privilege from it, or use another --prefix",
        )
    statements = [*await _role_statements(conn, roles, verifiers), *await _schemas(conn, roles)]
    statements += await _owned(conn, roles)
    return statements + await grants(conn, roles, everything=True)


async def _role_statements(conn: Connection, roles: Roles, verifiers: Mapping[str, str]) -> list[str]:
    rows = await conn.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1::text[])", list(roles))
    known = {row["rolname"] for row in rows}
    statements = [f"CREATE ROLE {quoted(role)} NOLOGIN" for role in roles if role not in known]
    statements += [f"ALTER ROLE {quoted(role)} LOGIN PASSWORD '{text}'" for role, text in verifiers.items()]
    # Reassigning objects to the owner, or creating them as the owner, requires membership in it, except for superusers.
    if not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") and (
        roles.owner not in known or not await conn.fetchval("SELECT pg_has_role($1, 'USAGE')", roles.owner)
    ):
        statements.append(f"GRANT {quoted(roles.owner)} TO CURRENT_USER")
    return statements


async def _schemas(conn: Connection, roles: Roles) -> list[str]:
    """Return the statements for the database and its two schemas."""
    database, acl = await conn.fetchrow(
        "SELECT datname, datacl FROM pg_database WHERE datname = current_database()"
    ) or ("", None)
    rights: Rights = {role: {"CONNECT"} for role in roles}
    rights[roles.owner] |= {"CREATE", "TEMPORARY"}
    statements = await _changes(conn, f"DATABASE {quoted(database)}", rights, acl)
    schema = await conn.fetchrow(_SCHEMA)
    if schema is None:
        statements.append(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {quoted(roles.owner)}")
    elif schema["owner"] != roles.owner:
        statements.append(f"ALTER SCHEMA {SCHEMA} OWNER TO {quoted(roles.owner)}")
    shared: Rights = {roles.writer: {"USAGE"}, roles.reader: {"USAGE"}, roles.owner: {"USAGE", "CREATE"}}
    acl = await conn.fetchval("SELECT nspacl FROM pg_namespace WHERE nspname = 'public'")
    # Keep this right in an adopted database: other owners of tables may rely on it.
    if not await adopted_tables.names(conn) and await conn.fetchval(_OPEN):
        statements.append("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    return statements + await _changes(conn, "SCHEMA public", shared, acl)


async def _owned(conn: Connection, roles: Roles) -> list[str]:
    """Return statements that make the owner own our objects. Adopted tables keep their owners."""
    taken = await adopted_tables.names(conn)
    statements = []
    for row in await conn.fetch(_RELATIONS):
        own = row["schema"] == SCHEMA or (row["name"] in public.tables or row["name"] in VIEWS)
        if row["schema"] == "public" and row["name"] in taken:
            own = False
        if own and row["kind"] != "S" and row["owner"] != roles.owner:  # a sequence follows its table
            what = "VIEW" if row["kind"] == "v" else "TABLE"
            statements.append(f"ALTER {what} {_name(row)} OWNER TO {quoted(roles.owner)}")
    for row in await conn.fetch(_FUNCTIONS):
        if row["owner"] != roles.owner:
            statements.append(f"ALTER FUNCTION {row['name']} OWNER TO {quoted(roles.owner)}")
    return statements


def _name(row: Any) -> str:
    return f"{row['schema']}.{quoted(row['name'])}"


async def grants(conn: Connection, roles: Roles, *, everything: bool = False) -> list[str]:
    """Return GRANTs and REVOKEs for our schema, tables, views, sequences and functions.

    Without `everything`: only for objects that the session's role may grant rights on.
    """
    taken, statements = await adopted_tables.names(conn), list[str]()
    schema = await conn.fetchrow(_SCHEMA)
    if everything or (schema and schema["mine"]):
        used: Rights = {roles.writer: {"USAGE"}, roles.reader: {"USAGE"}}
        statements += await _changes(conn, f"SCHEMA {SCHEMA}", used, schema and schema["nspacl"])
    for row in await conn.fetch(_RELATIONS):
        wanted = _wanted(row, roles, adopted=row["schema"] == "public" and row["name"] in taken)
        if wanted is not None and (everything or row["mine"]):
            what = "SEQUENCE" if row["kind"] == "S" else "TABLE"
            statements += await _changes(conn, f"{what} {_name(row)}", wanted, row["acl"])
    for row in await conn.fetch(_FUNCTIONS):
        if row["definer"] and (everything or row["mine"]):
            statements += await _changes(conn, f"FUNCTION {row['name']}", {roles.writer: {"EXECUTE"}}, row["acl"])
    return statements


async def missing_rights(conn: Connection) -> list[str]:
    """Return the writer's rights that the session's role lacks, whatever its name; one line per object."""
    me, taken, lines = Roles("owner", "writer", "reader"), await adopted_tables.names(conn), list[str]()
    for row in await conn.fetch(_RELATIONS):
        wanted = _wanted(row, me, adopted=row["schema"] == "public" and row["name"] in taken) or {}
        asked = f"has_{'sequence' if row['kind'] == 'S' else 'table'}_privilege($1::oid, p)"
        rights = sorted(wanted.get(me.writer, ()))
        lacking = await conn.fetch(f"SELECT p FROM unnest($2::text[]) p WHERE NOT {asked}", row["oid"], rights)
        if lacking:
            lines.append(f"{_listed(right[0] for right in lacking)} on {_name(row)}")
    for row in await conn.fetch(_FUNCTIONS):
        if row["definer"] and not await conn.fetchval("SELECT has_function_privilege($1::oid, 'EXECUTE')", row["oid"]):
            lines.append(f"EXECUTE on {row['name']}")
    return lines


def _wanted(row: Any, roles: Roles, *, adopted: bool) -> Rights | None:
    """Return the rights on a relation, None if it is not ours. `adopted`: then the owner role needs rights too."""
    name = row["name"]
    if row["schema"] == SCHEMA:
        if row["partition"]:
            return None
        if row["kind"] == "S":
            return {roles.writer: {"USAGE"}}
        read = _READ if name in _CONSUMERS else set[str]()
        return {roles.writer: _own_rights(row), roles.reader: read}
    if row["kind"] == "S" or not (name in public.tables or name in VIEWS):
        return None
    projected = table_kind(name) if name in public.tables and row["kind"] != "v" else ""
    written = {"append": _TAKE_BACK, "state": _CHANGE | {"TRUNCATE"}}.get(projected, set())
    owned = written | _READ | (_CHANGE if name in ENRICHED else set[str]())  # the owner runs `enrich`
    return {roles.writer: written, roles.reader: _READ} | ({roles.owner: owned} if adopted else {})


def _own_rights(row: Any) -> set[str]:
    """Return the writer's rights on a table of `indexer`."""
    name = row["name"]
    if name in _MIGRATIONS:
        return _READ
    if row["append_only"] or name in _ADDED_TO:
        return _APPEND
    return _CHANGE | ({"TRUNCATE"} if name in _EMPTIED or f"{SCHEMA}.{name}" in TABLES else set())


async def _changes(conn: Connection, what: str, wanted: Rights, acl: Any) -> list[str]:
    """Return the GRANTs and REVOKEs that turn an access list into the wanted rights of these roles."""
    have: Rights = {role: set() for role in wanted}
    for row in await conn.fetch(_GRANTED, acl or None, list(wanted)):
        have[row["role"]].add(row["privilege"])
    statements = []
    for role, rights in wanted.items():
        if missing := rights - have[role]:
            statements.append(f"GRANT {_listed(missing)} ON {what} TO {quoted(role)}")
        if surplus := have[role] - rights:
            statements.append(f"REVOKE {_listed(surplus)} ON {what} FROM {quoted(role)}")
    return statements


def _listed(privileges: Iterable[str]) -> str:
    return ", ".join(sorted(privileges))


def verifier(password: str, salt: bytes | None = None) -> str:
    """Return what PostgreSQL stores for a password (SCRAM-SHA-256), so that neither the server nor its log sees it.

    Raises IndexerError unless it is printable ASCII: clients may encode other characters differently.
    """
    if not password or not password.isascii() or not password.isprintable():
        raise IndexerError("a password is empty or has characters other than printable ASCII", "Choose another one")
    salt, rounds = salt or os.urandom(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored, server = hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")
    texts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(rounds, *texts)
