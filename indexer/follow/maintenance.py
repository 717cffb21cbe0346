"""What the holder of the lease does now and then beside its steps: pruning, and the alarm on growing before-images."""

from __future__ import annotations

import time

import structlog

from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.runtime.progress import DaemonProgress
from indexer.store import lease
from indexer.store.incidents import record
from indexer.store.index_state import IndexState, block_refs_below

INTERVAL_S = 30.0  # seconds
MAX_BEFORE_IMAGES = 1_000_000  # rows; at the exchange's own pace days without finality
log = structlog.get_logger()


class Maintenance:
    """`most_images`: before-images above which an incident is opened. Nothing is ever cut for it."""

    def __init__(self, progress: DaemonProgress, most_images: int = MAX_BEFORE_IMAGES) -> None:
        self.progress, self.max_before_images = progress, most_images
        self.final: BlockRef | None = None  # the newest stored block that is final
        self._pruned: int | None = None
        self._next = 0.0

    async def run_if_due(self, conn: Connection, state: IndexState, token: int) -> None:
        """One round, when one is due. Raises LeaseLostError."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL_S
        await self.prune(conn, state, token)
        await self.count_images(conn, state)
        if state.floor >= 0:
            self.final = next(iter(await block_refs_below(conn, state.floor + 1, 1)), None)

    async def prune(self, conn: Connection, state: IndexState, token: int) -> None:
        """Headers below the floor; after a start as far back as a long stop may have left them."""
        floor = state.floor
        first = max(0, floor - 1_000_000) if self._pruned is None else self._pruned
        if floor > first and await prune(conn, first, floor, token):
            self._pruned = floor

    async def count_images(self, conn: Connection, state: IndexState) -> None:
        """Before-images grow while finality stands still: said aloud, because a reorg needs every one of them."""
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
            await conn.execute(
                "UPDATE indexer.incident SET resolved_at = clock_timestamp()"
                " WHERE kind = 'before_images_grow' AND resolved_at IS NULL"
            )


async def prune(conn: Connection, first: int, floor: int, token: int) -> bool:
    """Forgets headers of first..floor-1 that only a rollback below the floor would need. False: try again later.

    Kept: blocks with logs, every thousandth as an anchor, ends of coverage (seams are compared with them) and the
    block the database is bound to. Apart from the step and only when nobody ingests: an uncommitted log is
    invisible here, and its block's row would go.
    """
    async with conn.transaction():
        await lease.lock_and_renew(conn, token)
        if await conn.fetchval("SELECT true FROM indexer.epoch FOR UPDATE SKIP LOCKED") is None:
            return False
        await conn.execute(
            "DELETE FROM indexer.block b WHERE number >= $1 AND number < $2 AND number % 1000 <> 0"
            " AND NOT EXISTS (SELECT FROM indexer.raw_log r WHERE r.block_number = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.coverage c WHERE upper(c.blocks) - 1 = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.deployment d WHERE d.bound_number = b.number)",
            first,
            floor,
        )
    return True
