"""A second, independent endpoint is asked for the same logs. Where the two disagree, headers and receipts decide."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.attest.attestor import Attester, AttestResult
from indexer.attest.compare import ComparedRange, compare, ranges
from indexer.attest.log_set import diff_logs
from indexer.attest.proof import ProofFailure, ranges_without
from indexer.chain.batch import ServedRange
from indexer.chain.ranges import BlockRange, ContractRange
from indexer.errors import NoSecondEndpointError, RpcError
from indexer.store import coverage, provenance
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault

MAX_BLOCKS = 100_000  # more than any endpoint serves at once: what is read of who served them stays small


async def cross_check(attestor: Attester, state: IndexState, segment: ContractRange) -> AttestResult:
    """The first part of a segment, as large as a second endpoint serves.

    Where it is not stored who served the logs, two endpoints must agree with them. Raises as Attestor.prove does;
    NoSecondEndpointError.
    """
    conn, agreed, trouble, strange = attestor.conn, list[str](), None, list[ProofFailure]()
    contracts = sorted((await coverage.contract_ids(conn, segment.addresses)).values())
    part = segment._replace(last=min(segment.last, segment.first + MAX_BLOCKS - 1))
    sources = await provenance.serving_endpoints(conn, contracts, part.first, part.last)
    part = _of_one_kind(part, sources)
    servers = sorted({s.endpoint for s in sources if s.first <= part.first <= s.last})
    for reader in attestor.pool.ordered():
        if reader.name in servers:
            continue
        await attestor.yield_to_follower()
        try:
            seen = await compare(reader, conn, part)
        except RpcError as error:
            trouble = error
            continue
        part = seen.segment
        other = next((d for d in seen.differences if d.what == "hash"), None)
        if other is not None:
            detail = f"block {other.block} is stored with another hash; `reya-indexer reorg verify` compares them"
            strange.append(ProofFailure(reader.name, other.block, "chain", detail))
            continue
        if seen.differences:
            return await _disputed(attestor, state, segment, seen, servers)
        agreed.append(reader.name)
        if servers or len(agreed) > 1:
            result = AttestResult(part.first, part.last)
            await _keep(attestor, state, seen, [BlockRange(part.first, part.last)], [*servers, *agreed], result)
            return result
    if strange:
        await attestor.record_failures(strange)
        return AttestResult(part.first, part.last, unproven=[BlockRange(part.first, part.last)], reasons=strange)
    if trouble is not None:
        raise trouble
    raise NoSecondEndpointError


def _of_one_kind(segment: ContractRange, sources: Sequence[ServedRange]) -> ContractRange:
    """The first part of a segment that the same endpoints served: each can be asked about what another one did."""
    edges = [edge for s in sources for edge in (s.first, s.last + 1) if segment.first < edge <= segment.last]
    return segment._replace(last=min(edges) - 1) if edges else segment


async def _keep(
    attestor: Attester, state: IndexState, seen: ComparedRange, spans: Sequence[BlockRange],
    endpoints: Sequence[str],
    result: AttestResult,
) -> None:  # fmt: skip
    hashes = {a.number: a.hash for a in seen.stored.anchors}
    await attestor.record_attestation(
        state, seen.segment, spans, "cross-checked", seen.stored, hashes, endpoints, result
    )


async def _disputed(
    attestor: Attester, state: IndexState, segment: ContractRange, seen: ComparedRange, servers: Sequence[str]
) -> AttestResult:  # fmt: skip
    """Each disputed run is proven, and the endpoint blamed that is wrong; the rest is attested as agreed upon."""
    result = AttestResult(seen.segment.first, seen.segment.last)
    for part in ranges(seen.segment, seen.differences):
        at = part.first
        while at <= part.last and not result.healed:
            found = await attestor.prove(state, segment._replace(first=at))
            if found is None:
                break
            result.add(found)
            at = found.last + 1
    if result.healed:
        return result  # the rest is looked at again: what was planned is of another epoch now
    await _blame_asked(attestor, seen, result)
    disputed = {d.block for d in seen.differences}
    settled = {n for n in disputed if any(s.first <= n <= s.last for s in result.attested)}
    settled |= {d.block for d in result.differences}
    open_ = sorted(disputed - settled)
    if open_:
        detail = f"{seen.endpoint} has other logs than stored in block {open_[0]}, and no receipts decide"
        await attestor.incident("endpoints_disagree", seen.endpoint, detail, open_)
        result.unproven += [BlockRange(number, number) for number in open_]
        result.reasons.append(ProofFailure(seen.endpoint, open_[0], "disagrees", detail))
    spans = [BlockRange(run.first, run.last) for run in ranges_without(seen.segment, disputed)]
    await _keep(attestor, state, seen, spans, [*servers, seen.endpoint], result)
    return result


async def _blame_asked(attestor: Attester, seen: ComparedRange, result: AttestResult) -> None:
    """Where the stored logs are proven, the endpoint that was asked is wrong."""
    blames = [
        EndpointFault(seen.endpoint, "asked", *fault, "the stored logs")
        for fault in diff_logs(seen.read, seen.stored.logs)
        if any(span.first <= fault.block <= span.last for span in result.attested)
    ]
    if blames:
        async with attestor.conn.transaction():
            await provenance.record_faults(attestor.conn, blames)
        result.blamed += blames
