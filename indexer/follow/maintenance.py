"""Periodic work of the lease holder between its steps: pruning, partitions, the alarm about growing before-images."""

from __future__ import annotations

import time

import structlog

from indexer.chain.types import BlockRef
from indexer.config import Keep
from indexer.db.connection import Connection
from indexer.runtime.progress import DaemonProgress
from indexer.store import change_log, lease, slot_retention
from indexer.store.incidents import record, resolve
from indexer.store.index_state import IndexState, block_refs_below

INTERVAL_S = 30.0
MAX_BEFORE_IMAGES = 1_000_000  # rows; at the exchange's usual pace, days without finality
log = structlog.get_logger()


class Maintenance:
    """Prunes headers and the change log, and watches the number of before-images.

    `keep`: how much is kept for slots. `max_before_images`: number above which an incident is opened; nothing is ever
    deleted because of it (rows).
    """

    def __init__(
        self, progress: DaemonProgress, keep: Keep, max_before_images: int = MAX_BEFORE_IMAGES
    ) -> None:  # fmt: skip
        self.progress, self.keep, self.max_before_images = progress, keep, max_before_images
        self.final: BlockRef | None = None  # the newest stored block that is final
        self._pruned: int | None = None
        self._next = 0.0

    async def run_if_due(self, conn: Connection, state: IndexState, token: int) -> None:
        """Run one round if it is due. Raises LeaseLostError."""
        if time.monotonic() < self._next:
            return
        await self.prune(conn, state, token)
        await self.count_images(conn, state)
        if state.capturing:
            await change_log.ensure_partitions(conn)
            for name in await slot_retention.cut_off(conn, self.keep.hours, self.keep.megabytes):
                log.error("stream_lost", slot=name)
        await change_log.drop_confirmed(conn, capturing=state.capturing)
        if state.floor >= 0:
            self.final = next(iter(await block_refs_below(conn, state.floor + 1, 1)), None)
        # Only now: a round that the database refuses is due again, so that the refusal lasts until it is over.
        self._next = time.monotonic() + INTERVAL_S

    async def prune(self, conn: Connection, state: IndexState, token: int) -> None:
        """Prune headers below the floor; after a start, as far back as a long stop may have left them."""
        floor = state.floor
        oldest = max(0, floor - 1_000_000)
        first = oldest if self._pruned is None else self._pruned
        if floor > first and await prune(conn, first, floor, token):
            kept: int | None = await conn.fetchval("SELECT min(block_number) FROM indexer.head_proof")
            # What was kept for its proof is pruned by a later round.
            self._pruned = floor if kept is None else max(oldest, min(floor, kept))

    async def count_images(self, conn: Connection, state: IndexState) -> None:
        """Count the before-images, and open an incident if there are too many.

        They grow while finality stands still. This must be visible, because a reorg needs every one of them.
        """
        counted = await conn.fetchval(
            "SELECT count(*) FROM (SELECT FROM indexer.before_image LIMIT $1) counted", self.max_before_images + 1
        )
        self.progress.before_images = counted
        if counted > self.max_before_images:
            detail = f"more than {self.max_before_images} rows since block {state.floor}: finality stands still"
            log.error("before_images_grow", rows=counted, floor=state.floor)
            await record(
                conn,
                [{"kind": "before_images_grow", "subject": "finality", "detail": detail, "first_block": None,
                  "last_block": None, "count": 1}],
            )  # fmt: skip
        else:
            await resolve(conn, "before_images_grow")


async def prune(conn: Connection, first: int, floor: int, token: int) -> bool:
    """Delete headers of blocks first..floor-1 that only a rollback below the floor would need.

    Kept are blocks with logs, every thousandth block as a reference for fork searches, ends of coverage (parent links
    are compared with them), blocks whose proof is not part of an attestation yet, and the block that the database is
    bound to. This runs apart from the step, and only when nobody ingests: an uncommitted log is invisible here, and its
    block's row would be deleted.

    Args:
        conn: The connection.
        first: First block to prune.
        floor: Rollback floor; it stays.
        token: Token of the lease.

    Returns:
        False if somebody ingests: try again later.
    """
    async with conn.transaction():
        await lease.lock_and_renew(conn, token)
        if await conn.fetchval("SELECT true FROM indexer.epoch FOR UPDATE SKIP LOCKED") is None:
            return False
        await conn.execute(
            "DELETE FROM indexer.block b WHERE number >= $1 AND number < $2 AND number % 1000 <> 0"
            " AND NOT EXISTS (SELECT FROM indexer.raw_log r WHERE r.block_number = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.coverage c WHERE upper(c.blocks) - 1 = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.deployment d WHERE d.bound_number = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.head_proof p WHERE p.block_number = b.number)",
            first,
            floor,
        )
    return True
