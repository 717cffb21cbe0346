"""Connections to PostgreSQL: integers exact, every wait limited by the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

from indexer.config import redact
from indexer.errors import DatabaseUnreachable

Connection = asyncpg.Connection

# The server ends what a stopped or wedged process of ours leaves open: nobody else can release its locks (rule 10).
SETTINGS = {
    "application_name": "reya-indexer",
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "30s",
    "statement_timeout": "60s",
}
PIECE = 1 << 20  # bytes of a COPY sent at once
CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


def _number(text: str) -> int | Decimal:
    return int(text) if text.lstrip("-").isdigit() else Decimal(text)


async def connect(url: str, **settings: str) -> Connection:
    """A connection whose numeric values are int (Decimal only when they have a fraction).

    Raises DatabaseUnreachable with the redacted URL.
    """
    remedy = "Check DATABASE_URL (postgresql://user:password@host:port/database), the server and your rights there"
    try:
        conn: Connection = await asyncpg.connect(url, timeout=20, server_settings=SETTINGS | settings)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        cause = _cause(url, error)
        raise DatabaseUnreachable(f"{redact(url)}: {cause}", remedy) from error
    await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
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
async def connection(url: str, **settings: str) -> AsyncIterator[Connection]:
    """A connection for one block of code."""
    conn = await connect(url, **settings)
    try:
        yield conn
    finally:
        await close(conn)


async def copy(conn: Connection, schema: str, table: str, columns: Iterable[str], text: bytes) -> None:
    """Rows in COPY's text format into a table."""

    async def pieces() -> AsyncIterator[bytes]:
        # A file would be read in a thread, piece by piece: beside a thread that computes, each turn waits for it.
        for at in range(0, len(text), PIECE):
            yield text[at : at + PIECE]

    await conn.copy_to_table(table, source=pieces(), columns=list(columns), schema_name=schema, format="text")


def record(row: Any) -> dict[str, Any]:
    return dict(row)
