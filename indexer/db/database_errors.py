"""What a failed connection or statement says of the database: a name for the wait, that people can act on. Pure.

None of these ends the daemon: it waits under that name and goes on by itself, because nothing was half written.
"""

from __future__ import annotations

import asyncpg

from indexer.errors import DatabaseUnreachableError

CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's own state is broken where a server went away at an odd moment
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
DATABASE_ERRORS: tuple[type[Exception], ...] = (DatabaseUnreachableError, asyncpg.PostgresError, *CONNECTION_ERRORS)

_NAMES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
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
# A PostgreSQL is there, and these pass by themselves; what else keeps a program from starting, a person must correct.
_PASSES = (
    asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError, asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.LockNotAvailableError, ConnectionResetError,
    TimeoutError,
)  # fmt: skip


def root_cause(error: BaseException) -> BaseException:
    """What kept a connection from being made; the error itself where there was one."""
    return error.__cause__ if isinstance(error, DatabaseUnreachableError) and error.__cause__ else error


def describe(error: BaseException) -> str | None:
    """A name that people can act on; None for what is none of the database's troubles, or a fault of ours."""
    found = root_cause(error)
    return next((f"the database: {name}" for types, name in _NAMES if isinstance(found, types)), None)


def database_wait_name(error: BaseException) -> str:
    """ "the database: ..."; what stands before the colon never changes, for metrics."""
    return describe(error) or f"the database: {type(root_cause(error)).__name__}"


def is_transient(error: BaseException) -> bool:
    """Whether a program that is only just starting should wait, rather than end with an error."""
    return isinstance(root_cause(error), _PASSES)
