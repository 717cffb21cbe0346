"""Connections to PostgreSQL: integers exact, every wait limited by the server, and by us where it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

from indexer.errors import DatabaseUnreachableError, WriteInterceptedError, printable
from indexer.runtime.secrets import redact

Connection = asyncpg.Connection
Connect = Callable[[], Awaitable[Connection]]

# The server ends what a stopped or wedged process of ours leaves open: nobody else can release its locks (one
# projector, fenced).
SETTINGS = {
    "application_name": "reya-indexer",
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "30s",
    "row_security": "off",  # rows that a policy hides are an error, never fewer rows
    "statement_timeout": "60s",
}
STATEMENT_TIMEOUT_S = (
    75.0  # seconds for a statement, a little more than the server gives it: a server that was stopped ends nothing
)
CONNECT_TIMEOUT_S = 20.0  # seconds
DAY_S = 86_400.0
COPY_BYTES = 1 << 20  # bytes of a COPY sent at once


def _number(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:  # a fraction, or no number at all
        return Decimal(text)


def _intercepted(error: asyncpg.InsufficientPrivilegeError) -> WriteInterceptedError | None:
    """The error for row level security that applies to our role; None for any other right that is lacking. Told by the
    function of the server that refused: its message may be in another language."""
    if error.server_source_function != "check_enable_rls":
        return None
    named = re.search(r'"([^"]+)"', str(error))
    table = named[1] if named else "(not named)"
    return WriteInterceptedError(
        f"row level security of table {table} applies to this role, and would hide rows from it",
        f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY, or ALTER ROLE ... BYPASSRLS for the role of DATABASE_URL;'
        " `reya-indexer doctor` lists all such tables",
    )


def _monitored(method: Callable[..., Any]) -> Any:
    """A method of asyncpg's connection whose first argument says what it does."""

    @functools.wraps(method)
    async def call(
        self: MonitoredConnection, what: str, *args: Any, timeout: float | None = None, **options: Any
    ) -> Any:
        self.current_statement = what, time.monotonic()
        try:
            return await method(self, what, *args, timeout=timeout or self.patience, **options)
        except asyncpg.InsufficientPrivilegeError as error:
            if intercepted := _intercepted(error):
                raise intercepted from error
            raise
        finally:
            self.current_statement, self.done_at = None, time.monotonic()

    return call


class MonitoredConnection(asyncpg.Connection):
    """A connection that can be asked what it waits for: `doing` is the statement under way and since when (monotonic
    seconds). Each is given up after `patience` seconds, with a TimeoutError."""

    current_statement: tuple[str, float] | None = None
    done_at = 0.0
    patience = STATEMENT_TIMEOUT_S

    execute = _monitored(asyncpg.Connection.execute)
    executemany = _monitored(asyncpg.Connection.executemany)
    fetch = _monitored(asyncpg.Connection.fetch)
    fetchrow = _monitored(asyncpg.Connection.fetchrow)
    fetchval = _monitored(asyncpg.Connection.fetchval)
    copy_to_table = _monitored(asyncpg.Connection.copy_to_table)


@contextlib.contextmanager
def patient(conn: Connection, seconds: float) -> Iterator[None]:
    """Statements of the body may take as long: the server was told so too."""
    if not isinstance(conn, MonitoredConnection):  # one that somebody else opened has no limit of ours
        yield
        return
    before, conn.patience = conn.patience, seconds
    try:
        yield
    finally:
        conn.patience = before


async def connect(url: str, *, patience: float = STATEMENT_TIMEOUT_S, **settings: str) -> MonitoredConnection:
    """A connection whose numeric values are int (Decimal only when they have a fraction). `patience`: seconds until a
    statement is given up.

    Raises DatabaseUnreachableError with the redacted URL.
    """
    remedy = "Check DATABASE_URL (postgresql://user:password@host:port/database), the server and your rights there"
    conn: MonitoredConnection | None = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            conn = await asyncpg.connect(
                url, timeout=CONNECT_TIMEOUT_S, command_timeout=patience, connection_class=MonitoredConnection,
                server_settings=SETTINGS | settings,
            )  # fmt: skip
            conn.patience = patience
            await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        if conn is not None:
            conn.terminate()
        cause = printable(_cause(url, error))
        raise DatabaseUnreachableError(f"{redact(url)}: {cause}", remedy) from error
    return conn


def _cause(url: str, error: Exception) -> str:
    """Why there is no connection, without the password: a URL that cannot be read is quoted in parts, and an unescaped
    character in the password moves the rest of it into the host or the port."""
    if isinstance(error, ValueError | asyncpg.InterfaceError):
        try:
            urlsplit(url).port  # noqa: B018 - reading it is what raises
        except ValueError:
            return "not a URL that can be read; characters such as / @ # : in a password are written %2F %40 %23 %3A"
    said = " ".join(str(error).split()) or type(error).__name__
    parts = urlsplit(url)
    for password in (parts.password, dict(parse_qsl(parts.query)).get("password")):
        if password:
            said = said.replace(password, "…").replace(unquote(password), "…")
    return said


async def close(conn: Connection | None) -> None:
    """Closes within 5 seconds, by force when the server does not answer. Never raises."""
    if conn is None or conn.is_closed():
        return
    try:
        await asyncio.wait_for(conn.close(), 5)
    except Exception:
        with contextlib.suppress(Exception):
            conn.terminate()


@contextlib.asynccontextmanager
async def connection(url: str, *, patience: float = STATEMENT_TIMEOUT_S, **settings: str) -> AsyncIterator[Connection]:
    """A connection for one block of code."""
    conn = await connect(url, patience=patience, **settings)
    try:
        yield conn
    finally:
        await close(conn)


async def copy(
    conn: Connection, schema: str, table: str, columns: Iterable[str], rows: bytes,
    written: Literal["text", "binary"] = "text",
) -> int:  # fmt: skip
    """Rows, `written` in one of COPY's formats, into a table. How many the server took: a trigger may swallow some."""

    async def pieces() -> AsyncIterator[bytes]:
        # A file would be read in a thread, piece by piece: beside a thread that computes, each turn waits for it.
        for at in range(0, len(rows), COPY_BYTES):
            yield rows[at : at + COPY_BYTES]

    done = await conn.copy_to_table(table, source=pieces(), columns=list(columns), schema_name=schema, format=written)
    return int(done.rsplit(" ", 1)[1])


def record(row: Any) -> dict[str, Any]:
    return dict(row)
