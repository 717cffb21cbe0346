"""Coverage: which blocks of which contract are ingested.

Always written in the transaction that writes the raw logs, never separately (one transaction).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from indexer.chain.ranges import BlockRange
from indexer.chain.types import address_bytes
from indexer.db.connection import Connection


async def contract_ids(conn: Connection, addresses: Iterable[str]) -> list[int]:
    """Return the ids of contracts, ascending, inserting rows for new ones."""
    wanted = [address_bytes(a) for a in addresses]
    query = "SELECT id FROM indexer.contract WHERE address = ANY($1::bytea[]) ORDER BY 1"
    rows = await conn.fetch(query, wanted)
    if len(rows) < len(set(wanted)):
        await conn.execute(
            "INSERT INTO indexer.contract (address) SELECT unnest($1::bytea[]) ON CONFLICT (address) DO NOTHING", wanted
        )
        rows = await conn.fetch(query, wanted)
    return [row["id"] for row in rows]


async def load(conn: Connection, addresses: Sequence[str]) -> dict[str, list[BlockRange]]:
    """Return sorted coverage by address; an empty list for a contract that was never ingested."""
    rows = await conn.fetch(
        "SELECT c.address, lower(v.blocks) AS first, upper(v.blocks) - 1 AS last FROM indexer.coverage v"
        " JOIN indexer.contract c ON c.id = v.contract_id WHERE c.address = ANY($1::bytea[]) ORDER BY 2",
        [address_bytes(a) for a in addresses],
    )
    covered: dict[str, list[BlockRange]] = {a: [] for a in addresses}
    for row in rows:
        covered["0x" + row["address"].hex()].append(BlockRange(row["first"], row["last"]))
    return covered


async def add(conn: Connection, addresses: Sequence[str], first: int, last: int) -> list[int]:
    """Mark first..last as covered for each contract, merged with adjacent ranges.

    Args:
        conn: connection, inside the transaction that writes the raw logs.
        addresses: contracts that were ingested.
        first: first block.
        last: last block, included.

    Returns:
        The ids of the contracts, ascending.

    Raises:
        asyncpg.ExclusionViolationError: part of it is covered already, so the same range was ingested twice.
    """
    ids = await contract_ids(conn, addresses)
    # Only adjacent ranges are merged. An overlapping range is left alone so that it violates the exclusion constraint.
    touching = await conn.fetch(
        "DELETE FROM indexer.coverage WHERE contract_id = ANY($1::int[])"
        " AND (upper(blocks) = $2 OR lower(blocks) = $3 + 1)"
        " RETURNING contract_id, lower(blocks) AS first, upper(blocks) - 1 AS last",
        ids,
        first,
        last,
    )
    merged = {i: BlockRange(first, last) for i in ids}
    for row in touching:
        known = merged[row["contract_id"]]
        merged[row["contract_id"]] = BlockRange(min(known.first, row["first"]), max(known.last, row["last"]))
    await conn.execute(
        "INSERT INTO indexer.coverage (contract_id, blocks)"
        " SELECT i, int8range(f, l, '[]') FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS u(i, f, l)",
        list(merged),
        [r.first for r in merged.values()],
        [r.last for r in merged.values()],
    )
    return ids


async def truncate_above(conn: Connection, number: int) -> None:
    """Remove every block above `number` from the coverage of all contracts, for a rollback."""
    await conn.execute("DELETE FROM indexer.coverage WHERE lower(blocks) > $1", number)
    await conn.execute(
        "UPDATE indexer.coverage SET blocks = int8range(lower(blocks), $1 + 1) WHERE upper(blocks) > $1 + 1", number
    )
