"""Comparison of stored hashes and raw logs with one endpoint's answers, on which every kind of verification is built.

`reorg verify` believes the endpoint: it finds what an older bug or a manual edit left behind, and with `--heal` reads
it again. `verify` and the daemon's auditor (attest/attestor.py) first ask who is right: the endpoint must not be the
one that served the logs, disagreements are decided by headers and receipts (attest/proof.py), and what agrees is
stored as attested. Both heal by the same steps (reorg/recovery.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from indexer.chain.ranges import ContractRange, covered_ranges
from indexer.chain.types import BlockRef, Header, Log, address_bytes
from indexer.db.connection import Connection
from indexer.errors import RangeTooLargeError, ReplacementUnavailableError, RpcError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import raw_logs
from indexer.store.index_state import IndexState, block_refs_between

_FAR = 50  # Differences more than this many blocks apart are healed separately.


class LogDifference(NamedTuple):
    """A way in which block `block` is not stored as it is on the chain.

    `what` is "hash", "time", "no row", "missing log", "foreign log" or "changed log"; the last three have a
    `log_index`.
    """

    block: int
    what: str
    log_index: int | None = None


class StoredRange(NamedTuple):
    """The stored part of a contract range: its block refs, and the logs of its contracts, both ascending."""

    block_refs: list[BlockRef]
    logs: list[Log]


class ComparedRange(NamedTuple):
    """A contract range that was compared, with the logs that the endpoint returned (`read`)."""

    segment: ContractRange
    read: list[Log]
    differences: list[LogDifference]
    endpoint: str
    stored: StoredRange

    @property
    def logs(self) -> int:
        """The number of logs that the endpoint has."""
        return len(self.read)


async def compare_stored(
    conn: Connection, pool: Pool, state: IndexState, first: int, last: int
) -> AsyncIterator[ComparedRange]:  # fmt: skip
    """Compare the covered parts of first..last with the endpoints, range by range.

    Args:
        conn: A connection to read the stored logs with.
        pool: The endpoints to ask, with failover.
        state: The index state, for its coverage.
        first: The first block to compare.
        last: The last block to compare.

    Raises:
        ReplacementUnavailableError: No endpoint serves one of the ranges.
    """
    for whole in covered_ranges(state.coverage, first, last):
        at = whole.first
        while at <= whole.last:
            rest = ContractRange(at, whole.last, whole.addresses)
            try:
                compared = await pool.with_failover(lambda reader, rest=rest: compare(reader, conn, rest))  # type: ignore[misc]
            except RpcError as error:
                raise ReplacementUnavailableError(
                    f"no endpoint serves blocks from {at} on: {error.message}",
                    "Earlier blocks were compared. Use --rpc-url with an endpoint that serves history",
                ) from error
            yield compared
            at = compared.segment.last + 1


async def load_stored(conn: Connection, segment: ContractRange) -> StoredRange:
    """Load the stored blocks and logs of a contract range. Logs whose block has no row have an empty block hash."""
    block_refs = await block_refs_between(conn, segment.first, segment.last)
    stored_logs = await raw_logs.read(conn, segment.first, segment.last, 10**9, strict=False)
    wanted = {address_bytes(a) for a in segment.addresses}
    return StoredRange(block_refs, [g for g in stored_logs.logs if g.address in wanted])


async def compare(reader: Reader, conn: Connection, rest: ContractRange) -> ComparedRange:
    """Compare the first part of a contract range, as large as the endpoint serves. Raises RpcError."""
    while True:
        last = min(rest.last, rest.first + reader.ranges.size - 1)
        part = ContractRange(rest.first, last, rest.addresses)
        stored = await load_stored(conn, part)
        try:
            logs, headers = await _read(reader, rest.first, last, rest.addresses, [r.number for r in stored.block_refs])
        except RangeTooLargeError as refusal:
            if rest.first == last:
                raise
            reader.ranges.refused(last - rest.first + 1, refusal.hint, results=refusal.results)
            continue
        reader.ranges.succeeded(last - rest.first + 1, len(logs))
        stored_blocks = {r.number: (r.hash, r.timestamp) for r in stored.block_refs}
        found = differences(stored_blocks, stored.logs, headers, logs)
        return ComparedRange(part, logs, found, reader.name, stored)


async def _read(
    reader: Reader, first: int, last: int, addresses: Sequence[str], numbers: Sequence[int]
) -> tuple[list[Log], list[Header]]:
    logs, headers = await reader.logs_with_headers(first, last, addresses, numbers[:100])
    for start in range(100, len(numbers), 100):
        headers += await reader.headers(numbers[start : start + 100])
    return logs, headers


def differences(
    stored_blocks: dict[int, tuple[bytes, int]], stored: Iterable[Log], headers: Iterable[Header], logs: Iterable[Log]
) -> list[LogDifference]:
    """Return the differences between stored and served blocks and logs, ascending by block.

    Args:
        stored_blocks: Hash and timestamp (unix s) of every stored block, by number.
        stored: The stored logs.
        headers: The chain's headers, one for every stored block.
        logs: The logs that the endpoint has.
    """
    found: list[LogDifference] = []
    for header in headers:
        hash_, time = stored_blocks[header.number]
        if hash_ != header.hash:
            found.append(LogDifference(header.number, "hash"))
        elif time != header.timestamp:
            found.append(LogDifference(header.number, "time"))
    local = {g.identity: g for g in stored}
    remote = {g.identity: g for g in logs}
    found += [LogDifference(n, "no row") for n in sorted({n for n, _ in {*remote, *local}} - set(stored_blocks))]
    found += [LogDifference(n, "missing log", i) for n, i in remote.keys() - local.keys()]
    found += [LogDifference(n, "foreign log", i) for n, i in local.keys() - remote.keys()]
    # Block hashes and times were compared above; only the log's own content remains.
    found += [
        LogDifference(n, "changed log", i)
        for (n, i), g in remote.items()
        if (n, i) in local and local[n, i].content != g.content
    ]
    return sorted(found, key=lambda d: (d.block, d.log_index or 0, d.what))


def ranges(segment: ContractRange, found: Sequence[LogDifference]) -> list[ContractRange]:
    """Return the parts of a contract range to heal: differences that lie close together share one part."""
    spans: list[list[int]] = []
    for number in sorted({d.block for d in found}):
        if spans and number - spans[-1][1] <= _FAR:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [ContractRange(low, high, segment.addresses) for low, high in spans]


def as_json(difference: LogDifference) -> dict[str, Any]:
    """Return a difference as a JSON-ready object."""
    return difference._asdict()
