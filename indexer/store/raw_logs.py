"""Raw logs and blocks: stage 1's rows. Written by COPY inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from indexer.chain.batch import LogBatch
from indexer.chain.types import BlockRef, Header, Log
from indexer.db.connection import Connection, copy
from indexer.db.copy_format import block_rows, log_rows
from indexer.errors import ParentMismatchError, StoreDamagedError, StoredHashMismatchError
from indexer.store import coverage, effects, provenance

PARTITION_BLOCKS = 10_000_000  # as the function that makes them has it
_LOG_COLUMNS = (
    "block_number", "log_index", "address", "transaction_hash", "transaction_index", "topics", "data",
)  # fmt: skip
LOG_COLUMNS = ", ".join(_LOG_COLUMNS)


class StoredLogs(NamedTuple):
    """Stored logs of whole blocks first..last in chain order, and the times (seconds) of the blocks that have logs."""

    first: int
    last: int
    logs: list[Log]
    times: dict[int, int]


async def ensure_partitions(conn: Connection, first: int, last: int) -> None:
    """Partitions for blocks first..last. Outside the step's transaction: creating one locks the whole table."""
    for n in range(first // PARTITION_BLOCKS, last // PARTITION_BLOCKS + 1):
        if await conn.fetchval("SELECT to_regclass($1)", f"indexer.raw_log_p{n}") is None:
            # A function of the tables' owner, which the writing role is not.
            await conn.execute("SELECT indexer.make_raw_log_partition($1)", n)


async def commit_batch(conn: Connection, unit: LogBatch) -> None:
    """Coverage, raw logs and blocks of a confirmed unit, and who served them, in the caller's transaction.

    Raises asyncpg.ExclusionViolationError when any of it is ingested already, ParentMismatchError when it does not
    join a stored neighbour, StoredHashMismatchError as `store` does.
    """
    # Coverage first: of two processes with one range, the second waits here and is refused by its constraint.
    contracts = await coverage.add(conn, unit.addresses, unit.first, unit.last)
    for source in unit.sources:
        await provenance.record_served(conn, source, contracts)
    neighbours = await conn.fetch(
        "SELECT number, hash, parent_hash FROM indexer.block WHERE number IN ($1, $2)", unit.first - 1, unit.last + 1
    )
    for number, stored, parent in neighbours:
        if number < unit.first and unit.blocks[0].parent_hash not in (b"", stored):
            raise ParentMismatchError(unit.first)
        if number > unit.last and parent not in (None, unit.blocks[-1].hash):
            raise ParentMismatchError(number)
    await insert_batch(conn, unit.logs, unit.blocks)


async def insert_batch(conn: Connection, logs: Sequence[Log], blocks: Iterable[Header]) -> None:
    """Writes logs and their blocks. Raises StoredHashMismatchError when a block is stored with another hash
    (identity is a position validated by a hash)."""
    rows = {b.number: b for b in blocks}
    stored = await conn.fetch("SELECT number, hash FROM indexer.block WHERE number = ANY($1::bigint[])", list(rows))
    for known in stored:
        if known["hash"] != rows[known["number"]].hash:
            raise StoredHashMismatchError(known["number"])
    known_numbers = {known["number"] for known in stored}
    await copy_blocks(conn, "block", [b for b in rows.values() if b.number not in known_numbers])
    await copy_logs(conn, "raw_log", logs)


async def upsert_block_ref(conn: Connection, anchor: BlockRef) -> None:
    """Stores a block of the chain that a rollback ends on: one that has no row yet, or, before the first block that is
    ingested, the row of a fork."""
    await conn.execute(
        "INSERT INTO indexer.block AS b (number, hash, timestamp) VALUES ($1, $2, $3) ON CONFLICT (number) DO UPDATE"
        " SET hash = EXCLUDED.hash, timestamp = EXCLUDED.timestamp, parent_hash = NULL WHERE b.hash <> EXCLUDED.hash",
        *anchor,
    )


async def copy_blocks(conn: Connection, table: str, blocks: Sequence[Header]) -> None:
    """Into indexer.block or a table like it."""
    if blocks:
        columns = ("number", "hash", "parent_hash", "timestamp")
        done = await copy(conn, "indexer", table, columns, block_rows(blocks), "binary")
        await effects.require(conn, f"indexer.{table}", "inserted", done, len(blocks))


async def copy_logs(conn: Connection, table: str, logs: Sequence[Log]) -> None:
    """Into indexer.raw_log or a table like it."""
    if logs:
        done = await copy(conn, "indexer", table, _LOG_COLUMNS, log_rows(logs), "binary")
        await effects.require(conn, f"indexer.{table}", "inserted", done, len(logs))


async def read(
    conn: Connection, first: int, last: int, limit: int, *, staged: bool = False, strict: bool = True
) -> StoredLogs:
    """The stored logs from block `first`, about `limit` of them but always whole blocks, up to block `last`.

    `staged`: of those that wait to take the stored ones' place. Raises StoreDamagedError for logs whose block has no
    row, unless told not to be strict; then its hash is empty and its time 0.
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
        # The last block may be cut by the limit: it is read whole, alone or with the next chunk.
        cut = rows[-1]["block_number"]
        whole = [r for r in rows if r["block_number"] < cut]
        if not whole:
            return await read(conn, first, cut, 100_000, staged=staged, strict=strict)
        rows, last = whole, cut - 1
        last = min(last, rows[-1]["block_number"])
    return await _stored_logs(conn, first, last, rows, "staged_block" if staged else "block", strict)


async def read_blocks(conn: Connection, numbers: Sequence[int], *, strict: bool = True) -> StoredLogs:
    """The stored logs of these blocks, ascending and not empty. Raises as `read` does."""
    rows = await conn.fetch(
        f"SELECT {LOG_COLUMNS} FROM indexer.raw_log WHERE block_number = ANY($1::bigint[])"
        " ORDER BY block_number, log_index",
        list(numbers),
    )
    return await _stored_logs(conn, numbers[0], numbers[-1], rows, "block", strict)


async def _stored_logs(
    conn: Connection, first: int, last: int, rows: Sequence[Any], blocks: str, strict: bool
) -> StoredLogs:  # fmt: skip
    numbers = sorted({r["block_number"] for r in rows})
    times = await conn.fetch(
        f"SELECT number, hash, timestamp FROM indexer.{blocks} WHERE number = ANY($1::bigint[])", numbers
    )
    hashes = {t["number"]: t["hash"] for t in times}
    seconds = {t["number"]: t["timestamp"] for t in times}
    for orphan in [n for n in numbers if n not in hashes]:
        if strict:
            raise StoreDamagedError(
                f"block {orphan} has logs but no row of its own in the database",
                f"`reya-indexer reorg verify --from {orphan} --to {orphan} --heal` reads it again",
            )
        hashes[orphan], seconds[orphan] = b"", 0
    logs = [
        Log(n, i, a, h, t, tuple(topics[k : k + 32] for k in range(0, len(topics), 32)), data, hashes[n])
        for n, i, a, h, t, topics, data in rows
    ]
    return StoredLogs(first, last, logs, seconds)
