"""Comparison of stored hashes and raw logs with one endpoint's answers. It reads and writes nothing.

`reorg verify` believes the endpoint: it finds what an older bug or a manual edit left behind, and with `--heal` reads
it again. `verify` and the daemon's auditor first ask who is right: the endpoint must not be the one that served the
logs, disagreements are decided by headers and receipts (attest/proof.py, attest/verdict.py), and what agrees is stored
as attested (attest/attester.py). Both heal by the same steps (reorg/heal.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from indexer.attest.evidence import Comparison, CrossCheck, LogDifference, StoredRange, differences
from indexer.chain.batch import ServedRange
from indexer.chain.ranges import ContractRange, covered_ranges
from indexer.chain.types import Header, Log, address_bytes
from indexer.db.connection import Connection
from indexer.errors import (
    NoSecondEndpointError,
    RangeTooLargeError,
    ReplacementUnavailableError,
    RpcError,
    TransientRpcError,
)
from indexer.ingest.block_proof import YieldToFollower
from indexer.ingest.proof_rules import ProofFailure
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import coverage, provenance, raw_logs
from indexer.store.index_state import IndexState, block_refs_between

MAX_BLOCKS = 100_000  # More than any endpoint serves at once; it limits how many served ranges are read.
_FAR = 50  # Differences more than this many blocks apart are proven, and healed, separately.


async def compare_stored(
    conn: Connection, pool: Pool, state: IndexState, first: int, last: int
) -> AsyncIterator[Comparison]:  # fmt: skip
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


async def ask_others(
    conn: Connection, pool: Pool, segment: ContractRange, yield_to_follower: YieldToFollower
) -> CrossCheck:
    """Ask endpoints that did not serve the stored logs, until enough of them agree or one has other logs.

    Args:
        conn: A connection to read the stored logs with.
        pool: The endpoints.
        segment: The contract range; its first part is compared, as large as an endpoint serves.
        yield_to_follower: Awaited before each endpoint is asked.

    Raises:
        NoSecondEndpointError: All that answer served the logs, or only one other does where two must agree.
        RpcError: No other endpoint answers.
    """
    contracts = await coverage.contract_ids(conn, segment.addresses)
    part = segment._replace(last=min(segment.last, segment.first + MAX_BLOCKS - 1))
    sources = await provenance.serving_endpoints(conn, contracts, part.first, part.last)
    part = _same_servers(part, sources)
    check = CrossCheck(part, sorted({s.endpoint for s in sources if s.first <= part.first <= s.last}))
    last_error: RpcError | None = None
    for reader in pool.ordered():
        if reader.name in check.servers:
            continue
        await yield_to_follower()
        try:
            check.add(await _compare_readable(reader, conn, check.segment))
        except RpcError as error:
            last_error = error
        if check.confirmed or check.dispute is not None:
            return check
    if not check.failures:
        raise last_error or NoSecondEndpointError
    return check


def _same_servers(segment: ContractRange, sources: Sequence[ServedRange]) -> ContractRange:
    """Return the first part of a range that the same endpoints served: every other endpoint can be asked about it."""
    edges = [edge for s in sources for edge in (s.first, s.last + 1) if segment.first < edge <= segment.last]
    return segment._replace(last=min(edges) - 1) if edges else segment


async def _compare_readable(reader: Reader, conn: Connection, part: ContractRange) -> Comparison | ProofFailure:
    """Compare the first part of a range that the reader answers readably; a failure if that is not even one block.

    One header or log that cannot be read must not keep all later blocks from being checked.
    """
    part = part._replace(last=min(part.last, part.first + reader.ranges.size - 1))
    while True:
        try:
            return await compare(reader, conn, part)
        except TransientRpcError as error:
            if not error.unreadable:
                raise
            if part.first == part.last:
                return ProofFailure(reader.name, part.first, "unreadable answer", error.message)
        part = part._replace(last=part.first + (part.last - part.first) // 2)


async def compare(reader: Reader, conn: Connection, rest: ContractRange) -> Comparison:
    """Compare the first part of a contract range, as large as the endpoint serves. Raises RpcError."""
    while True:
        last = min(rest.last, rest.first + reader.ranges.size - 1)
        stored = await load_stored(conn, rest._replace(last=last))
        try:
            logs, headers = await _read(reader, rest.first, last, rest.addresses, [r.number for r in stored.block_refs])
        except RangeTooLargeError as refusal:
            if rest.first == last:
                raise
            reader.ranges.refused(last - rest.first + 1, refusal.hint, results=refusal.results)
            continue
        reader.ranges.succeeded(last - rest.first + 1, len(logs))
        found = differences(stored.block_refs, stored.logs, headers, logs)
        return Comparison(stored, reader.name, logs, found)


async def load_stored(conn: Connection, segment: ContractRange) -> StoredRange:
    """Load the stored blocks and logs of a contract range. Logs whose block has no row have an empty block hash."""
    block_refs = await block_refs_between(conn, segment.first, segment.last)
    stored_logs = await raw_logs.read(conn, segment.first, segment.last, 10**9, strict=False)
    wanted = {address_bytes(a) for a in segment.addresses}
    return StoredRange(segment, block_refs, [g for g in stored_logs.logs if g.address in wanted])


async def _read(
    reader: Reader, first: int, last: int, addresses: Sequence[str], numbers: Sequence[int]
) -> tuple[list[Log], list[Header]]:
    logs, headers = await reader.logs_with_headers(first, last, addresses, numbers[:100])
    for start in range(100, len(numbers), 100):
        headers += await reader.headers(numbers[start : start + 100])
    return logs, headers


def ranges(segment: ContractRange, found: Sequence[LogDifference]) -> list[ContractRange]:
    """Return the parts of a contract range that differ: differences that lie close together share one part."""
    spans: list[list[int]] = []
    for number in sorted({d.block for d in found}):
        if spans and number - spans[-1][1] <= _FAR:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [ContractRange(low, high, segment.addresses) for low, high in spans]
