"""Incidents as an operator sees them: recorded, listed, and closed by hand after a person has looked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from indexer.chain.ranges import BlockRange
from indexer.db.connection import Connect, Connection
from indexer.db.connection import close as close_connection
from indexer.db.database_errors import DATABASE_ERRORS
from indexer.db.refusals import refusal
from indexer.runtime.exact_json import to_json

REFUSED = "change_refused"  # The database kept a change from taking effect.
_COLUMNS = "id, kind, subject, detail, count, first_block, last_block, opened_at, resolved_at"


def _as_json(row: Any) -> dict[str, Any]:
    """Return the row with its times as text, ready for JSON."""
    incident = dict(row)
    for column in ("opened_at", "resolved_at"):
        incident[column] = incident[column] and incident[column].isoformat()
    return incident


async def open_now(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """List open incidents, newest first."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM indexer.incident WHERE resolved_at IS NULL ORDER BY id DESC LIMIT $1", limit
    )
    return [_as_json(row) for row in rows]


async def by_kind(conn: Connection) -> dict[str, int]:
    """Count open incidents by kind."""
    rows = await conn.fetch(
        "SELECT kind, count(*) FROM indexer.incident WHERE resolved_at IS NULL GROUP BY 1 ORDER BY 1"
    )
    return {row[0]: row[1] for row in rows}


async def newest(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """List open and closed incidents, newest first."""
    return [
        _as_json(row)
        for row in await conn.fetch(f"SELECT {_COLUMNS} FROM indexer.incident ORDER BY id DESC LIMIT $1", limit)
    ]


async def close(conn: Connection, number: int, note: str) -> dict[str, Any] | None:
    """Close an open incident with a note on what was found out.

    Returns None when no open incident has that number. If the condition is met again, a new incident opens.
    """
    row = await conn.fetchrow(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp(), detail = detail || ' (closed: ' || $2 || ')'"
        f" WHERE id = $1 AND resolved_at IS NULL RETURNING {_COLUMNS}",
        number,
        note,
    )
    return _as_json(row) if row else None


async def resolve(conn: Connection, kind: str, subject: str = "") -> None:
    """Resolve the open incidents of a kind whose condition is over. `subject`: what theirs begin with."""
    await conn.execute(
        "UPDATE indexer.incident SET resolved_at = clock_timestamp()"
        " WHERE kind = $1 AND starts_with(subject, $2) AND resolved_at IS NULL",
        kind, subject,
    )  # fmt: skip


async def open_about(
    conn: Connection, kind: str, blocks: BlockRange, endpoints: Iterable[str]
) -> list[tuple[int, BlockRange]]:  # fmt: skip
    """Return the open incidents of a kind about these endpoints that touch these blocks: their ids and own blocks.

    Args:
        conn: connection.
        kind: the kind of incident.
        blocks: the blocks.
        endpoints: endpoints whose name and a colon the subject begins with.
    """
    rows = await conn.fetch(
        "SELECT id, first_block, last_block FROM indexer.incident WHERE kind = $1 AND resolved_at IS NULL"
        " AND first_block <= $3 AND last_block >= $2"
        " AND EXISTS (SELECT FROM unnest($4::text[]) e WHERE starts_with(subject, e || ': '))",
        kind, blocks.first, blocks.last, sorted(endpoints),
    )  # fmt: skip
    return [(id_, BlockRange(first, last)) for id_, first, last in rows]


async def resolve_one(conn: Connection, number: int) -> None:
    """Resolve the incident that has this id."""
    await conn.execute("UPDATE indexer.incident SET resolved_at = clock_timestamp() WHERE id = $1", number)


# An event that states a position fills realized_pnl; an execution alone leaves it NULL.
_UNPROVEN = """
SELECT u.first AS from_block, u.last AS last_block, (
  SELECT count(*) FROM public.positions p WHERE p.block_number <= u.last OR p.realized_pnl IS NULL
) AS positions
FROM (
  SELECT min(first_block) AS first, max(last_block) AS last FROM indexer.undecoded WHERE address = ANY($1::text[])
) u WHERE u.first IS NOT NULL"""


async def unproven(conn: Connection, addresses: Iterable[str]) -> dict[str, Any] | None:
    """Return the first and last block with an undecoded log, and how many positions no event has stated since.

    `addresses`: the contracts whose events move positions. Returns None when they have no undecoded log.
    """
    row = await conn.fetchrow(_UNPROVEN, sorted(addresses))
    return dict(row) if row else None


async def report_refusal(connect: Connect, error: BaseException, work: str) -> None:
    """Open an incident if the database refused a change for good. Never raises an error of the database.

    `work`: what was refused; whoever reports it resolves it with resolve_refusals() when that work succeeded.
    """
    if (refused := refusal(error)) is None:
        return
    incident = {"kind": REFUSED, "subject": f"{work}: {refused.subject}", "detail": str(refused), "first_block": None,
                "last_block": None, "count": 1}  # fmt: skip
    with contextlib.suppress(*DATABASE_ERRORS):  # The next attempt meets the trouble, too.
        conn = await connect()
        try:
            await record(conn, [incident])
        finally:
            await close_connection(conn)


async def resolve_refusals(conn: Connection, work: str) -> None:
    """Resolve the incidents that report_refusal() opened for this work, which succeeded now."""
    await resolve(conn, REFUSED, f"{work}: ")


async def record(conn: Connection, incidents: list[dict[str, Any]]) -> None:
    """Open incidents, given as {kind, subject, detail, first_block, last_block, count}.

    If one of the same kind and subject is open, its count and last block are updated instead.
    """
    await conn.execute(
        "INSERT INTO indexer.incident (kind, subject, detail, first_block, last_block, count)"
        " SELECT kind, subject, detail, first_block, last_block, count FROM jsonb_to_recordset($1::jsonb)"
        " AS x(kind text, subject text, detail text, first_block bigint, last_block bigint, count bigint)"
        " ON CONFLICT (kind, subject) WHERE resolved_at IS NULL DO UPDATE SET"
        " count = indexer.incident.count + EXCLUDED.count, last_block = EXCLUDED.last_block,"
        # One obstacle may have given way to another on the same object.
        f" detail = CASE EXCLUDED.kind WHEN '{REFUSED}' THEN EXCLUDED.detail ELSE indexer.incident.detail END",
        to_json(incidents),
    )
