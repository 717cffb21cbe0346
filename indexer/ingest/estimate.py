"""Estimate of what a backfill would cost (requests, time, disk), from a few sampled ranges. Writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from indexer.chain.ranges import BlockRange, ContractRange, count_blocks, plan_missing, sample_range
from indexer.config import Deployment
from indexer.db.connection import connection
from indexer.decode.block_times import TimeFields, time_fields_of
from indexer.errors import RangeTooLargeError
from indexer.ingest.ingestor import FETCHES_AHEAD, fetch_range
from indexer.rpc.adaptive_size import TARGET_LOGS
from indexer.rpc.pool import Pool
from indexer.store import coverage

SAMPLES = 12
SAMPLE_BLOCKS = 500
# Measured (benchmarks/memory.py): a raw log, its rows in the public tables and all indexes (bytes).
BYTES_PER_LOG = 1_800
LOGS_PER_SECOND = 15_000  # ingested and projected on two cores: one projector, however many workers


@dataclass(frozen=True, slots=True)
class BackfillEstimate:
    """What a backfill would cost. `bytes`: disk space; `bound_by`: what limits the time (`seconds`)."""

    from_block: int
    to_block: int
    blocks: int
    segments: int
    samples: int
    logs: int
    requests: int
    bytes: int
    seconds: float
    bound_by: str

    def summary(self) -> str:
        """Return the text for people."""
        if not self.blocks:
            return f"nothing to do: blocks {self.from_block} to {self.to_block} are there already"
        parts = "1 part" if self.segments == 1 else f"{self.segments:,} parts"
        return (
            f"blocks {self.from_block:,} to {self.to_block:,}: {self.blocks:,} of them missing in {parts}\n"
            f"  about {self.logs:,} logs (from {self.samples} samples), {self.requests:,} requests,"
            f" {self.bytes / 2**30:,.1f} GiB of disk\n"
            f"  {_duration(self.seconds)}: {self.bound_by}"
        )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min"


async def estimate(
    url: str, deployment: Deployment, pool: Pool, first: int, last: int, workers: int, rps: float | None
) -> BackfillEstimate:
    """Estimate how many blocks are missing, and what ingesting and projecting them will cost.

    Args:
        url: URL of the database, whose coverage is subtracted.
        deployment: Chain and watched contracts.
        pool: Endpoints to sample.
        first: First block of the backfill.
        last: Last block of the backfill.
        workers: Number of ingest workers.
        rps: Cap of the request rate (requests/s); None for no cap.
    """
    addresses = deployment.addresses
    missing = plan_missing(await _covered(url, addresses), first, last)
    blocks = count_blocks(missing)
    logs_per_block, seconds_per_answer, samples = await _sampled(
        pool, missing, blocks, time_fields_of(deployment.contracts)
    )
    logs = round(blocks * logs_per_block)
    ceiling = min(deployment.max_blocks, pool.ordered()[0].ranges.ceiling)
    requests = sum(-(-(s.last - s.first + 1) // ceiling) for s in missing)
    requests = max(requests, logs // TARGET_LOGS)
    bounds = {
        f"bound by {seconds_per_answer * 1000:.0f} ms an answer, {workers * FETCHES_AHEAD} under way": (
            requests * seconds_per_answer / (workers * FETCHES_AHEAD)
        ),
        f"bound by the projection at about {LOGS_PER_SECOND:,} logs a second": logs / LOGS_PER_SECOND,
    }
    if rps is not None:
        bounds[f"bound by --rps {rps:g}"] = requests / rps
    bound_by, seconds = max(bounds.items(), key=lambda bound: bound[1])
    return BackfillEstimate(
        first, last, blocks, len(missing), samples, logs, requests, bytes=logs * BYTES_PER_LOG,
        seconds=round(seconds, 1), bound_by=bound_by,
    )  # fmt: skip


async def _covered(url: str, addresses: tuple[str, ...]) -> dict[str, list[BlockRange]]:
    async with connection(url) as conn:
        if await conn.fetchval("SELECT to_regclass('indexer.coverage')") is None:
            return {a: [] for a in addresses}
        return dict(await coverage.load(conn, addresses))


async def _sampled(
    pool: Pool, missing: list[ContractRange], blocks: int, time_fields: TimeFields
) -> tuple[float, float, int]:  # fmt: skip
    """Sample the missing ranges evenly. Returns logs per block, time per answer (s) and the number of samples."""
    logs = read = taken = 0
    spent = 0.0
    for n in range(min(SAMPLES, -(-blocks // SAMPLE_BLOCKS))):
        contract_range = sample_range(missing, (2 * n + 1) * blocks // (2 * SAMPLES), SAMPLE_BLOCKS)
        try:
            started = time.monotonic()
            batches = await fetch_range(pool, contract_range, time_fields)
        except RangeTooLargeError:
            continue
        spent += (time.monotonic() - started) / len(batches)
        logs += sum(len(batch.logs) for batch in batches)
        read += contract_range.last - contract_range.first + 1
        taken += 1
    return (logs / read if read else 0.0), (spent / taken if taken else 0.0), taken
