"""Raw logs and blocks, the rows of stage 1, written by COPY inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from indexer.chain.batch import LogBatch
from indexer.chain.types import LOGS_PER_BLOCK, BlockRef, Header, Log
from indexer.db.connection import Connection, copy
from indexer.db.copy_format import block_rows, log_rows
from indexer.errors import ParentMismatchError, StoreDamagedError, StoredHashMismatchError
from indexer.store import coverage, effects, lease, provenance

# Size of a partition (blocks). Must equal the number in the SQL function indexer.make_raw_log_partition.
PARTITION_BLOCKS = 10_000_000
_LOG_COLUMNS = (
    "block_number", "log_index", "address", "transaction_hash", "transaction_index", "topics", "data",
)  # fmt: skip
LOG_COLUMNS = ", ".join(_LOG_COLUMNS)


class StoredLogs(NamedTuple):
    """Stored logs of the whole blocks first..last in chain order. `times`: block -> timestamp (s), if it has logs."""

    first: int
    last: int
    logs: list[Log]
    times: dict[int, int]


async def ensure_partitions(conn: Connection, first: int, last: int) -> None:
    """Create missing partitions for blocks first..last.

    Call outside the step's transaction, because creating a partition locks the whole table.
    """
    for n in range(first // PARTITION_BLOCKS, last // PARTITION_BLOCKS + 1):
        if await conn.fetchval("SELECT to_regclass($1)", f"indexer.raw_log_p{n}") is None:
            # The writing role does not own the table, so this function runs with the rights of the owner.
            await conn.execute("SELECT indexer.make_raw_log_partition($1)", n)


async def commit_batch(conn: Connection, batch: LogBatch) -> None:
    """Write coverage, provenance, raw logs and blocks of a confirmed log batch, in the caller's transaction.

    Raises asyncpg.ExclusionViolationError when part of it is ingested already, ParentMismatchError when it does not
    join a stored neighbor, and StoredHashMismatchError as `insert_batch` does.
    """
    # Coverage comes first: if two processes have the same range, the second waits here, and then the exclusion
    # constraint refuses it.
    contracts = await coverage.add(conn, batch.addresses, batch.first, batch.last)
    for source in batch.sources:
        await provenance.record_served(conn, source, contracts)
    neighbors = await conn.fetch(
        "SELECT number, hash, parent_hash FROM indexer.block WHERE number IN ($1, $2)", batch.first - 1, batch.last + 1
    )
    for number, stored_hash, parent_hash in neighbors:
        if number < batch.first and batch.blocks[0].parent_hash not in (b"", stored_hash):
            raise ParentMismatchError(batch.first)
        if number > batch.last and parent_hash not in (None, batch.blocks[-1].hash):
            raise ParentMismatchError(number)
    await insert_batch(conn, batch.logs, batch.blocks)


async def insert_batch(conn: Connection, logs: Sequence[Log], blocks: Iterable[Header]) -> None:
    """Write logs and their blocks.

    Raises StoredHashMismatchError when a block is stored with another hash (identity is a position validated by a
    hash).
    """
    rows = {b.number: b for b in blocks}
    stored = await conn.fetch("SELECT number, hash FROM indexer.block WHERE number = ANY($1::bigint[])", list(rows))
    for known in stored:
        if known["hash"] != rows[known["number"]].hash:
            raise StoredHashMismatchError(known["number"])
    known_numbers = {known["number"] for known in stored}
    await copy_blocks(conn, "block", [b for b in rows.values() if b.number not in known_numbers])
    await copy_logs(conn, "raw_log", logs)


async def upsert_block_ref(conn: Connection, block_ref: BlockRef) -> None:
    """Store the block of the chain on which a rollback ends.

    It has no row yet, or, below the first ingested block, a row from another fork, which is replaced.
    """
    await conn.execute(
        "INSERT INTO indexer.block AS b (number, hash, timestamp) VALUES ($1, $2, $3) ON CONFLICT (number) DO UPDATE"
        " SET hash = EXCLUDED.hash, timestamp = EXCLUDED.timestamp, parent_hash = NULL WHERE b.hash <> EXCLUDED.hash",
        *block_ref,
    )


async def copy_blocks(conn: Connection, table: str, blocks: Sequence[Header]) -> None:
    """Copy blocks into indexer.block or a table of the same shape."""
    if blocks:
        columns = ("number", "hash", "parent_hash", "timestamp")
        done = await copy(conn, "indexer", table, columns, block_rows(blocks), "binary")
        await effects.require(conn, f"indexer.{table}", "inserted", done, len(blocks))


async def copy_logs(conn: Connection, table: str, logs: Sequence[Log]) -> None:
    """Copy logs into indexer.raw_log or a table of the same shape."""
    if logs:
        done = await copy(conn, "indexer", table, _LOG_COLUMNS, log_rows(logs), "binary")
        await effects.require(conn, f"indexer.{table}", "inserted", done, len(logs))


async def read(
    conn: Connection, first: int, last: int, limit: int, *, staged: bool = False, strict: bool = True
) -> StoredLogs:
    """Read stored logs from block `first` up to block `last`, about `limit` of them but always whole blocks.

    Args:
        conn: connection.
        first: first block.
        last: last block, included.
        limit: number of logs after which reading stops at a block boundary.
        staged: read the staged replacement instead of the stored logs.
        strict: raise for logs whose block has no row. If False, such a block has an empty hash and time 0.

    Raises:
        StoreDamagedError: a block has logs but no row of its own.
        LeaseLostError: so has a staged one: another holder of the lease cleared it between the two queries.
    """
    logs = "staged_log" if staged else "raw_log"
    rows = await conn.fetch(
        f"SELECT {LOG_COLUMNS} FROM indexer.{logs} WHERE block_number BETWEEN $1 AND $2"
        " ORDER BY block_number, log_index LIMIT $3",
        first,
        last,
        limit + 1,
    )
    if len(rows) > limit:
        # The limit may cut the last block: it is read whole, by itself or with the next stored logs.
        cut = rows[-1]["block_number"]
        complete = [r for r in rows if r["block_number"] < cut]
        if not complete:
            return await read(conn, first, cut, LOGS_PER_BLOCK, staged=staged, strict=strict)
        rows, last = complete, cut - 1
        last = min(last, rows[-1]["block_number"])
    return await _stored_logs(conn, first, last, rows, "staged_block" if staged else "block", strict=strict)


async def read_blocks(conn: Connection, numbers: Sequence[int], *, strict: bool = True) -> StoredLogs:
    """Read the stored logs of the blocks `numbers`, which must be ascending and not empty.

    Raises StoreDamagedError as `read` does.
    """
    rows = await conn.fetch(
        f"SELECT {LOG_COLUMNS} FROM indexer.raw_log WHERE block_number = ANY($1::bigint[])"
        " ORDER BY block_number, log_index",
        list(numbers),
    )
    return await _stored_logs(conn, numbers[0], numbers[-1], rows, "block", strict=strict)


async def _stored_logs(
    conn: Connection, first: int, last: int, rows: Sequence[Any], blocks: str, *, strict: bool
) -> StoredLogs:  # fmt: skip
    numbers = sorted({r["block_number"] for r in rows})
    times = await conn.fetch(
        f"SELECT number, hash, timestamp FROM indexer.{blocks} WHERE number = ANY($1::bigint[])", numbers
    )
    hashes = {t["number"]: t["hash"] for t in times}
    seconds = {t["number"]: t["timestamp"] for t in times}
    for orphan in [n for n in numbers if n not in hashes]:
        if strict and blocks == "staged_block":
            raise lease.lost_error()
        if strict:
            raise StoreDamagedError(
                f"block {orphan} has logs but no row of its own in the database",
                f"`reya-indexer reorg verify --from {orphan} --to {orphan} --heal` reads the block again",
            )
        hashes[orphan], seconds[orphan] = b"", 0
    logs = [
        Log(n, i, a, h, t, tuple(topics[k : k + 32] for k in range(0, len(topics), 32)), data, hashes[n])
        for n, i, a, h, t, topics, data in rows
    ]
    return StoredLogs(first, last, logs, seconds)
