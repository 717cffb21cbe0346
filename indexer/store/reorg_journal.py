"""The reorg journal: one row per reorg, and every row that it orphaned. Append-only, enforced by triggers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from indexer.chain.batch import ServedRange
from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.runtime.exact_json import to_json
from indexer.store.provenance import EndpointFault


@dataclass(frozen=True, slots=True)
class Reorg:
    """A reorg to apply: roll back from `old_tip` to `fork`, then advance to `new_tip`, for the contracts `addresses`.

    `endpoint`: who served the new fork. `cause`: what revealed it. `proven`: hash and prover of its proven blocks.
    `faults`: who was wrong about logs, all corrected here. `kept`: ranges whose logs stay, with who served them before.
    """

    fork: BlockRef
    old_tip: BlockRef
    new_tip: BlockRef
    addresses: tuple[str, ...]
    endpoint: str
    cause: str
    proven: Mapping[int, tuple[bytes, str]] = field(default_factory=dict)
    faults: Sequence[EndpointFault] = ()
    kept: Sequence[ServedRange] = ()

    @property
    def depth(self) -> int:
        """Number of blocks rolled back."""
        return self.old_tip.number - self.fork.number


async def reserve_id(conn: Connection) -> int:
    """Reserve the id of a reorg before its row is written, because archived orphaned rows refer to it."""
    number: int = await conn.fetchval("SELECT nextval(pg_get_serial_sequence('indexer.reorg_journal', 'id'))")
    return number


async def write(
    conn: Connection, number: int, epoch: int, reorg: Reorg, removed: dict[str, int], inserted: dict[str, int],
    seconds: float,
) -> None:  # fmt: skip
    """Write the journal's row, in the transaction that applies the reorg.

    Args:
        conn: connection, inside the caller's transaction.
        number: id from `reserve_id`.
        epoch: epoch after the reorg.
        reorg: what was applied.
        removed: number of removed rows by table.
        inserted: number of inserted rows by table.
        seconds: duration (s).
    """
    await conn.execute(
        "INSERT INTO indexer.reorg_journal (id, epoch, fork_point, old_tip, old_tip_hash, new_tip, new_tip_hash, depth,"
        " endpoint, cause, rows_removed, rows_inserted, duration_ms) OVERRIDING SYSTEM VALUE"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12::jsonb, $13)",
        number, epoch, reorg.fork.number, reorg.old_tip.number, reorg.old_tip.hash, reorg.new_tip.number,
        reorg.new_tip.hash, reorg.depth, reorg.endpoint, reorg.cause, to_json(removed), to_json(inserted),
        int(seconds * 1000),
    )  # fmt: skip


_ENTRY = (
    "SELECT id, at, epoch, fork_point, old_tip, '0x' || encode(old_tip_hash, 'hex') AS old_tip_hash, new_tip,"
    " '0x' || encode(new_tip_hash, 'hex') AS new_tip_hash, depth, endpoint, cause, rows_removed, rows_inserted,"
    " duration_ms FROM indexer.reorg_journal"
)


def _entry(row: Any) -> dict[str, Any]:
    entry = dict(row)
    entry["at"] = entry["at"].isoformat()
    for column in ("rows_removed", "rows_inserted"):
        entry[column] = json.loads(entry[column])
    return entry


async def latest(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """Return the latest reorgs, newest first, ready for JSON."""
    return [_entry(row) for row in await conn.fetch(f"{_ENTRY} ORDER BY id DESC LIMIT $1", limit)]


async def get(conn: Connection, number: int) -> dict[str, Any] | None:
    """Return a reorg with the rows it orphaned, by table; None when it does not exist."""
    row = await conn.fetchrow(f"{_ENTRY} WHERE id = $1", number)
    if row is None:
        return None
    orphaned: dict[str, list[Any]] = {}
    rows = await conn.fetch(
        "SELECT table_name, row FROM (SELECT table_name, id AS first, 0 AS second, row FROM indexer.orphaned_row"
        " WHERE reorg_id = $1 UNION ALL SELECT 'indexer.raw_log', block_number, log_index, to_jsonb(o) - 'reorg_id'"
        " FROM indexer.orphaned_log o WHERE reorg_id = $1) kept ORDER BY table_name, first, second",
        number,
    )
    for orphan in rows:
        orphaned.setdefault(orphan["table_name"], []).append(json.loads(orphan["row"]))
    return _entry(row) | {"orphaned": orphaned}
