"""Stored hashes and raw logs against what one endpoint says: the comparison under all that verifies.

`reorg verify` believes the endpoint: it finds what an older bug or a hand edit left, and with `--heal` reads it again.
`verify` and the daemon's auditor (attest/attestor.py) ask who is right first: the endpoint must not be the one that
served the logs, what they disagree about is decided by headers and receipts (attest/proof.py), and what agrees is
stored as attested. Both heal by the same steps (follow/recovery.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from indexer.chain.ranges import ContractRange, covered_ranges
from indexer.chain.types import BlockRef, Header, Log
from indexer.db.connection import Connection
from indexer.errors import RangeTooLargeError, ReplacementUnavailableError, RpcError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import raw_logs
from indexer.store.index_state import IndexState, block_refs_between

_FAR = 50  # blocks between two differences that are healed apart


class LogDifference(NamedTuple):
    """Block `block` is not stored as it is on the chain: `what` is "hash", "time", "no row", "missing log",
    "foreign log" or "changed log"; `log_index` with the last three."""

    block: int
    what: str
    log_index: int | None = None


class StoredRange(NamedTuple):
    """What is stored of a segment: its blocks, and the logs of its contracts, both ascending."""

    anchors: list[BlockRef]
    logs: list[Log]


class ComparedRange(NamedTuple):
    """One range that was compared."""

    segment: ContractRange
    read: list[Log]
    differences: list[LogDifference]
    endpoint: str
    stored: StoredRange

    @property
    def logs(self) -> int:
        """How many the endpoint has."""
        return len(self.read)


async def compare_stored(
    conn: Connection, pool: Pool, state: IndexState, first: int, last: int
) -> AsyncIterator[ComparedRange]:  # fmt: skip
    """Compares what is covered of first..last, range by range. Raises ReplacementUnavailableError when no endpoint
    serves one."""
    for whole in covered_ranges(state.coverage, first, last):
        at = whole.first
        while at <= whole.last:
            rest = ContractRange(at, whole.last, whole.addresses)
            try:
                done = await pool.with_failover(lambda reader, rest=rest: compare(reader, conn, rest))  # type: ignore[misc]
            except RpcError as error:
                raise ReplacementUnavailableError(
                    f"no endpoint serves blocks from {at}: {error.message}",
                    "What came before was compared. Give an endpoint that serves history with --rpc-url",
                ) from error
            yield done
            at = done.segment.last + 1


async def load_stored(conn: Connection, segment: ContractRange) -> StoredRange:
    """Logs whose block has no row come with an empty hash."""
    anchors = await block_refs_between(conn, segment.first, segment.last)
    chunk = await raw_logs.read(conn, segment.first, segment.last, 10**9, strict=False)
    wanted = {bytes.fromhex(a[2:]) for a in segment.addresses}
    return StoredRange(anchors, [g for g in chunk.logs if g.address in wanted])


async def compare(reader: Reader, conn: Connection, rest: ContractRange) -> ComparedRange:
    """The first part of a segment, as large as the endpoint serves. Raises RpcError."""
    while True:
        last = min(rest.last, rest.first + reader.ranges.size - 1)
        part = ContractRange(rest.first, last, rest.addresses)
        ours = await load_stored(conn, part)
        try:
            logs, headers = await _read(reader, rest.first, last, rest.addresses, [a.number for a in ours.anchors])
        except RangeTooLargeError as refusal:
            if rest.first == last:
                raise
            reader.ranges.refused(last - rest.first + 1, refusal.hint, results=refusal.results)
            continue
        reader.ranges.served(last - rest.first + 1, len(logs))
        found = differences({a.number: (a.hash, a.timestamp) for a in ours.anchors}, ours.logs, headers, logs)
        return ComparedRange(part, logs, found, reader.name, ours)


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
    """`headers` are the chain's for every stored block; `stored_blocks` gives hash and time. Ascending by block."""
    found: list[LogDifference] = []
    for header in headers:
        hash_, time = stored_blocks[header.number]
        if hash_ != header.hash:
            found.append(LogDifference(header.number, "hash"))
        elif time != header.timestamp:
            found.append(LogDifference(header.number, "time"))
    ours = {(g.block_number, g.log_index): g for g in stored}
    theirs = {(g.block_number, g.log_index): g for g in logs}
    found += [LogDifference(n, "no row") for n in sorted({n for n, _ in {*theirs, *ours}} - set(stored_blocks))]
    found += [LogDifference(n, "missing log", i) for n, i in theirs.keys() - ours.keys()]
    found += [LogDifference(n, "foreign log", i) for n, i in ours.keys() - theirs.keys()]
    # Hashes and times of blocks were compared above; a log's own content is what remains.
    found += [
        LogDifference(n, "changed log", i) for (n, i), g in theirs.items() if (n, i) in ours and ours[n, i][:7] != g[:7]
    ]
    return sorted(found, key=lambda d: (d.block, d.log_index or 0, d.what))


def ranges(segment: ContractRange, found: Sequence[LogDifference]) -> list[ContractRange]:
    """The parts of a segment to be healed: differences that lie close together share one."""
    spans: list[list[int]] = []
    for number in sorted({d.block for d in found}):
        if spans and number - spans[-1][1] <= _FAR:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [ContractRange(low, high, segment.addresses) for low, high in spans]


def as_json(difference: LogDifference) -> dict[str, Any]:
    """JSON-ready."""
    return difference._asdict()
