"""Connections to PostgreSQL.

Integers are exact (integers stay integers). The server limits every wait, and so do we, in case it does not answer
(never stall in silence).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

from indexer.db.database_errors import CONNECT_ERRORS, connect_remedy
from indexer.db.database_url import read_url
from indexer.db.refusals import row_security_refusal
from indexer.db.session_check import check_session
from indexer.errors import ConfigError, DatabaseUnreachableError, printable
from indexer.runtime.secrets import current, redact

Connection = asyncpg.Connection
Connect = Callable[[], Awaitable[Connection]]

# These timeouts make the server end what a stopped or hung process of ours leaves open, because nobody else can release
# its locks (one projector, fenced).
SETTINGS = {
    "application_name": "reya-indexer",
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "30s",
    "row_security": "off",  # Rows that a policy would hide are an error, never silently left out.
    "statement_timeout": "60s",
}
# Time after which we give up a statement (s). Slightly longer than the server's own limit, and needed because a stopped
# server ends nothing.
STATEMENT_TIMEOUT_S = 75.0
CONNECT_TIMEOUT_S = 20.0
DAY_S = 86_400.0
COPY_BYTES = 1 << 20  # Size of the pieces in which COPY data is sent (bytes).


def _number(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:  # A fraction, NaN or infinity.
        return Decimal(text)


def _monitored(method: Callable[..., Any]) -> Any:
    """Wrap a method of asyncpg's connection so that its first argument is recorded as the current statement."""

    @functools.wraps(method)
    async def call(
        self: MonitoredConnection, what: str, *args: Any, timeout: float | None = None, **options: Any
    ) -> Any:
        self.current_statement = what, time.monotonic()
        try:
            return await method(self, what, *args, timeout=timeout or self.timeout_s, **options)
        except asyncpg.InsufficientPrivilegeError as error:
            if intercepted := row_security_refusal(error):
                raise intercepted from error
            raise
        finally:
            self.current_statement, self.done_at = None, time.monotonic()

    return call


class MonitoredConnection(asyncpg.Connection):
    """A connection that shows which statement it is waiting for.

    `current_statement`: the statement in progress and its start (monotonic, s), or None. `done_at`: when the last one
    ended (monotonic, s). `timeout_s`: time after which a statement is given up with a TimeoutError (s).
    """

    current_statement: tuple[str, float] | None = None
    done_at = 0.0
    timeout_s = STATEMENT_TIMEOUT_S

    execute = _monitored(asyncpg.Connection.execute)
    executemany = _monitored(asyncpg.Connection.executemany)
    fetch = _monitored(asyncpg.Connection.fetch)
    fetchrow = _monitored(asyncpg.Connection.fetchrow)
    fetchval = _monitored(asyncpg.Connection.fetchval)
    copy_to_table = _monitored(asyncpg.Connection.copy_to_table)


@contextlib.contextmanager
def patient(conn: Connection, seconds: float) -> Iterator[None]:
    """Let the statements in the `with` block take up to `seconds` (s).

    The caller must raise the server's statement_timeout as well.
    """
    if not isinstance(conn, MonitoredConnection):  # A connection that somebody else opened has no limit of ours.
        yield
        return
    before, conn.timeout_s = conn.timeout_s, seconds
    try:
        yield
    finally:
        conn.timeout_s = before


async def connect(url: str, *, timeout_s: float = STATEMENT_TIMEOUT_S, **settings: str) -> MonitoredConnection:
    """Open a connection that returns numeric values as int, or as Decimal if they have a fraction.

    `timeout_s`: after which a statement is given up (s). `settings`: server settings that override SETTINGS. Raises
    DatabaseUnreachableError with the redacted URL.
    """
    url = current(url)
    conn: MonitoredConnection | None = None
    try:
        dsn, limit_s = read_url(url)
        limit_s = limit_s or CONNECT_TIMEOUT_S
        async with asyncio.timeout(limit_s):
            conn = await asyncpg.connect(
                dsn, timeout=limit_s, command_timeout=timeout_s, connection_class=MonitoredConnection,
                server_settings=SETTINGS | settings,
            )  # fmt: skip
            conn.timeout_s = timeout_s
            await check_session(conn, SETTINGS | settings)
            await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    except CONNECT_ERRORS as error:
        if conn is not None:
            conn.terminate()
        cause = error.message if isinstance(error, ConfigError) else printable(_cause(url, error))
        raise DatabaseUnreachableError(f"{redact(url)}: {cause}", connect_remedy(error)) from error
    except BaseException:  # Canceled while the session was checked: nobody else knows of the connection.
        if conn is not None:
            conn.terminate()
        raise
    return conn


def _cause(url: str, error: Exception) -> str:
    """Return why there is no connection, without the password.

    Error messages quote parts of a URL that cannot be parsed, and an unescaped character in the password moves the rest
    of the password into the host or the port.
    """
    broken = "not a valid URL; in a password, write characters such as / @ # : as %2F %40 %23 %3A"
    # A certificate that does not match is an OSError and a ValueError, too; its text quotes nothing of the URL.
    if isinstance(error, ValueError) and not isinstance(error, asyncpg.InterfaceError | OSError):
        return broken
    if isinstance(error, asyncpg.InterfaceError):
        try:
            urlsplit(url).port  # noqa: B018 - reading the port raises
        except ValueError:
            return broken
    message = " ".join(str(error).split()) or type(error).__name__
    parts = urlsplit(url)
    for password in (parts.password, dict(parse_qsl(parts.query)).get("password")):
        if password:
            message = message.replace(password, "…").replace(unquote(password), "…")
    return message


async def close(conn: Connection | None) -> None:
    """Close the connection within 5 seconds, by force if the server does not answer. Never raises."""
    if conn is None or conn.is_closed():
        return
    try:
        await asyncio.wait_for(conn.close(), 5)
    except Exception:
        with contextlib.suppress(Exception):
            conn.terminate()


@contextlib.asynccontextmanager
async def connection(url: str, *, timeout_s: float = STATEMENT_TIMEOUT_S, **settings: str) -> AsyncIterator[Connection]:
    """Open a connection for the `async with` block; parameters as for `connect`."""
    conn = await connect(url, timeout_s=timeout_s, **settings)
    try:
        yield conn
    finally:
        await close(conn)


async def copy(
    conn: Connection, schema: str, table: str, columns: Iterable[str], rows: bytes,
    written: Literal["text", "binary"] = "text",
) -> int:  # fmt: skip
    """COPY encoded rows into a table.

    Args:
        conn: connection.
        schema: schema of the table.
        table: table name, unquoted.
        columns: columns in the order of the encoded fields.
        rows: all rows, already encoded.
        written: COPY format that `rows` is encoded in.

    Returns:
        The number of rows that the server took; a trigger may have dropped some.
    """

    async def pieces() -> AsyncIterator[bytes]:
        # asyncpg would read a file in a thread, piece by piece; while another thread computes, every piece would have
        # to wait for the interpreter lock.
        for start in range(0, len(rows), COPY_BYTES):
            yield rows[start : start + COPY_BYTES]

    status = await conn.copy_to_table(table, source=pieces(), columns=list(columns), schema_name=schema, format=written)
    return row_count(status)


def row_count(status: str) -> int:
    """Return the number of rows in a command tag such as "DELETE 27", "INSERT 0 3" or "COPY 5"."""
    return int(status.rsplit(" ", 1)[1])


def record(row: Any) -> dict[str, Any]:
    """Return a row of asyncpg as a dict."""
    return dict(row)
