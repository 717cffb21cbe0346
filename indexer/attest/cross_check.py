"""Cross-check of stored logs with a second, independent endpoint. If the two disagree, headers and receipts decide."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.attest.attestor import Attester, AttestResult
from indexer.attest.compare import ComparedRange, compare, ranges
from indexer.attest.proof import ranges_without
from indexer.chain.batch import ServedRange
from indexer.chain.log_set import diff_logs
from indexer.chain.ranges import BlockRange, ContractRange
from indexer.db.connection import Connection
from indexer.errors import NoSecondEndpointError, RpcError, TransientRpcError
from indexer.ingest.proof_rules import ProofFailure
from indexer.rpc.reader import Reader
from indexer.store import coverage, provenance
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault

MAX_BLOCKS = 100_000  # More than any endpoint serves at once; it limits how many served ranges are read.


async def cross_check(attester: Attester, state: IndexState, segment: ContractRange) -> AttestResult:
    """Cross-check the first part of a contract range, as large as a second endpoint serves.

    If no serving endpoint is stored for the logs, two endpoints must agree with them. Raises what Attester.prove
    raises, and NoSecondEndpointError.
    """
    conn, agreed, last_error, mismatches = attester.conn, list[str](), None, list[ProofFailure]()
    unreadable = False  # Only the first block is known to be so; the rest is left to the next step.
    contracts = await coverage.contract_ids(conn, segment.addresses)
    part = segment._replace(last=min(segment.last, segment.first + MAX_BLOCKS - 1))
    sources = await provenance.serving_endpoints(conn, contracts, part.first, part.last)
    part = _same_servers(part, sources)
    servers = sorted({s.endpoint for s in sources if s.first <= part.first <= s.last})
    for reader in attester.pool.ordered():
        if reader.name in servers:
            continue
        await attester.yield_to_follower()
        try:
            compared = await _compare(reader, conn, part)
        except RpcError as error:
            last_error = error
            continue
        if isinstance(compared, ProofFailure):
            mismatches.append(compared)
            unreadable = True
            continue
        part = compared.segment
        other = next((d for d in compared.differences if d.what == "hash"), None)
        if other is not None:
            detail = f"block {other.block} is stored with another hash; `reya-indexer reorg verify` compares them"
            mismatches.append(ProofFailure(reader.name, other.block, "chain", detail))
            continue
        if compared.differences:
            return await _settle_dispute(attester, state, segment, compared, servers)
        agreed.append(reader.name)
        if servers or len(agreed) > 1:
            result = AttestResult(part.first, part.last, proved={*agreed})
            await _record(attester, state, compared, [BlockRange(part.first, part.last)], [*servers, *agreed], result)
            return result
    if mismatches:
        await attester.record_failures(mismatches)
        last = part.first if unreadable else part.last
        return AttestResult(part.first, last, unproven=[BlockRange(part.first, last)], reasons=mismatches)
    if last_error is not None:
        raise last_error
    raise NoSecondEndpointError


async def _compare(reader: Reader, conn: Connection, part: ContractRange) -> ComparedRange | ProofFailure:
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


def _same_servers(segment: ContractRange, sources: Sequence[ServedRange]) -> ContractRange:
    """Return the first part of a range that the same endpoints served: every other endpoint can be asked about it."""
    edges = [edge for s in sources for edge in (s.first, s.last + 1) if segment.first < edge <= segment.last]
    return segment._replace(last=min(edges) - 1) if edges else segment


async def _record(
    attester: Attester, state: IndexState, compared: ComparedRange, spans: Sequence[BlockRange],
    endpoints: Sequence[str], result: AttestResult,
) -> None:  # fmt: skip
    hashes = {r.number: r.hash for r in compared.stored.block_refs}
    await attester.record_attestation(
        state, compared.segment, spans, "cross-checked", compared.stored, hashes, endpoints, result
    )


async def _settle_dispute(
    attester: Attester, state: IndexState, segment: ContractRange, compared: ComparedRange, servers: Sequence[str]
) -> AttestResult:  # fmt: skip
    """Prove each disputed run and blame the endpoint that is wrong; attest the rest, on which both agree."""
    result = AttestResult(compared.segment.first, compared.segment.last)
    for part in ranges(compared.segment, compared.differences):
        at = part.first
        while at <= part.last and not result.healed:
            proven = await attester.prove(state, segment._replace(first=at))
            if proven is None:
                break
            result.add(proven)
            at = proven.last + 1
    if result.healed:
        return result  # The rest is checked again: a heal starts a new epoch, and `state` is of the old one.
    await _blame_asked(attester, compared, result)
    disputed = {d.block for d in compared.differences}
    settled = {n for n in disputed if any(s.first <= n <= s.last for s in result.attested)}
    settled |= {d.block for d in result.differences}
    open_ = sorted(disputed - settled)
    if open_:
        detail = f"{compared.endpoint} has other logs than stored in block {open_[0]}, and no receipts decide"
        await attester.incident("endpoints_disagree", compared.endpoint, detail, open_)
        result.unproven += [BlockRange(number, number) for number in open_]
        result.reasons.append(ProofFailure(compared.endpoint, open_[0], "disagrees", detail))
    spans = [BlockRange(run.first, run.last) for run in ranges_without(compared.segment, disputed)]
    await _record(attester, state, compared, spans, [*servers, compared.endpoint], result)
    return result


async def _blame_asked(attester: Attester, compared: ComparedRange, result: AttestResult) -> None:
    """Blame the endpoint that was asked, for blocks whose stored logs are proven."""
    faults = [
        EndpointFault(compared.endpoint, "asked", *fault, "the stored logs")
        for fault in diff_logs(compared.read, compared.stored.logs)
        if any(span.first <= fault.block <= span.last for span in result.attested)
    ]
    if faults:
        async with attester.conn.transaction():
            await provenance.record_faults(attester.conn, faults)
        result.blamed += faults
