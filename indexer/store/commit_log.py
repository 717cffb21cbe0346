"""The commit log: one row per change of the public tables, for consumers that follow them.

Rows are only inserted, each in the transaction that makes the change, by the holder of the lease: so the order of `seq`
is the order of the commits. A row names the blocks whose rows changed, not the rows. What a reader may rely on is in
`docs/reference/commit-log.md`.
"""

from __future__ import annotations

from typing import Literal

from indexer.db.connection import Connection, row_count
from indexer.store import effects

ChangeKind = Literal[
    "forward",  # The blocks were projected.
    "rollback",  # Everything from the first block on is void.
    "heal",  # The rows of the blocks, and all that follows from them, may differ.
    "reproject",  # Every projected row is void.
]


async def append(conn: Connection, kind: ChangeKind, first: int, last: int, rows: int) -> None:
    """Add a row to the commit log, in the transaction that it describes.

    Args:
        conn: connection of that transaction.
        kind: kind of the change.
        first: its first block.
        last: its last block.
        rows: number of public and internal rows that it wrote or removed; a measure of size, which nothing is decided
            on.

    Raises:
        WriteInterceptedError: the row was withheld; consumers would never learn of the change.
    """
    status = await conn.execute(
        "INSERT INTO indexer.commit_log (epoch, kind, from_block, to_block, rows)"
        " SELECT value, $1, $2, $3, $4 FROM indexer.epoch",
        kind,
        first,
        last,
        rows,
    )
    await effects.require(conn, "indexer.commit_log", "inserted", row_count(status), 1)
