"""Fetching a log batch from one endpoint.

A single block over the endpoint's limits is assembled from parts; a range over them is not, but requested in smaller
ranges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType

import structlog

from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.finality import NOTHING_FINAL, FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header, Log, address_bytes
from indexer.decode.block_times import TimeFields
from indexer.errors import (
    InconsistentResponseError,
    MissingBlockError,
    NotFinalError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
)
from indexer.ingest.confirm import blocks_with_unmet_bloom, confirm_final_range, confirm_head_range
from indexer.ingest.confirmed_times import confirmed_times
from indexer.rpc.reader import Reader

log = structlog.get_logger()
NO_TIME_FIELDS: TimeFields = MappingProxyType({})
CHAINED_BLOCKS = 200  # per log batch above finalized: every header is read, so answers must stay small
# Between looks at a block whose bloom announces logs that did not come, or for a final block that is not there (s);
# about two seconds in all.
_RETRY_PAUSES_S = (0.1, 0.2, 0.4, 0.6, 0.8)


async def fetch_batch(
    reader: Reader, contract_range: ContractRange, final: FinalBlock, before: bytes | None,
    time_fields: TimeFields = NO_TIME_FIELDS,
    *, plain: bool = False,
) -> LogBatch:  # fmt: skip
    """Fetch the first log batch of a contract range, as large as the endpoint serves.

    Args:
        reader: The endpoint.
        contract_range: Blocks and contracts that are still to be ingested.
        final: The highest block known to be final.
        before: Stored hash of the block before the range; None if the parent link is compared later.
        time_fields: Events that carry the time of their block.
        plain: Whether all of the range is at or below finalized.

    Raises:
        RpcError: The endpoint failed; RangeTooLargeError only for a block that is refused both whole and in parts.
        ParentMismatchError: The batch does not join the stored blocks.
    """
    first, chained = contract_range.first, not plain and contract_range.first > final.number
    end = contract_range.last if chained or plain else min(contract_range.last, final.number)
    at_most, until = reader.ranges.size, time.monotonic() + reader.endpoint.timeout

    def allowed() -> int:
        return min(reader.ranges.size, chained_blocks(reader)) if chained else reader.ranges.size

    while True:
        last = min(first + min(allowed(), at_most) - 1, end)
        try:
            if chained:
                batch = await fetch_head(reader, first, last, contract_range.addresses, before, final)
            else:
                batch = await _fetch_final(reader, first, last, contract_range.addresses, before, time_fields, final)
        except RangeTooLargeError as refusal:
            at_most = _smaller(refusal, last - first + 1, allowed(), until)
            continue
        reader.ranges.succeeded(last - first + 1, len(batch.logs))
        return replace(batch, sources=(ServedRange(first, last, reader.name),))


def _smaller(refusal: RangeTooLargeError, asked: int, allowed: int, until: float) -> int:
    """Return how many blocks to ask for after a refusal; raise it if it is about one block, its cause if time is up."""
    if asked == 1:
        raise refusal
    if isinstance(refusal.__cause__, RateLimitedError) and time.monotonic() > until:
        raise refusal.__cause__ from None  # It is another endpoint's turn.
    # The reader's AdaptiveRange has shrunk, unless the calls were too many for one answer, not the blocks, or
    # something else than the logs is refused: then half of it, or each try would ask for one block less only.
    return asked - 1 if allowed < asked else asked // 2


def chained_blocks(reader: Reader) -> int:
    """Return how many blocks with their headers, their logs and the final block the endpoint answers at once.

    If it takes no batches, one answer cannot hold them, however few they are.
    """
    calls = reader.endpoint.batches.length
    return CHAINED_BLOCKS if calls == 1 else max(1, min(CHAINED_BLOCKS, calls - 2))


async def _fetch_final(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None, time_fields: TimeFields,
    final: FinalBlock
) -> LogBatch:  # fmt: skip
    """Fetch a final range, and retry while the node lacks the final block or an end of the range.

    One URL may lead to several nodes, and the next one may have it.
    """
    for pause in _RETRY_PAUSES_S:
        try:
            return await fetch_final(reader, first, last, addresses, before, time_fields, final)
        except (NotFinalError, MissingBlockError):
            await asyncio.sleep(pause)
    return await fetch_final(reader, first, last, addresses, before, time_fields, final)


async def fetch_final(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None,
    time_fields: TimeFields = NO_TIME_FIELDS,
    final: FinalBlock = NOTHING_FINAL,
) -> LogBatch:  # fmt: skip
    """Fetch and confirm a range at or below finalized, in one request, or two if block times need more headers.

    The answer that holds the logs also proves that the range is final: it includes the final block, so its node has
    that block on its chain, and every lower block of that chain is an ancestor of it. Otherwise, a node that is stuck
    on an orphaned branch would serve orphans below the final number. Every request may reach another node behind the
    same URL: what a second request adds (times) must therefore agree with the logs by hash, and proves nothing else.
    The premise is that one answer is one node's view. A proxy that spreads the calls of a batch over several nodes
    breaks it, and so does an endpoint without batches: there the range ends, the parent links and attestation find what
    this cannot.

    Args:
        reader: The endpoint.
        first: First block of the range.
        last: Last block of the range.
        addresses: Contracts whose logs are requested.
        before: Stored hash of block first - 1; None if the parent link is compared later.
        time_fields: Events that carry the time of their block.
        final: The block that the range must join; not compared while nothing is final.

    Raises:
        RpcError: The endpoint failed; NotFinalError if its node lacks the final block.
        ParentMismatchError: The range does not join the stored blocks.
    """
    ends = sorted({first, last})
    logs, headers, witness = await _logs_with_headers(reader, first, last, addresses, ends, final)
    up_to = final.final_up_to(witness)
    if final.number >= 0 and up_to < last:
        raise NotFinalError(f"blocks {first} to {last} do not connect to the final block {final.number}", reader.name)
    known = {h.number: h for h in headers}
    lacking = sorted({g.block_number for g in logs} - known.keys())
    confirmed, more = await confirmed_times(reader, lacking, logs, time_fields, known) if lacking else ({}, [])
    batch = confirm_final_range(first, last, addresses, logs, [*headers, *more], before, confirmed)
    return replace(batch, final=up_to)


async def fetch_head(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None,
    final: FinalBlock = NOTHING_FINAL,
    *, proven: bool = False,
) -> LogBatch:  # fmt: skip
    """Fetch and confirm a range above finalized: its logs and every header, in one request.

    A block whose bloom announces a watched address but which came without logs is looked at again, then proven by its
    receipts: nodes answer eth_getLogs from an index that may lag behind the header, or be pruned.

    The blocks join the stored ones by their parent hashes. If the answer also holds the final block, that block is
    below them on one chain, and everything stored up to it is final; otherwise this range makes nothing final.

    Args:
        reader: The endpoint.
        first: First block of the range.
        last: Last block of the range.
        addresses: Contracts whose logs are requested.
        before: Stored hash of block first - 1; None to skip the comparison.
        final: The highest block known to be final.
        proven: Whether to disbelieve a node that keeps no receipts, because rows will be deleted for its answer.

    Raises:
        RpcError: The endpoint failed, or its answers contradict each other.
        ParentMismatchError: The range does not join the stored blocks.
    """
    numbers = range(first, last + 1)
    for pause in (*_RETRY_PAUSES_S, None):
        logs, headers, witness = await _logs_with_headers(reader, first, last, addresses, numbers, final, verified=True)
        batch = replace(
            confirm_head_range(first, last, addresses, logs, headers, before), final=final.final_up_to(witness)
        )
        silent = blocks_with_unmet_bloom(batch)
        if not silent or await _proven_silent(reader, silent, addresses, proven=proven):
            return batch
        if pause is not None:
            await asyncio.sleep(pause)
    raise InconsistentResponseError(f"no logs for block {silent[0].number}, although it has some", reader.name)


async def _logs_with_headers(
    reader: Reader, first: int, last: int, addresses: Sequence[str], numbers: Sequence[int], final: FinalBlock,
    *, verified: bool = False,
) -> tuple[list[Log], list[Header], Header | None]:  # fmt: skip
    """Return the logs, the headers of `numbers` and the witness of what is final, all from one answer."""
    # A block that is read anyway needs no second call.
    extra = [block for block in final.witness if block not in numbers]
    apart = bool(extra) and len(numbers) <= 2 and not reader.endpoint.batches.fits(1 + len(numbers) + len(extra))
    try:
        if apart:
            return await _tied_to_last(reader, first, last, addresses, numbers, extra, verified=verified)
        logs, headers = await reader.logs_with_headers(
            first, last, addresses, numbers, extra, verified=verified, whole=True
        )
        if extra:
            return logs, headers[: len(numbers)], next(iter(headers[len(numbers) :]), None)
        return logs, headers, next((h for h in headers if h.number == final.number), None)
    except RangeTooLargeError as refusal:
        if first != last:
            raise
        log.info("block_in_parts", block=first, endpoint=reader.name, refusal=refusal.message)
        logs, header = await logs_of_block(reader, first, addresses, refusal)
        if not final.witness:
            return logs, [header], None
        # The parts came one by one, all from the block with this hash: exactly that block must join the final one.
        return logs, [header], next(iter(await _found_beside(reader, header, final.witness)), None)


async def _found_beside(reader: Reader, block: Header, others: Sequence[int | str]) -> list[Header | None]:
    """Return headers from an answer that also holds `block`, so that one node shows both.

    Raises InconsistentResponseError if it has another block at that height.
    """
    again, *found = await reader.found([block.number, *others])
    if again is None or again.hash != block.hash:
        raise InconsistentResponseError(f"block {block.number} changed while its logs were read", reader.name)
    return found


async def _proven_silent(reader: Reader, blocks: Sequence[Header], addresses: Sequence[str], *, proven: bool) -> bool:
    """Return whether receipts show that the blocks have no watched log: bloom filters have false positives.

    Where neither the node nor another one shows the receipts, nothing is left to prove it with: the node is believed,
    and attestation finds logs that it left out, unless the answer must be `proven`, which raises
    InconsistentResponseError.
    """
    watched = {address_bytes(a) for a in addresses}
    for block in blocks:
        logged = await reader.addresses_in_receipts(block)
        if logged is None and proven:
            raise InconsistentResponseError(
                f"no receipts to prove that block {block.number} has no logs of the watched contracts", reader.name
            )
        if logged is None:
            # The warning is logged once per endpoint, when its refusal is found out.
            log.info("unproven_empty_block", block=block.number, endpoint=reader.name)
        elif logged & watched:
            return False
    return True


async def _tied_to_last(
    reader: Reader, first: int, last: int, addresses: Sequence[str], numbers: Sequence[int],
    extra: Sequence[int | str], *, verified: bool,
) -> tuple[list[Log], list[Header], Header | None]:  # fmt: skip
    """Do what `_logs_with_headers` does in several answers, each of which holds the last block.

    Where a batch is too short for one answer, another node may give the witness: without that, it would prove nothing.
    `numbers`: at most two, `last` among them. `extra`: the witness. Raises InconsistentResponseError if two answers
    have another last block, and RpcError.
    """
    tied = numbers if reader.endpoint.batches.fits(1 + len(numbers)) else [last]
    logs, headers = await reader.logs_with_headers(first, last, addresses, tied, verified=verified)
    known: dict[int | str, Header | None] = {h.number: h for h in headers}
    for others in ([n for n in numbers if n not in tied], extra):
        if others:
            known |= zip(others, await _found_beside(reader, headers[-1], others), strict=True)
    if missing := [n for n in numbers if known[n] is None]:
        raise MissingBlockError(f"block {missing[0]} is missing", reader.name)
    return logs, [h for n in numbers if (h := known[n]) is not None], known[extra[0]]


async def logs_of_block(
    reader: Reader, number: int, addresses: Sequence[str], refusal: RangeTooLargeError
) -> tuple[list[Log], Header]:
    """Return all logs of the addresses in block `number`, ordered by log index, and the block's header.

    Each address is requested separately; those refused even so are read from the block's receipts. Every part comes
    with the header, in one request, and all headers must be of one block.

    Args:
        reader: The endpoint.
        number: The block.
        addresses: Contracts whose logs are requested.
        refusal: The error that refused the request for all addresses at once.

    Raises:
        RangeTooLargeError: An address is refused and there are no receipts.
        InconsistentResponseError: The parts contradict each other.
    """
    answered: list[Log] = []
    headers: list[Header] = []
    refused = {addresses[0]: refusal} if len(addresses) == 1 else {}
    for address in addresses if not refused else ():
        try:
            logs, of_block = await reader.logs_with_headers(number, number, [address], [number])
        except RangeTooLargeError as error:
            refused[address] = error
            continue
        answered += logs
        headers += of_block
    complete = answered
    if refused:
        try:
            complete, header = await reader.receipts(number, addresses)
        except RpcCallError as error:
            message = f"block {number} has more logs than are served at once, and its receipts are not: {error.message}"
            raise RangeTooLargeError(message, reader.name, results=True) from error
        headers.append(header)
        _agree(complete, answered, refused, reader.name)
    return _of_one_block(complete, headers, reader.name)


def _agree(
    in_receipts: Sequence[Log], answered: Sequence[Log], refused: dict[str, RangeTooLargeError], endpoint: str
) -> None:  # fmt: skip
    """Raise InconsistentResponseError unless the receipts hold exactly the logs that eth_getLogs returned.

    An address that had too many logs for eth_getLogs must have logs in the receipts as well: receipts that lack these
    may lack others.
    """
    lacking = {address_bytes(a): error for a, error in refused.items()}
    comparable = [log for log in in_receipts if log.address not in lacking]
    if _identities(comparable) != _identities(answered):
        raise InconsistentResponseError("receipts and eth_getLogs disagree about a block's logs", endpoint)
    for address in lacking.keys() - {log.address for log in in_receipts}:
        if lacking[address].results:
            raise InconsistentResponseError(
                f"no logs of 0x{address.hex()} in the receipts, although it has too many to serve at once", endpoint
            )


def _identities(logs: Iterable[Log]) -> list[tuple[int, bytes, bytes]]:
    return sorted((log.log_index, log.address, log.block_hash) for log in logs)


def _of_one_block(logs: Sequence[Log], headers: Sequence[Header], endpoint: str) -> tuple[list[Log], Header]:
    number, known = headers[0].number, {header.hash for header in headers}
    if len(known) > 1 or any(log.block_hash not in known for log in logs):
        raise InconsistentResponseError(f"block {number} changed while its logs were read", endpoint)
    if len({log.log_index for log in logs}) != len(logs):
        raise InconsistentResponseError(f"duplicate log index in block {number}", endpoint)
    return sorted(logs, key=lambda log: log.log_index), headers[0]
