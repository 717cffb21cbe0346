"""Estimate of the cost of attesting contract ranges, from samples of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from indexer.chain.bloom import may_contain
from indexer.chain.ranges import ContractRange, count_blocks, sample_range
from indexer.chain.types import address_bytes
from indexer.db.connection import Connection
from indexer.errors import RpcError
from indexer.ingest.block_proof import HEADERS, RECEIPTS
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import SealedHeader
from indexer.store.attestations import Grade

SAMPLES = 8
SAMPLE_BLOCKS = 50
BLOCK_REFS = 100  # Stored blocks whose headers are compared with one request.


async def estimate(
    conn: Connection, pool: Pool, todo: Sequence[ContractRange], grade: Grade, rps: float | None
) -> dict[str, Any]:  # fmt: skip
    """Return the expected blocks, requests, blocks whose receipts are read, and duration (s), as a JSON-ready object.

    Args:
        conn: A connection to count the stored blocks with.
        pool: The endpoints to sample.
        todo: The contract ranges to attest.
        grade: The grade to attest.
        rps: The cap on requests (per second); None without one.

    Raises:
        RpcError: No endpoint answers.
    """
    blocks = count_blocks(todo)
    positive, each, samples, reader = await _sampled(pool, todo, blocks)
    receipts = round(blocks * positive)
    if grade == "proven":
        length = max(1, reader.endpoint.lengths.size)
        requests = -(-blocks // min(HEADERS, length)) + -(-receipts // min(RECEIPTS, length))
    else:
        receipts, ranges = 0, sum(-(-(s.last - s.first + 1) // reader.ranges.size) for s in todo)
        requests = max(ranges, await _count_stored(conn, todo) // BLOCK_REFS)
    seconds = max(requests * each, requests / rps if rps else 0.0)
    return {
        "grade": grade, "blocks": blocks, "requests": requests, "receipts": receipts, "seconds": round(seconds, 1),
        "hours": round(seconds / 3600, 2), "rps": rps, "samples": samples,
    }  # fmt: skip


async def _count_stored(conn: Connection, todo: Sequence[ContractRange]) -> int:
    """Return the number of stored blocks in the ranges."""
    counts = [
        await conn.fetchval("SELECT count(*) FROM indexer.block WHERE number BETWEEN $1 AND $2", s.first, s.last)
        for s in todo
    ]
    return sum(counts)


async def _sampled(pool: Pool, todo: Sequence[ContractRange], blocks: int) -> tuple[float, float, int, Reader]:
    """Return the share of blocks whose bloom filter contains a contract, time per answer (s), samples, and a reader."""
    positive = read = taken = 0
    spent, last_error = 0.0, None
    readers = pool.ordered()
    for n in range(min(SAMPLES, -(-blocks // SAMPLE_BLOCKS))):
        part = sample_range(todo, (2 * n + 1) * blocks // (2 * SAMPLES), SAMPLE_BLOCKS)
        for reader in readers:
            started = time.monotonic()
            try:
                headers = await reader.sealed_headers(range(part.first, part.last + 1))
            except RpcError as error:
                last_error = error
                continue
            readable = [header for header in headers if not isinstance(header, RpcError)]
            spent, taken, read = spent + time.monotonic() - started, taken + 1, read + len(readable)
            positive += sum(_may_have_logs(header, part.addresses) for header in readable)
            break
    if last_error is not None and not taken:
        raise last_error
    return positive / max(1, read), spent / max(1, taken), taken, readers[0]


def _may_have_logs(block: SealedHeader, addresses: Sequence[str]) -> bool:
    return any(may_contain(block.header.logs_bloom, address_bytes(a)) for a in addresses)
