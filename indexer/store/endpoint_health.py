"""Stored endpoint health: survives restarts, and is what the `endpoints` command reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from indexer.db.connection import Connection
from indexer.rpc.health import COUNTS, LASTING, EndpointHealth, Reason

Kind = Literal["http", "ws"]

_ADDED = ", ".join(f"{name} = s.{name} + EXCLUDED.{name}" for name in COUNTS)
_NEWEST = ", ".join(
    f"{name} = EXCLUDED.{name}"
    for name in ("kind", "state", "reason", "aside_until", "lag_blocks", "error_permille", "updated_at")
)
# Another process may have stored what this one does not know (None): such values are kept.
_KNOWN = ", ".join(
    f"{name} = COALESCE(EXCLUDED.{name}, s.{name})"
    for name in ("chain_id", "head", "head_seen_at", "latency_ms", "last_error")
)
_SAVE = f"""
INSERT INTO indexer.endpoint_score AS s (endpoint, kind, state, reason, aside_until, chain_id, head, head_seen_at,
  lag_blocks, latency_ms, error_permille, last_error, updated_at, {", ".join(COUNTS)})
VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5), $6, $7,
  clock_timestamp() - make_interval(secs => $8), $9, $10, $11, $12, clock_timestamp(),
  {", ".join(f"${n}" for n in range(13, 13 + len(COUNTS)))})
ON CONFLICT (endpoint) DO UPDATE SET {_NEWEST}, {_KNOWN}, {_ADDED}
"""
_READ = f"""
SELECT endpoint, kind, state, reason, aside_until, chain_id, head, head_seen_at, lag_blocks, latency_ms, error_permille,
  last_error, {", ".join(COUNTS)}, first_seen_at, updated_at FROM indexer.endpoint_score ORDER BY kind, endpoint
"""


async def save(conn: Connection, kind: Kind, scores: Mapping[str, EndpointHealth], now: float) -> None:
    """Write the current health of endpoints, and add the counts since the last save.

    Args:
        conn: connection.
        kind: "http" or "ws".
        scores: endpoint health by display name.
        now: time on the clock of `scores`, monotonic (s).
    """
    async with conn.transaction():
        pending = {name: score.pending_counts() for name, score in scores.items()}
        await conn.executemany(_SAVE, [_row(name, kind, score, pending[name], now) for name, score in scores.items()])
    for name, score in scores.items():
        score.mark_saved(pending[name])


def _row(name: str, kind: Kind, score: EndpointHealth, pending: Counter[str], now: float) -> tuple[object, ...]:
    aside = score.aside if score.aside and now < score.aside.until else None
    return (
        name, kind, score.state(now),
        score.reason(now)[:300] or None,
        None if aside is None else aside.until - now,
        score.chain_id,
        None if score.head is None else score.head.number,
        None if score.head is None else now - score.head_at,
        score.lag,
        None if score.latency is None else round(1000 * score.latency),
        round(1000 * score.error_rate(now)),
        score.last_error[:300] or None,
        *(pending[count] for count in COUNTS),
    )  # fmt: skip


async def active_set_asides(conn: Connection) -> list[tuple[str, Reason, str, float]]:
    """Return the endpoints that are still set aside for a reason that outlives a restart.

    Each as (name, reason, detail, time left (s)).
    """
    rows = await conn.fetch(
        "SELECT endpoint, state, COALESCE(reason, ''), extract(epoch FROM aside_until - clock_timestamp())::float8"
        " FROM indexer.endpoint_score WHERE kind = 'http' AND state = ANY($1) AND aside_until > clock_timestamp()",
        LASTING,
    )
    return [(name, reason, detail, seconds_left) for name, reason, detail, seconds_left in rows]


async def load(conn: Connection) -> list[dict[str, Any]]:
    """Return the health of all endpoints as last written; times are time-zone aware."""
    return [dict(row) for row in await conn.fetch(_READ)]
