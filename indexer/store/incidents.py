"""Incidents as an operator sees them: listed, and closed by hand once they were looked at."""

from __future__ import annotations

from typing import Any

from indexer.store.database import Connection

_COLUMNS = "id, kind, subject, detail, count, first_block, last_block, opened_at, resolved_at"


def _shown(row: Any) -> dict[str, Any]:
    """JSON-ready."""
    shown = dict(row)
    for column in ("opened_at", "resolved_at"):
        shown[column] = shown[column] and shown[column].isoformat()
    return shown


async def open_now(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """The open ones, newest first."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM indexer.incident WHERE resolved_at IS NULL ORDER BY id DESC LIMIT $1", limit
    )
    return [_shown(row) for row in rows]


async def by_kind(conn: Connection) -> dict[str, int]:
    """How many are open."""
    rows = await conn.fetch(
        "SELECT kind, count(*) FROM indexer.incident WHERE resolved_at IS NULL GROUP BY 1 ORDER BY 1"
    )
    return {row[0]: row[1] for row in rows}


async def newest(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """Open and closed ones, newest first."""
    return [
        _shown(row)
        for row in await conn.fetch(f"SELECT {_COLUMNS} FROM indexer.incident ORDER BY id DESC LIMIT $1", limit)
    ]


async def close(conn: Connection, number: int, note: str) -> dict[str, Any] | None:
    """Closes an open one, with what was found out; None when there is no open one of that number. The same condition
    met again opens a new one."""
    row = await conn.fetchrow(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp(), detail = detail || ' (closed: ' || $2 || ')'"
        f" WHERE id = $1 AND resolved_at IS NULL RETURNING {_COLUMNS}",
        number,
        note,
    )
    return _shown(row) if row else None
