"""Proof of the logs of single blocks from consensus data: the header's hash, its bloom filter, its receipts root.

A header whose fields have its hash is what consensus says. If its bloom filter lacks the watched contracts, the block
has none of their logs; if it has them, the block's receipts must have the root that the header names. It does not
matter who serves the receipts, since no endpoint can make up others with that root. A receipt does not contain its
transaction's hash: if only that differs, nothing is proven.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from indexer.chain.bloom import may_contain
from indexer.chain.receipts_root import receipts_root
from indexer.chain.types import Header, Log, address_bytes
from indexer.errors import InconsistentResponseError, MissingBlockError, RateLimitedError, RpcError, TransientRpcError
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import BlockReceipts, SealedHeader

HEADERS = 200  # Headers requested at once (blocks).
RECEIPTS = 10  # Receipts requested at once (blocks).

Q = TypeVar("Q")
A = TypeVar("A")
YieldToFollower = Callable[[], Awaitable[None]]  # Awaited before each request; waits while other work has priority.


class ProofFailure(NamedTuple):
    """Why the answers of `endpoint` do not prove block `block`: `why` is one of a few names, `detail` a sentence."""

    endpoint: str
    block: int
    why: str
    detail: str


@dataclass(slots=True)
class BlockProofs:
    """The proofs of some blocks.

    `proven_by`: who proved a block, by number; for a block that its header alone proves, the endpoint that served that
    header, or "" if it was known before. `logs`: the true logs of the proven blocks, in chain order. `failures`: why
    endpoints could not prove a block; another one may have proven it.
    """

    proven_by: dict[int, str] = field(default_factory=dict)
    logs: list[Log] = field(default_factory=list)
    failures: list[ProofFailure] = field(default_factory=list)


def hashes_to_itself(answer: SealedHeader | RpcError) -> bool:
    """Return whether an answer is a header whose fields have its hash."""
    return not isinstance(answer, RpcError) and answer.computed == answer.header.hash


async def no_wait() -> None:
    """Wait for nothing: a YieldToFollower for work that has no other before it."""


async def prove_blocks(
    readers: Sequence[Reader], blocks: Sequence[Header], logs: Iterable[Log], addresses: Sequence[str]
) -> BlockProofs:  # fmt: skip
    """Prove the logs of blocks, asking the readers in turn, each only for what the ones before left open.

    A block with a receipts root needs no header; one without logs of the watched contracts then costs no request.

    Args:
        readers: The endpoints to ask, the preferred one first.
        blocks: The blocks, by number and hash, ascending.
        logs: What is believed so far to be their logs of the watched contracts, in chain order.
        addresses: The watched contracts (lower-case 0x).

    Raises:
        RpcError: No endpoint answered.
    """
    proofs, last_error, silent = BlockProofs(), None, list[ProofFailure]()
    believed: dict[int, list[Log]] = defaultdict(list)
    for log in logs:
        believed[log.block_number].append(log)
    watched = [address_bytes(a) for a in addresses]
    known = {b.number: (b, "") for b in blocks if b.receipts_root}
    for reader in readers:
        try:
            await _read_headers(reader, blocks, known, proofs)
            for block, source in known.values():
                if not any(may_contain(block.logs_bloom, item) for item in watched):
                    proofs.proven_by.setdefault(block.number, source)
            open_ = [block for number, (block, _) in sorted(known.items()) if number not in proofs.proven_by]
            await prove_by_receipts(reader, open_, believed, addresses, proofs, no_wait)
        except RpcError as error:
            last_error = error
            silent += [
                ProofFailure(reader.name, b.number, "no answer", f"block {b.number}: {error.words}")
                for b in blocks
                if b.number not in proofs.proven_by
            ]
        if len(proofs.proven_by) == len(blocks):
            break
    if last_error is not None and not proofs.proven_by and not proofs.failures:
        raise last_error
    proofs.failures += [f for f in silent if f.block not in proofs.proven_by]
    proofs.logs.sort(key=lambda g: g[:2])
    return proofs


async def _read_headers(
    reader: Reader, blocks: Sequence[Header], known: dict[int, tuple[Header, str]], proofs: BlockProofs
) -> None:
    """Add to `known` the headers that are lacking, if their fields have the hashes of the blocks."""
    lacking = {b.number: b for b in blocks if b.number not in known}
    numbers = list(lacking)
    for at in range(0, len(numbers), HEADERS):
        part = numbers[at : at + HEADERS]
        for number, sealed in zip(part, await ask_each(reader, part, reader.sealed_headers, no_wait), strict=True):
            failure = _check_header(reader.name, lacking[number], sealed)
            if failure is not None:
                proofs.failures.append(failure)
            elif not isinstance(sealed, RpcError):
                known[number] = (sealed.header, reader.name)


def _check_header(endpoint: str, block: Header, sealed: SealedHeader | RpcError) -> ProofFailure | None:
    if not isinstance(sealed, RpcError) and sealed.header.hash != block.hash:
        return ProofFailure(endpoint, block.number, "chain", f"block {block.number} is stored with another hash")
    return header_failure(endpoint, block.number, sealed)


def header_failure(endpoint: str, number: int, answer: SealedHeader | RpcError) -> ProofFailure | None:
    """Return why an answer does not prove itself a header of block `number`; None if its fields have its hash."""
    if isinstance(answer, RpcError):
        why = "no header" if isinstance(answer, MissingBlockError) else "unreadable header"
        return ProofFailure(endpoint, number, why, f"header {number}: {answer.words}")
    if not hashes_to_itself(answer):
        detail = f"the fields of header {number} do not have its hash, 0x{answer.header.hash.hex()}"
        return ProofFailure(endpoint, number, "header", detail)
    return None


async def prove_by_receipts(
    reader: Reader, blocks: Sequence[Header], believed: Mapping[int, Sequence[Log]], addresses: Sequence[str],
    proofs: BlockProofs, yield_to_follower: YieldToFollower,
) -> None:  # fmt: skip
    """Add to `proofs` what one endpoint's receipts prove, and why they do not prove the others.

    Args:
        reader: The endpoint.
        blocks: The blocks, with their receipts roots, ascending.
        believed: What is believed so far to be their logs of the contracts, by block; a block without any may lack.
        addresses: The contracts (lower-case 0x).
        proofs: The proofs; what is proven before an error stays in them.
        yield_to_follower: Awaited before each request.

    Raises:
        RpcError: The endpoint does not answer.
    """
    for at in range(0, len(blocks), RECEIPTS):
        part = blocks[at : at + RECEIPTS]
        answers = await read_receipts(reader, part, addresses, yield_to_follower)
        for block, answer in zip(part, answers, strict=True):
            failure = check_receipts(reader.name, block, answer, believed.get(block.number, ()))
            await asyncio.sleep(0)  # Hashing takes milliseconds, and the head must not wait for it.
            if failure is not None:
                proofs.failures.append(failure)
            elif not isinstance(answer, RpcError):
                proofs.logs += answer.logs
                proofs.proven_by[block.number] = reader.name


async def ask_each(
    reader: Reader, items: Sequence[Q], ask: Callable[[Sequence[Q]], Awaitable[Sequence[A | RpcError]]],
    yield_to_follower: YieldToFollower,
) -> list[A | RpcError]:  # fmt: skip
    """Return the answer, or the error, of each item; where several are refused together, halves of them are asked for.

    Args:
        reader: The endpoint.
        items: What to ask about.
        ask: Asks about some of the items in one request.
        yield_to_follower: Awaited before each request.

    Raises:
        RpcError: The endpoint fails, and not what is asked about: it does not answer anything else.
    """
    await yield_to_follower()
    try:
        return list(await ask(items))
    except RateLimitedError:
        raise
    except RpcError as error:
        if not await _answers(reader):
            raise
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    return [
        answer
        for half in (items[:middle], items[middle:])
        for answer in await ask_each(reader, half, ask, yield_to_follower)
    ]


async def _answers(reader: Reader) -> bool:
    """Return whether the endpoint answers a question that every node answers."""
    try:
        await reader.latest()
    except RpcError:
        return False
    return True


async def read_receipts(
    reader: Reader, blocks: Sequence[Header], addresses: Sequence[str], yield_to_follower: YieldToFollower
) -> list[BlockReceipts | RpcError]:  # fmt: skip
    """Return the receipts of each block, or the error.

    Args:
        reader: The endpoint.
        blocks: The blocks.
        addresses: The contracts whose logs are wanted (lower-case 0x).
        yield_to_follower: Awaited before each request.

    Raises:
        RpcError: The endpoint does not answer.
    """

    async def ask(part: Sequence[Header]) -> Sequence[BlockReceipts | RpcError]:
        return await reader.block_receipts(part, addresses)

    return await ask_each(reader, blocks, ask, yield_to_follower)


def check_receipts(
    endpoint: str, block: Header, read: BlockReceipts | RpcError, stored: Sequence[Log]
) -> ProofFailure | None:
    """Return why the receipts do not prove the logs of a block; None if they do.

    Args:
        endpoint: Who served the receipts.
        block: The block, with its receipts root.
        read: The receipts, or why there are none.
        stored: The logs that are believed so far.
    """
    number = block.number
    if isinstance(read, RpcError):
        unreadable = isinstance(read, TransientRpcError) and not isinstance(read, InconsistentResponseError)
        why = "unreadable receipts" if unreadable else "no receipts"
        return ProofFailure(endpoint, number, why, f"block {number}: {read.words}")
    if receipts_root(read.receipts) != block.receipts_root:
        same = [g[:7] for g in read.logs] == [g[:7] for g in stored]
        detail = f"the receipts of block {number} have another root than its header, their logs are "
        return ProofFailure(endpoint, number, "root", detail + ("the stored ones" if same else "not the stored ones"))
    if not read.in_place:
        return ProofFailure(endpoint, number, "log index", f"log indexes of block {number} are not the logs' positions")
    same = [_proven_part(log) for log in read.logs] == [_proven_part(log) for log in stored]
    if same and [log.transaction_hash for log in read.logs] != [log.transaction_hash for log in stored]:
        detail = f"a transaction of block {number} has another hash than stored, which no receipt proves"
        return ProofFailure(endpoint, number, "transaction hash", detail)
    return None


def _proven_part(log: Log) -> Log:
    """Return a log without the fields that its receipt does not prove."""
    return log._replace(transaction_hash=b"", block_hash=b"", block_timestamp=None)
