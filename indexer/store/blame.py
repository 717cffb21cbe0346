"""Which endpoint was found wrong about which log. Append-only, which a trigger enforces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from indexer.store.database import Connection
from indexer.store.ledger_io import open_incidents


class Blame(NamedTuple):
    """`endpoint` was wrong about a log of a block, as `what` says: its header and what `proven_by` served prove it.

    Role "served": what was stored came from it; "asked": it answered so when the stored logs were compared.
    """

    endpoint: str
    role: Literal["served", "asked"]
    block: int
    log_index: int | None
    what: str
    proven_by: str


async def add(conn: Connection, blames: Sequence[Blame], reorg: int | None = None) -> None:
    """Each endpoint's incident with it. `reorg`: the journal's number of the heal."""
    await conn.executemany(
        "INSERT INTO indexer.blame (endpoint, role, block_number, log_index, what, proven_by, reorg_id)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [(*blame, reorg) for blame in blames],
    )
    by_endpoint: dict[str, list[Blame]] = defaultdict(list)
    for blame in blames:
        by_endpoint[blame.endpoint].append(blame)
    await open_incidents(
        conn,
        [
            {
                "kind": "endpoint_wrong", "subject": endpoint, "count": len(of), "first_block": of[0].block,
                "last_block": of[-1].block, "detail": f"{of[0].what} in block {of[0].block}; indexer.blame has all",
            }
            for endpoint, of in by_endpoint.items()
        ],
    )  # fmt: skip


async def counts(conn: Connection) -> dict[str, int]:
    """Logs by endpoint, most first."""
    rows = await conn.fetch("SELECT endpoint, count(*) FROM indexer.blame GROUP BY 1 ORDER BY 2 DESC, 1")
    return {row[0]: row[1] for row in rows}
