"""Options of the follower's loop: what makes it the daemon, a backfill, or a process that only ingests."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.follow.catch_up import DEFER_BLOCKS
from indexer.ingest.executor import IngestExecutor


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options that make an engine a daemon or a backfill.

    Args:
        first: Block to start ingesting at (None: the origin).
        last: Block to end at (None: follow the head).
        executor: Who ingests below finalized when much is left (None: this process).
        ingest_only: Whether to never take the lease.
        defer_from: Missing blocks from which an initial load drops the indexes, as in CatchUp.
    """

    first: int | None = None
    last: int | None = None
    executor: IngestExecutor | None = None
    ingest_only: bool = False
    defer_from: int = DEFER_BLOCKS
