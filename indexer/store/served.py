"""Which endpoint stored logs were read from: whom to blame when they turn out to be wrong. Never read on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from indexer.ingest.units import Source

Connection = Any  # asyncpg.Connection or a pool proxy


async def add(conn: Connection, source: Source, contracts: Sequence[int], *, merge: bool = True) -> None:
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


async def cut_above(conn: Connection, number: int) -> None:
    """Forgets every block above `number`: what a rollback does."""
    await conn.execute("DELETE FROM indexer.served WHERE last_block > $1 AND first_block > $1", number)
    await conn.execute("UPDATE indexer.served SET last_block = $1 WHERE last_block > $1", number)


async def endpoints(conn: Connection, contracts: Sequence[int], first: int, last: int) -> list[Source]:
    """Who served blocks first..last of any of the contracts, the oldest first: of two the later one counts."""
    rows = await conn.fetch(
        "SELECT GREATEST(first_block, $2), LEAST(last_block, $3), endpoint FROM indexer.served"
        " WHERE last_block >= $2 AND first_block <= $3 AND contracts && $1::int[] ORDER BY id",
        list(contracts),
        first,
        last,
    )
    return [Source(*row) for row in rows]
