"""Classification of database errors: gives the wait that follows one a name that people can act on. Pure.

None of these errors ends the daemon. It waits under that name and then continues by itself, because nothing was half
written (never stall in silence).
"""

from __future__ import annotations

import asyncpg

from indexer.db.session_check import POOLER_REMEDY, is_of_pooler
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

_NOT_SET_UP = "not set up as required"
_NAMES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((ConfigError,), _NOT_SET_UP),
    ((asyncpg.exceptions.TargetServerAttributeNotMatched,), "no host with the demanded target_session_attrs"),
    ((asyncpg.CannotConnectNowError,), "starting, stopping or recovering"),
    ((asyncpg.AdminShutdownError, asyncpg.CrashShutdownError), "was shut down"),
    ((asyncpg.ReadOnlySQLTransactionError,), "read-only"),
    ((asyncpg.TooManyConnectionsError,), "out of connections"),
    ((asyncpg.DiskFullError,), "out of disk"),
    ((asyncpg.OutOfMemoryError,), "out of memory"),
    ((asyncpg.LockNotAvailableError,), "a lock that another session holds"),
    ((asyncpg.QueryCanceledError,), "slow: a statement took too long"),
    ((asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError), "refuses the role"),
    ((asyncpg.InsufficientPrivilegeError,), "lacks a right"),
    ((asyncpg.InvalidCatalogNameError,), "does not exist"),
    ((TimeoutError,), "does not answer in time"),
    ((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError,
      asyncpg.IdleInTransactionSessionTimeoutError), "the connection was lost"),
    ((ConnectionRefusedError,), "refuses connections"),
    ((OSError,), "not reachable"),
)  # fmt: skip
# PostgreSQL is there, and these errors pass by themselves. Anything else that keeps a program from starting must be
# corrected by a person.
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


def describe(error: BaseException) -> str | None:
    """Return a name that people can act on; None for an error that is not the database's, or is our own fault."""
    cause = root_cause(error)
    if isinstance(cause, asyncpg.PostgresError) and is_of_pooler(cause):
        return f"the database: {_NOT_SET_UP}"
    return next((f"the database: {name}" for types, name in _NAMES if isinstance(cause, types)), None)


def database_wait_name(error: BaseException) -> str:
    """Return "the database: ..."; the part before the colon never changes, because metrics use it."""
    return describe(error) or f"the database: {type(root_cause(error)).__name__}"


def is_transient(error: BaseException) -> bool:
    """Tell whether a program that is starting should wait instead of ending with an error."""
    cause = root_cause(error)
    return isinstance(cause, _TRANSIENT) and not is_of_pooler(cause)
