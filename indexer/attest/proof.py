"""Proof of the logs of a contract range from consensus data: answers count only if they hash to the stored chain.

Every header is hashed from its fields and chained to a stored block. A bloom filter without the contracts then proves
that a block has none of their logs; if the filter contains them, all receipts of the block must have the root that the
header names. A receipt does not contain its transaction's hash: if only that differs, nothing is proven and nothing is
healed.

A header or receipt that is missing, unreadable or wrong costs its own block the proof, never the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from indexer.attest.compare import load_stored
from indexer.attest.evidence import Proof
from indexer.attest.header_chain import HeaderChain
from indexer.chain.bloom import may_contain
from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header, Log, address_bytes
from indexer.db.connection import Connection
from indexer.errors import MissingBlockError, RpcError
from indexer.ingest.block_proof import (
    HEADERS,
    BlockProofs,
    YieldToFollower,
    ask_each,
    prove_by_receipts,
)
from indexer.ingest.proof_rules import ProofFailure, hashes_to_itself
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import SealedHeader
from indexer.store import head_proofs
from indexer.store.index_state import stored_hash

PIECE = 500  # Blocks proven at once: this bounds memory, and the work lost to an interruption.


async def prove_piece(
    readers: Sequence[Reader], conn: Connection, segment: ContractRange, yield_to_follower: YieldToFollower, *,
    again: bool = False,
) -> Proof | None:  # fmt: skip
    """Prove the first piece of a contract range; None when no stored block is left in it to chain headers to.

    Args:
        readers: The endpoints to ask, the preferred one first.
        conn: A connection to read the stored blocks and logs with.
        segment: The contract range.
        yield_to_follower: Awaited before each request.
        again: Whether to ask about blocks, too, that were proven before they were final.

    Raises:
        RpcError: No endpoint answers.
    """
    piece = min(segment.last, segment.first + PIECE - 1)
    known = None if again else await head_proofs.first_run(conn, segment.first, piece, segment.addresses)
    if known is not None and known[0].first == segment.first:
        stored = await load_stored(conn, segment._replace(last=known[0].last))
        return Proof(stored, logs=stored.logs, endpoints=known[1])
    end = await _piece_end(conn, segment if known is None else segment._replace(last=known[0].first - 1))
    if end is None and known is not None:
        end = known[0].first  # No header of the gap is stored: this one is, and they are chained to it.
    return None if end is None else await prove(readers, conn, segment._replace(last=end), yield_to_follower)


async def _piece_end(conn: Connection, segment: ContractRange) -> int | None:
    """Return the highest stored block of the first piece, or else the next stored one above it."""
    number: int | None = await conn.fetchval(
        "SELECT COALESCE((SELECT max(number) FROM indexer.block WHERE number BETWEEN $1 AND $2),"
        " (SELECT min(number) FROM indexer.block WHERE number BETWEEN $1 AND $3))",
        segment.first,
        min(segment.last, segment.first + PIECE - 1),
        segment.last,
    )
    return number


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
    proof = Proof(await load_stored(conn, segment))
    await _read_headers(readers, conn, proof, yield_to_follower)
    if not proof.headers:
        return proof
    wanted = [address_bytes(a) for a in segment.addresses]
    positive = [h for h in proof.headers if any(may_contain(h.logs_bloom, item) for item in wanted)]
    await _read_receipts(readers, proof, positive, yield_to_follower)
    proof.logs.sort(key=lambda g: g.identity)
    return proof


async def _read_headers(
    readers: Sequence[Reader], conn: Connection, proof: Proof, yield_to_follower: YieldToFollower
) -> None:
    """Fill in the headers that chain to the stored blocks, each from the first endpoint that gives it."""
    segment, last_error = proof.segment, None
    known, below = proof.stored.hashes, await stored_hash(conn, segment.first - 1)
    chain = HeaderChain(segment.first, segment.last, known if below is None else known | {segment.first - 1: below})
    absent: list[ProofFailure] = []
    for reader in readers:
        lacking = chain.lacking()
        if not lacking:
            break
        try:
            answers = await _headers_of(reader, lacking, yield_to_follower)
        except RpcError as error:
            last_error = error
            continue
        failures = chain.add(reader.name, answers)
        absent += [f for f in failures if isinstance(answers.get(f.block), MissingBlockError)]
        proof.failures += [f for f in failures if f not in absent]
    proof.headers, proof.endpoints = [s.header for s in chain.proven()], chain.servers()
    proof.unproven = set(chain.lacking())
    # A node that merely lags behind the others has no fault to be recorded.
    proof.failures += [failure for failure in absent if failure.block in proof.unproven]
    if last_error is not None and proof.unproven and not proof.failures:
        raise last_error


async def _headers_of(
    reader: Reader, numbers: Sequence[int], yield_to_follower: YieldToFollower
) -> dict[int, SealedHeader | RpcError]:
    """Return an endpoint's headers by number, or their errors; where a whole part proves nothing, the rest is left."""
    found: dict[int, SealedHeader | RpcError] = {}
    for at in range(0, len(numbers), HEADERS):
        part = numbers[at : at + HEADERS]
        answers = await ask_each(reader, part, reader.sealed_headers, yield_to_follower)
        found |= zip(part, answers, strict=True)
        if not any(hashes_to_itself(answer) for answer in answers):
            break
    return found


async def _read_receipts(
    readers: Sequence[Reader], proof: Proof, positive: Sequence[Header], yield_to_follower: YieldToFollower
) -> None:  # fmt: skip
    """Prove the blocks whose bloom filter contains a contract, by their receipts."""
    stored: dict[int, list[Log]] = defaultdict(list)
    for log in proof.stored.logs:
        stored[log.block_number].append(log)
    remaining, found, last_error = list(positive), BlockProofs(), None
    # The endpoint that served the headers is asked first: it usually has the receipts too.
    for reader in sorted(readers, key=lambda r: r.name != proof.endpoints[0]):
        if not remaining:
            break
        try:
            await prove_by_receipts(reader, remaining, stored, proof.segment.addresses, found, yield_to_follower)
        except RpcError as error:
            last_error = error
        remaining = [block for block in remaining if block.number not in found.proven_by]
    proof.logs, proof.prover_by_block = found.logs, found.proven_by
    proof.failures += found.failures
    proof.endpoints = list(dict.fromkeys([*proof.endpoints, *found.proven_by.values()]))
    unproven = {block.number for block in remaining}
    if last_error is not None and unproven - {failure.block for failure in proof.failures}:
        raise last_error
    proof.unproven |= unproven
