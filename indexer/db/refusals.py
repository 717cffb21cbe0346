"""Refusals that no retry overcomes: which table, constraint, column or function it is, and what removes it. Pure."""

from __future__ import annotations

import re

import asyncpg

from indexer.db.catalog import quoted, sql_name
from indexer.db.database_errors import describe, function_of
from indexer.db.sqlstates import Cause
from indexer.errors import WriteInterceptedError, printable

_NOTHING_WRITTEN = "Nothing of the step was committed"
_COMPARE = "`reya-indexer migrate --check` lists what differs from this release's tables"


def refusal(error: BaseException) -> WriteInterceptedError | None:
    """Return the error that names object and remedy; None unless PostgreSQL refused a statement for good."""
    if isinstance(error, WriteInterceptedError):
        return error
    if not isinstance(error, asyncpg.PostgresError):
        return None
    known = describe(error)
    if known is None or known.cause is not Cause.PERMANENT:
        return None
    table = _table(error)
    where = f" ({context})" if (context := function_of(error)) else ""
    ending = "" if isinstance(error, asyncpg.InsufficientPrivilegeError) else f". {_NOTHING_WRITTEN}"  # A read, maybe.
    refused = WriteInterceptedError(
        printable(f"the database: {known.name}: {_message(error)}{where}{ending}"),
        printable(_remedy(error, table)),
    )
    refused.subject = printable(table or known.name)
    return refused


def row_security_refusal(error: asyncpg.InsufficientPrivilegeError) -> WriteInterceptedError | None:
    """Return the error for row level security that applies to our role; None for any other missing right.

    It is recognized by the server function that refused, because the message may be in another language.
    """
    if error.server_source_function != "check_enable_rls":
        return None
    match = re.search(r'"([^"]+)"', str(error))
    table = match[1] if match else "(not named)"
    return WriteInterceptedError(
        f"row level security of table {table} applies to this role, and would hide rows from it",
        f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY, or ALTER ROLE ... BYPASSRLS for the role of DATABASE_URL;'
        " `reya-indexer doctor` lists all such tables",
    )


def _message(error: asyncpg.PostgresError) -> str:
    """Return the server's message. Its detail may quote a whole row, but not where it is about tables."""
    message = str(error.args[0] if error.args else error)
    if isinstance(error, asyncpg.FeatureNotSupportedError) and error.detail:
        message += f": {error.detail}"
    return " ".join(message.split()).rstrip(".")


def _table(error: asyncpg.PostgresError) -> str:
    """Return the table as schema.name; empty if the server does not tell."""
    name, schema = error.table_name, error.schema_name
    return f"{schema}.{name}" if schema and name else name or ""


def _remedy(error: asyncpg.PostgresError, table: str) -> str:
    """Return what a person can do, as SQL where the server names the objects."""
    alter = f"ALTER TABLE {sql_name(table)}" if table else "ALTER TABLE ..."
    constraint, column, domain = error.constraint_name, error.column_name, error.data_type_name
    match error:
        case asyncpg.NotNullViolationError() if column:
            return f"{alter} ALTER COLUMN {quoted(column)} DROP NOT NULL, or give it a default"
        case asyncpg.ForeignKeyViolationError() if constraint:
            return f"{alter} DROP CONSTRAINT {quoted(constraint)}: reorgs and reprojections delete rows"
        case asyncpg.UniqueViolationError() | asyncpg.ExclusionViolationError():
            return f"Drop the key if it is none of ours; {_COMPARE}"
        case asyncpg.CheckViolationError() if constraint and domain:
            return f"ALTER DOMAIN {quoted(domain)} DROP CONSTRAINT {quoted(constraint)}"
        case asyncpg.IntegrityConstraintViolationError() if constraint:
            return f"{alter} DROP CONSTRAINT {quoted(constraint)}"
        case asyncpg.FeatureNotSupportedError():
            return "`reya-indexer doctor` lists the keys, columns and triggers of others, with what removes each"
        case asyncpg.InsufficientPrivilegeError():
            return "`reya-indexer db roles` grants what the writer needs; `reya-indexer doctor` lists what is missing"
        case asyncpg.ObjectNotInPrerequisiteStateError() if error.server_source_function == "CheckCmdReplicaIdentity":
            return "A publication needs it: ALTER TABLE ... REPLICA IDENTITY FULL, or take the table out of it"
        case asyncpg.DataCorruptedError() | asyncpg.IndexCorruptedError() | asyncpg.PostgresSystemError():
            return "Look at disk and log of the server; REINDEX, or restore a backup"
    if function_of(error) or (error.sqlstate or "")[:2] in ("P0", "09", "27", "38", "39", "2F"):
        return "ALTER TABLE ... DISABLE TRIGGER, or mend the function; `reya-indexer doctor` lists the triggers"
    return " ".join(error.hint.split()) if error.hint else _COMPARE
