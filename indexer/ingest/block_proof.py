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
from typing import TypeVar

from indexer.chain.bloom import may_contain
from indexer.chain.types import Header, Log, address_bytes
from indexer.errors import RateLimitedError, RpcError
from indexer.ingest.proof_rules import ProofFailure, check_header, check_receipts
from indexer.rpc.reader import Reader
from indexer.rpc.receipts import BlockReceipts

HEADERS = 200  # Headers requested at once (blocks).
RECEIPTS = 10  # Receipts requested at once (blocks).

Q = TypeVar("Q")
A = TypeVar("A")
YieldToFollower = Callable[[], Awaitable[None]]  # Awaited before each request; waits while other work has priority.


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
    known = {b.number: (b, "") for b in blocks if b.receipts_root}
    for reader in readers:
        try:
            await _read_headers(reader, blocks, known, proofs)
            open_ = _open_after_blooms(known, addresses, proofs)
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
    proofs.logs.sort(key=lambda g: g.identity)
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
            failure = check_header(reader.name, lacking[number], sealed)
            if failure is not None:
                proofs.failures.append(failure)
            elif not isinstance(sealed, RpcError):
                known[number] = (sealed.header, reader.name)


def _open_after_blooms(
    known: Mapping[int, tuple[Header, str]], addresses: Sequence[str], proofs: BlockProofs
) -> list[Header]:  # fmt: skip
    """Add to `proofs` the blocks whose bloom filter lacks the contracts; return those that need receipts, ascending."""
    watched = [address_bytes(a) for a in addresses]
    for block, source in known.values():
        if not any(may_contain(block.logs_bloom, item) for item in watched):
            proofs.proven_by.setdefault(block.number, source)
    return [block for number, (block, _) in sorted(known.items()) if number not in proofs.proven_by]


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
