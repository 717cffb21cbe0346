"""Which endpoint stored logs were read from: whom to blame when they turn out to be wrong. Never read on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from indexer.chain.batch import ServedRange
from indexer.db.connection import Connection
from indexer.store.incidents import record


async def record_served(conn: Connection, source: ServedRange, contracts: Sequence[int], *, merge: bool = True) -> None:
    """In the transaction that writes the logs; `contracts` are ids, ascending.

    Merged with what ends before it: a row for a run of blocks, not for each. Not to be merged is what was read again
    between older blocks, whose row must be newer than theirs.
    """
    await conn.execute(
        "WITH grown AS (UPDATE indexer.served SET last_block = $4 WHERE last_block = $3 - 1 AND endpoint = $1"
        " AND contracts = $2 AND $5 RETURNING 1)"
        " INSERT INTO indexer.served (endpoint, contracts, first_block, last_block)"
        " SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM grown)",
        source.endpoint,
        list(contracts),
        source.first,
        source.last,
        merge,
    )


async def truncate_above(conn: Connection, number: int) -> None:
    """Forgets every block above `number`: what a rollback does."""
    await conn.execute("DELETE FROM indexer.served WHERE last_block > $1 AND first_block > $1", number)
    await conn.execute("UPDATE indexer.served SET last_block = $1 WHERE last_block > $1", number)


async def serving_endpoints(conn: Connection, contracts: Sequence[int], first: int, last: int) -> list[ServedRange]:
    """Who served blocks first..last of any of the contracts, the oldest first: of two the later one counts."""
    rows = await conn.fetch(
        "SELECT GREATEST(first_block, $2), LEAST(last_block, $3), endpoint FROM indexer.served"
        " WHERE last_block >= $2 AND first_block <= $3 AND contracts && $1::int[] ORDER BY id",
        list(contracts),
        first,
        last,
    )
    return [ServedRange(*row) for row in rows]


class EndpointFault(NamedTuple):
    """`endpoint` was wrong about a log of a block, as `what` says: its header and what `proven_by` served prove it.

    Role "served": what was stored came from it; "asked": it answered so when the stored logs were compared.
    """

    endpoint: str
    role: Literal["served", "asked"]
    block: int
    log_index: int | None
    what: str
    proven_by: str


async def record_faults(conn: Connection, blames: Sequence[EndpointFault], reorg: int | None = None) -> None:
    """Each endpoint's incident with it. `reorg`: the journal's number of the heal."""
    await conn.executemany(
        "INSERT INTO indexer.blame (endpoint, role, block_number, log_index, what, proven_by, reorg_id)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [(*blame, reorg) for blame in blames],
    )
    by_endpoint: dict[str, list[EndpointFault]] = defaultdict(list)
    for blame in blames:
        by_endpoint[blame.endpoint].append(blame)
    await record(
        conn,
        [
            {
                "kind": "endpoint_wrong", "subject": endpoint, "count": len(of), "first_block": of[0].block,
                "last_block": of[-1].block, "detail": f"{of[0].what} in block {of[0].block}; indexer.blame has all",
            }
            for endpoint, of in by_endpoint.items()
        ],
    )  # fmt: skip


async def fault_counts(conn: Connection) -> dict[str, int]:
    """Logs by endpoint, most first."""
    rows = await conn.fetch("SELECT endpoint, count(*) FROM indexer.blame GROUP BY 1 ORDER BY 2 DESC, 1")
    return {row[0]: row[1] for row in rows}
