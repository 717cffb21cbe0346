"""Classification of database errors: gives the wait that follows one a name that people can act on. Pure.

None of these errors ends the daemon. It waits under that name and then continues by itself, because nothing was half
written (never stall in silence).
"""

from __future__ import annotations

import re

import asyncpg

from indexer.db.session_check import POOLER_REMEDY, is_of_pooler
from indexer.db.sqlstates import BUG, NOT_SET_UP, OTHERS_CODE, Cause, ErrorCode, error_code
from indexer.errors import ConfigError, DatabaseUnreachableError

CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # A server that disappears at an odd moment leaves the driver's state broken.
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
# What an attempt to connect may raise. The driver's own are not OSErrors: a set of hosts none of which is writable.
CONNECT_ERRORS: tuple[type[Exception], ...] = (
    ConfigError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError,
    ValueError,
)  # fmt: skip
DATABASE_ERRORS: tuple[type[Exception], ...] = (DatabaseUnreachableError, asyncpg.PostgresError, *CONNECTION_ERRORS)

_CLIENT_ERRORS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((ConfigError,), NOT_SET_UP),
    ((asyncpg.exceptions.TargetServerAttributeNotMatched,), "no host with the demanded target_session_attrs"),
    ((TimeoutError,), "does not answer in time"),
    ((asyncpg.InterfaceError, asyncpg.InternalClientError), "the connection was lost"),
    ((ConnectionRefusedError,), "refuses connections"),
    ((OSError,), "not reachable"),
)
# What a starting program waits for: PostgreSQL is there, and these errors pass by themselves. The list is narrower than
# Cause.PASSING of sqlstates.py, so it cannot be derived from it: a refused role, a missing database or a full disk pass
# for a daemon that has run before, but at a start they are a wrong URL or server, which a person must correct.
_TRANSIENT = (
    asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError, asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.LockNotAvailableError, ConnectionResetError,
    TimeoutError, asyncpg.exceptions.TargetServerAttributeNotMatched,
)  # fmt: skip


def connect_remedy(error: BaseException) -> str:
    """Return what to do about an error that prevented a connection."""
    match error:
        case ConfigError():
            return error.remedy
        case asyncpg.PostgresError() if is_of_pooler(error):
            return POOLER_REMEDY
        case asyncpg.exceptions.TargetServerAttributeNotMatched():
            return "Promote a host, or change target_session_attrs in DATABASE_URL"
        case asyncpg.UndefinedObjectError() | asyncpg.InvalidParameterValueError():
            return "Remove or correct that parameter in DATABASE_URL"
        case asyncpg.InvalidCatalogNameError():
            return "Make the database, or correct its name in DATABASE_URL"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return "Correct user and password in DATABASE_URL, or the server's pg_hba.conf"
        case asyncpg.TooManyConnectionsError():
            return "Raise max_connections of the server, or the limit of the role or database"
    return "Check DATABASE_URL (postgresql://user:password@host:port/database), the server, and your permissions there"


def root_cause(error: BaseException) -> BaseException:
    """Return the error that prevented a connection, or the error itself when the connection existed."""
    return error.__cause__ if isinstance(error, DatabaseUnreachableError) and error.__cause__ else error


def function_of(error: asyncpg.PostgresError) -> str:
    """Return the function that a statement ran into: the first line of the context that names one; or ""."""
    match = re.search(r"^(?:PL/\w+|SQL) function .*$", error.context or "", re.M)
    return " ".join(match[0].split()) if match else ""


def _is_of_a_file(error: asyncpg.PostgresError) -> bool:
    """Tell whether the server itself was refused a file: it says so with the code of a missing right."""
    files = ("fd.c", "md.c", "copydir.c", "reinit.c", "slru.c", "xlog.c")
    return error.sqlstate == "42501" and error.server_source_filename in files


def describe(error: BaseException) -> ErrorCode | None:
    """Return what an error means; None if it is not the database's."""
    cause = root_cause(error)
    if isinstance(cause, asyncpg.exceptions.InvalidCachedStatementError):
        return ErrorCode(Cause.PASSING, "a table was altered")  # The next connection prepares its statements anew.
    if isinstance(cause, asyncpg.DataError) and cause.severity is None:
        return ErrorCode(Cause.OURS, BUG)  # The driver's own: a value that it could not encode was never sent.
    if isinstance(cause, asyncpg.PostgresError):
        if is_of_pooler(cause):
            return ErrorCode(Cause.PASSING, NOT_SET_UP)
        if _is_of_a_file(cause):
            return error_code("58030")
        known = error_code(cause.sqlstate or "")
        # A statement inside a function of somebody else is not ours, whatever is wrong with it.
        return ErrorCode(Cause.PERMANENT, OTHERS_CODE) if known.cause is Cause.OURS and function_of(cause) else known
    name = next((name for types, name in _CLIENT_ERRORS if isinstance(cause, types)), None)
    return None if name is None else ErrorCode(Cause.PASSING, name)


def database_wait_name(error: BaseException) -> str:
    """Return "the database: ..."; the part before the colon never changes, because metrics use it."""
    known = describe(error)
    return f"the database: {known.name if known else type(root_cause(error)).__name__}"


def is_ours(error: BaseException) -> bool:
    """Tell whether an error is not the database's, or comes from a statement that should not have been sent."""
    known = describe(error)
    return known is None or known.cause is Cause.OURS


def is_transient(error: BaseException) -> bool:
    """Tell whether a program that is starting should wait instead of ending with an error."""
    cause = root_cause(error)
    return isinstance(cause, _TRANSIENT) and not is_of_pooler(cause)
