"""Proof of the logs of a contract range from consensus data: answers count only if they hash to the stored chain.

Every header is hashed from its fields and chained to a stored block. A bloom filter without the contracts then proves
that a block has none of their logs; if the filter contains them, all receipts of the block must have the root that the
header names. A receipt does not contain its transaction's hash: if only that differs, nothing is proven and nothing is
healed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from indexer.attest.compare import StoredRange, load_stored
from indexer.chain.bloom import may_contain
from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header, Log
from indexer.db.connection import Connection
from indexer.errors import RpcError, TransientRpcError
from indexer.ingest.block_proof import HEADERS, RECEIPTS, ProofFailure, YieldToFollower, check_receipts, read_receipts
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import SealedHeader
from indexer.store.index_state import stored_hash


@dataclass(slots=True)
class Proof:
    """The proof of a contract range: its headers, ascending, and the contracts' logs in all but the `unproven` blocks.

    `headers` is empty if no endpoint's headers match the stored chain; every block is then unproven.
    """

    segment: ContractRange
    stored: StoredRange
    headers: list[SealedHeader] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    unproven: set[int] = field(default_factory=set)
    failures: list[ProofFailure] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    # The endpoint whose receipts proved a block. All other blocks were proven by their headers.
    prover_by_block: dict[int, str] = field(default_factory=dict)

    def proven(self) -> list[ContractRange]:
        """Return the runs of proven blocks."""
        return ranges_without(self.segment, self.unproven)


def ranges_without(segment: ContractRange, without: Iterable[int]) -> list[ContractRange]:
    """Return the parts of a contract range between the blocks `without`, which are left out."""
    edges = [segment.first - 1, *sorted(n for n in without if segment.first <= n <= segment.last), segment.last + 1]
    return [ContractRange(a + 1, b - 1, segment.addresses) for a, b in pairwise(edges) if a + 1 < b]


async def prove(
    readers: Sequence[Reader], conn: Connection, segment: ContractRange, yield_to_follower: YieldToFollower
) -> Proof:
    """Prove the logs of a contract range by asking the readers in turn, each only for what the one before left open.

    Args:
        readers: The endpoints to ask, the preferred one first.
        conn: A connection to read the stored blocks and logs with.
        segment: The contract range; its last block must be a stored one.
        yield_to_follower: Awaited before each request.

    Raises:
        RpcError: No endpoint answers.
    """
    proof = Proof(segment, await load_stored(conn, segment))
    await _read_headers(readers, conn, proof, yield_to_follower)
    if not proof.headers:
        proof.unproven = set(range(segment.first, segment.last + 1))
        return proof
    wanted = [bytes.fromhex(a[2:]) for a in segment.addresses]
    positive = [s.header for s in proof.headers if any(may_contain(s.header.logs_bloom, item) for item in wanted)]
    await _read_receipts(readers, proof, positive, yield_to_follower)
    proof.logs.sort(key=lambda g: (g.block_number, g.log_index))
    return proof


async def _read_headers(
    readers: Sequence[Reader], conn: Connection, proof: Proof, yield_to_follower: YieldToFollower
) -> None:
    """Fill in the headers of the first endpoint whose headers chain to the stored blocks."""
    segment, last_error = proof.segment, None
    below = await stored_hash(conn, segment.first - 1)
    known = {r.number: r.hash for r in proof.stored.block_refs}
    for reader in readers:
        headers: list[SealedHeader] = []
        failure, before = None, below
        try:
            while failure is None and len(headers) <= segment.last - segment.first:
                at = segment.first + len(headers)
                await yield_to_follower()
                more = await reader.sealed_headers(range(at, min(at + HEADERS, segment.last + 1)))
                failure, before = _check_chain(reader.name, more, before, known), more[-1].header.hash
                headers += more
        except RpcError as error:
            last_error = error
            continue
        if failure is None:
            proof.headers = headers
            proof.endpoints.append(reader.name)
            return
        proof.failures.append(failure)
    if last_error is not None and not proof.failures:
        raise last_error


def _check_chain(
    endpoint: str, headers: Sequence[SealedHeader], before: bytes | None, known: Mapping[int, bytes]
) -> ProofFailure | None:  # fmt: skip
    """Return why headers are not those of the stored chain after a block with hash `before`; None if they are."""
    for sealed in headers:
        number, hash_ = sealed.header.number, sealed.header.hash
        if sealed.computed != hash_:
            detail = f"the fields of header {number} do not have its hash, 0x{hash_.hex()}"
            return ProofFailure(endpoint, number, "header", detail)
        if before is not None and sealed.header.parent_hash != before:
            return ProofFailure(endpoint, number, "chain", f"block {number} does not follow block {number - 1}")
        if known.get(number, hash_) != hash_:
            return ProofFailure(endpoint, number, "chain", f"block {number} is stored with another hash")
        before = hash_
    return None


async def _read_receipts(
    readers: Sequence[Reader], proof: Proof, positive: Sequence[Header], yield_to_follower: YieldToFollower
) -> None:  # fmt: skip
    """Prove the blocks whose bloom filter contains a contract, by their receipts."""
    stored: dict[int, list[Log]] = defaultdict(list)
    for log in proof.stored.logs:
        stored[log.block_number].append(log)
    remaining, last_error = list(positive), None
    # The endpoint that served the headers is asked first: it usually has the receipts too.
    for reader in sorted(readers, key=lambda r: r.name != proof.endpoints[0]):
        asking, remaining = remaining, []
        for at in range(0, len(asking), RECEIPTS):
            part = asking[at : at + RECEIPTS]
            try:
                answers = await read_receipts(reader, part, proof.segment.addresses, yield_to_follower)
            except TransientRpcError as error:
                last_error = error
                remaining += asking[at:]
                break
            for block, answer in zip(part, answers, strict=True):
                failure = check_receipts(reader.name, block, answer, stored[block.number])
                await asyncio.sleep(0)
                if failure is not None:
                    remaining.append(block)
                    proof.failures.append(failure)
                elif not isinstance(answer, RpcError):
                    proof.logs += answer.logs
                    proof.prover_by_block[block.number] = reader.name
                    if reader.name not in proof.endpoints:
                        proof.endpoints.append(reader.name)
        if not remaining:
            return
    if last_error is not None and not proof.failures:
        raise last_error
    proof.unproven = {block.number for block in remaining}
