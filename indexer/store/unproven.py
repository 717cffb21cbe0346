"""Which positions rest on events that no ABI of this release reads.

A log of Core or PassivePerp that cannot be decoded may have moved any position. From its block on, PnL and positions
are unproven: each until an event states the position again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from indexer.store.database import Connection

# An event that states a position fills realized_pnl; an execution that does not leaves it NULL.
_QUERY = """
SELECT u.first AS from_block, u.last AS last_block, (
  SELECT count(*) FROM public.positions p WHERE p.block_number <= u.last OR p.realized_pnl IS NULL
) AS positions
FROM (
  SELECT min(first_block) AS first, max(last_block) AS last FROM indexer.undecoded WHERE address = ANY($1::text[])
) u WHERE u.first IS NOT NULL"""


async def unproven(conn: Connection, addresses: Iterable[str]) -> dict[str, Any] | None:
    """First and last block with such a log, and how many positions were not stated since; None when there is none.

    `addresses`: the contracts whose events move positions.
    """
    row = await conn.fetchrow(_QUERY, sorted(addresses))
    return dict(row) if row else None
