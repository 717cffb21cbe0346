"""Proving the logs of a range from consensus data: what an endpoint serves is believed as far as it hashes to the
stored chain.

Every header is hashed from its fields and chained to a stored block. A bloom without the contracts then proves that a
block has no log of theirs; where it has them, all receipts of the block must have the root that the header names. The
hash of a transaction is not in its receipt: where it alone differs nothing is proven, and nothing healed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from indexer.attest.compare import StoredRange, load_stored
from indexer.chain.bloom import may_contain
from indexer.chain.ranges import ContractRange
from indexer.chain.receipts_root import receipts_root
from indexer.chain.types import Log
from indexer.db.connection import Connection
from indexer.errors import InconsistentResponseError, RateLimitedError, RpcCallError, RpcError, TransientRpcError
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import BlockReceipts, SealedHeader
from indexer.store.index_state import stored_hash

HEADERS = 200  # blocks whose headers are asked for at once
RECEIPTS = 10  # blocks whose receipts are
_NO_METHOD = -32601

YieldToFollower = Callable[[], Awaitable[None]]  # before each request: waits while others come first


class ProofFailure(NamedTuple):
    """Why block `block` is not proven by what `endpoint` serves: `why` is one of a few, `detail` a sentence."""

    endpoint: str
    block: int
    why: str
    detail: str


@dataclass(slots=True)
class Proof:
    """Of a segment: its headers, ascending, and the contracts' logs of all blocks but those `unproven`.

    `headers` is empty when no endpoint's are those of the stored chain: then every block is unproven.
    """

    segment: ContractRange
    stored: StoredRange
    headers: list[SealedHeader] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    unproven: set[int] = field(default_factory=set)
    complaints: list[ProofFailure] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    by: dict[int, str] = field(default_factory=dict)  # whose receipts proved a block; the others' headers did

    def proven(self) -> list[ContractRange]:
        """The runs of blocks that are proven."""
        return ranges_without(self.segment, self.unproven)


def ranges_without(segment: ContractRange, without: Iterable[int]) -> list[ContractRange]:
    """The parts of a segment between these blocks."""
    edges = [segment.first - 1, *sorted(n for n in without if segment.first <= n <= segment.last), segment.last + 1]
    return [ContractRange(a + 1, b - 1, segment.addresses) for a, b in pairwise(edges) if a + 1 < b]


async def prove(readers: Sequence[Reader], conn: Connection, segment: ContractRange, breathe: YieldToFollower) -> Proof:
    """`segment` ends at a stored block. Asks the readers in turn, the next one only for what the one before could not
    prove. Raises RpcError when none answers."""
    proof = Proof(segment, await load_stored(conn, segment))
    await _read_headers(readers, conn, proof, breathe)
    if not proof.headers:
        proof.unproven = set(range(segment.first, segment.last + 1))
        return proof
    wanted = [bytes.fromhex(a[2:]) for a in segment.addresses]
    positive = [s for s in proof.headers if any(may_contain(s.header.logs_bloom, item) for item in wanted)]
    await _read_receipts(readers, proof, positive, breathe)
    proof.logs.sort(key=lambda g: (g.block_number, g.log_index))
    return proof


async def _read_headers(readers: Sequence[Reader], conn: Connection, proof: Proof, breathe: YieldToFollower) -> None:
    segment, trouble = proof.segment, None
    below = await stored_hash(conn, segment.first - 1)
    known = {a.number: a.hash for a in proof.stored.anchors}
    for reader in readers:
        found: list[SealedHeader] = []
        complaint, before = None, below
        try:
            while complaint is None and len(found) <= segment.last - segment.first:
                at = segment.first + len(found)
                await breathe()
                more = await reader.sealed_headers(range(at, min(at + HEADERS, segment.last + 1)))
                complaint, before = _chained(reader.name, more, before, known), more[-1].header.hash
                found += more
        except RpcError as error:
            trouble = error
            continue
        if complaint is None:
            proof.headers = found
            proof.endpoints.append(reader.name)
            return
        proof.complaints.append(complaint)
    if trouble is not None and not proof.complaints:
        raise trouble


def _chained(
    endpoint: str, found: Sequence[SealedHeader], before: bytes | None, known: Mapping[int, bytes]
) -> ProofFailure | None:  # fmt: skip
    """What is wrong with headers that should be those of the stored chain, and follow a block of hash `before`."""
    for one in found:
        number, hash_ = one.header.number, one.header.hash
        if one.computed != hash_:
            detail = f"the fields of header {number} do not have its hash, 0x{hash_.hex()}"
            return ProofFailure(endpoint, number, "header", detail)
        if before is not None and one.header.parent_hash != before:
            return ProofFailure(endpoint, number, "chain", f"block {number} does not follow block {number - 1}")
        if known.get(number, hash_) != hash_:
            return ProofFailure(endpoint, number, "chain", f"block {number} is stored with another hash")
        before = hash_
    return None


async def _read_receipts(
    readers: Sequence[Reader], proof: Proof, positive: Sequence[SealedHeader], breathe: YieldToFollower
) -> None:  # fmt: skip
    ours: dict[int, list[Log]] = defaultdict(list)
    for log in proof.stored.logs:
        ours[log.block_number].append(log)
    left, trouble = list(positive), None
    # Who served the headers is asked first: mostly it has the receipts too.
    for reader in sorted(readers, key=lambda r: r.name != proof.endpoints[0]):
        asking, left = left, []
        for at in range(0, len(asking), RECEIPTS):
            part = asking[at : at + RECEIPTS]
            try:
                answers = await _receipts(reader, part, proof.segment.addresses, breathe)
            except TransientRpcError as error:
                trouble = error
                left += asking[at:]
                break
            for block, answer in zip(part, answers, strict=True):
                complaint = _check_receipts(reader.name, block, answer, ours[block.header.number])
                await asyncio.sleep(0)
                if complaint is not None:
                    left.append(block)
                    proof.complaints.append(complaint)
                elif not isinstance(answer, RpcError):
                    proof.logs += answer.logs
                    proof.by[block.header.number] = reader.name
                    if reader.name not in proof.endpoints:
                        proof.endpoints.append(reader.name)
        if not left:
            return
    if trouble is not None and not proof.complaints:
        raise trouble
    proof.unproven = {block.header.number for block in left}


async def _receipts(
    reader: Reader, blocks: Sequence[SealedHeader], addresses: Sequence[str], breathe: YieldToFollower
) -> list[BlockReceipts | RpcError]:  # fmt: skip
    """Of each block; its error where it has none. Raises TransientRpcError when the endpoint is not to be had."""
    await breathe()
    try:
        return list(await reader.block_receipts([b.header for b in blocks], addresses))
    except RpcError as error:
        if isinstance(error, RateLimitedError) or (
            isinstance(error, TransientRpcError) and not isinstance(error, InconsistentResponseError)
        ):
            raise
        if len(blocks) == 1 or (isinstance(error, RpcCallError) and error.code == _NO_METHOD):
            return [error] * len(blocks)
    # One of them is refused, too large or not there: which, only single questions tell.
    return [one for block in blocks for one in await _receipts(reader, [block], addresses, breathe)]


def _check_receipts(
    endpoint: str, block: SealedHeader, read: BlockReceipts | RpcError, ours: Sequence[Log]
) -> ProofFailure | None:
    """None: the receipts prove the logs."""
    number = block.header.number
    if isinstance(read, RpcError):
        return ProofFailure(endpoint, number, "no receipts", read.message)
    if receipts_root(read.receipts) != block.receipts_root:
        same = [g[:7] for g in read.logs] == [g[:7] for g in ours]
        detail = f"the receipts of block {number} have another root than its header, their logs are "
        return ProofFailure(endpoint, number, "root", detail + ("the stored ones" if same else "not the stored ones"))
    if not read.in_place:
        return ProofFailure(endpoint, number, "log index", f"log indexes of block {number} are not the logs' positions")
    same = [_proven_part(log) for log in read.logs] == [_proven_part(log) for log in ours]
    if same and [log.transaction_hash for log in read.logs] != [log.transaction_hash for log in ours]:
        detail = f"a transaction of block {number} has another hash than stored, which no receipt proves"
        return ProofFailure(endpoint, number, "transaction hash", detail)
    return None


def _proven_part(log: Log) -> Log:
    """A log without what its receipt does not prove."""
    return log._replace(transaction_hash=b"", block_hash=b"", block_timestamp=None)
