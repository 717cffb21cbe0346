"""Fetching a unit from one endpoint. A block over its limits is put together from parts; a range over them is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import structlog

from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.finality import NOTHING_FINAL, FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.chain.types import Header, Log
from indexer.decode.block_times import TimeFields, block_times
from indexer.errors import InconsistentResponseError, MissingBlockError, NotFinalError, RangeTooLargeError, RpcCallError
from indexer.ingest.confirm import blocks_with_unmet_bloom, confirm_final_range, confirm_head_range
from indexer.rpc.reader import Reader

log = structlog.get_logger()
NO_TIME_FIELDS: TimeFields = MappingProxyType({})
CHAINED_BLOCKS = 200  # blocks above finalized per unit: every header is read, so answers stay small
PROBES = 4  # blocks of a range whose times, told by events alone, are compared with their headers
# Seconds between looks at a block whose bloom announces logs that did not come; about two seconds in all.
_RETRY_PAUSES_S = (0.1, 0.2, 0.4, 0.6, 0.8)


async def fetch_batch(
    reader: Reader, segment: ContractRange, final: FinalBlock, before: bytes | None,
    stamps: TimeFields = NO_TIME_FIELDS,
    *, plain: bool = False,
) -> LogBatch:  # fmt: skip
    """The first unit of a segment, as large as the endpoint serves. `before` is the stored hash of the block before it,
    None where seams are compared later. `plain`: all of it is at or below finalized.

    Raises RpcError, ParentMismatchError; RangeTooLargeError only for a block that is refused whole and in parts.
    """
    while True:
        first, chained = segment.first, not plain and segment.first > final.number
        size = min(reader.ranges.size, CHAINED_BLOCKS) if chained else reader.ranges.size
        last = min(first + size - 1, segment.last if chained or plain else min(segment.last, final.number))
        try:
            if chained:
                unit = await fetch_head(reader, first, last, segment.addresses, before, final)
            else:
                unit = await _fetch_final(reader, first, last, segment.addresses, before, stamps, final)
        except RangeTooLargeError:
            if first == last:
                raise
            continue  # the range control heard of it
        reader.ranges.served(last - first + 1, len(unit.logs))
        return replace(unit, sources=(ServedRange(first, last, reader.name),))


async def _fetch_final(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None, stamps: TimeFields,
    final: FinalBlock
) -> LogBatch:  # fmt: skip
    """Asks again where the final block or an end is missing: one name may lead to several nodes, and the next one may
    have it."""
    for pause in _RETRY_PAUSES_S:
        try:
            return await fetch_final(reader, first, last, addresses, before, stamps, final)
        except (NotFinalError, MissingBlockError):
            await asyncio.sleep(pause)
    return await fetch_final(reader, first, last, addresses, before, stamps, final)


async def fetch_final(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None,
    stamps: TimeFields = NO_TIME_FIELDS,
    final: FinalBlock = NOTHING_FINAL,
) -> LogBatch:  # fmt: skip
    """A confirmed range at or below finalized: one request, or two where the times of its blocks need more headers.

    That the range is final is shown by the answer that holds the logs: it holds the final block as well, so that its
    node has that block on its chain, and every lower block of that chain is an ancestor of it. Without, a node that is
    stuck on an orphaned branch serves orphans below the final number. It may be another node at every request, behind
    one name: what a second request adds (times) must therefore agree with the logs by hash, and proves nothing else.
    The premise is that one answer is one node's view. A proxy that spreads the calls of a batch over nodes breaks it,
    as does an endpoint without batches: there the ends, the seams and attestation find what this cannot.

    Raises RpcError, ParentMismatchError; NotFinalError where the node lacks the final block. Not compared when
    nothing is `final`.
    """
    ends = sorted({first, last})
    logs, headers, witness = await _logs_with_headers(reader, first, last, addresses, ends, final)
    if final.number >= 0 and final.final_up_to(witness) < last:
        raise NotFinalError(f"blocks {first} to {last} do not join the final block {final.number}", reader.name)
    known = {h.number: h for h in headers}
    lacking = sorted({g.block_number for g in logs} - known.keys())
    confirmed, more = await _timed(reader, lacking, logs, stamps, known) if lacking else ({}, [])
    unit = confirm_final_range(first, last, addresses, logs, [*headers, *more], before, confirmed)
    return replace(unit, final=final.final_up_to(witness))


async def _timed(
    reader: Reader, lacking: list[int], logs: Sequence[Log], stamps: TimeFields, known: Mapping[int, Header]
) -> tuple[dict[int, int], list[Header]]:
    """Confirmed times of blocks whose headers are not `known`, and the headers that were read for the others.

    A node's `blockTimestamp` is never believed by itself: order and bounds do not catch a wrong one in the middle of a
    range, only its block's header or an event of the block that carries the time does, and it would be stored for good.
    So a time comes from an event, and the headers of blocks without such events are read. Where the node says the same
    as the event, two sources agree and nothing more is read; of the other events' times some are compared with headers,
    the highest among them: where a proxy asks several nodes for the calls of one request, its hash tells whose the logs
    are. If one is wrong, or time runs backward along the chain, no event of the range is believed.
    """
    told, said = block_times(logs, stamps), _said(logs)
    ends = {n: h.timestamp for n, h in known.items()}
    alone = [n for n in lacking if n in told and said[n] != told[n]]
    probes = alone[:: -max(1, len(alone) // PROBES)]
    wanted = sorted({*(n for n in lacking if n not in told), *probes})
    headers = await reader.headers(wanted) if wanted else []
    read = ends | {h.number: h.timestamp for h in headers}
    if any(told[n] != read[n] for n in told.keys() & read.keys()) or not _in_order(told | read):
        return {}, [*headers, *await reader.headers([n for n in lacking if n not in read])]
    return told, headers


def _said(logs: Iterable[Log]) -> dict[int, int | None]:
    """The time that a block's logs carry; None where one has none, or another."""
    said: dict[int, int | None] = {}
    for log_ in logs:
        if said.setdefault(log_.block_number, log_.block_timestamp) != log_.block_timestamp:
            said[log_.block_number] = None
    return said


def _in_order(at: Mapping[int, int]) -> bool:
    return all(at[below] <= at[above] for below, above in pairwise(sorted(at)))


async def fetch_head(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None,
    final: FinalBlock = NOTHING_FINAL,
    *, proven: bool = False,
) -> LogBatch:  # fmt: skip
    """A confirmed range above finalized: logs and every header in one request. Raises RpcError, or ParentMismatchError.

    A block whose bloom announces a watched address but that came without logs is looked at again, then proven by its
    receipts: nodes answer eth_getLogs from an index that may lag behind the header, or be pruned. `proven`: a node that
    keeps no receipts is then not believed, because rows are to be deleted for what it serves.

    Its blocks join what is stored by their parents. Where the answer holds the final block too, that one is below them
    on one chain, and what is stored up to it is final; without it nothing becomes final by this range.
    """
    numbers = range(first, last + 1)
    for pause in (*_RETRY_PAUSES_S, None):
        logs, headers, witness = await _logs_with_headers(reader, first, last, addresses, numbers, final)
        unit = replace(
            confirm_head_range(first, last, addresses, logs, headers, before), final=final.final_up_to(witness)
        )
        silent = blocks_with_unmet_bloom(unit)
        if not silent or await _proven_silent(reader, silent, addresses, proven):
            return unit
        if pause is not None:
            await asyncio.sleep(pause)
    raise InconsistentResponseError(f"no logs of block {silent[0].number}, though it has some", reader.name)


async def _logs_with_headers(
    reader: Reader, first: int, last: int, addresses: Sequence[str], numbers: Sequence[int], final: FinalBlock
) -> tuple[list[Log], list[Header], Header | None]:
    """The logs, the headers of `numbers`, and the witness of what is final: all in one answer."""
    # No call for a block that is read anyway.
    beside = [block for block in final.witness if block not in numbers]
    try:
        logs, headers = await reader.logs_with_headers(first, last, addresses, numbers, beside)
        if beside:
            return logs, headers[: len(numbers)], next(iter(headers[len(numbers) :]), None)
        return logs, headers, next((h for h in headers if h.number == final.number), None)
    except RangeTooLargeError as refusal:
        if first != last:
            raise
        log.info("block_in_parts", block=first, endpoint=reader.name, refusal=refusal.message)
        logs, header = await logs_of_block(reader, first, addresses, refusal)
        if not final.witness:
            return logs, [header], None
        # Its parts came one by one, all of the block with this hash: it is that block which must join the final one.
        same, *witness = await reader.found([first, *final.witness])
        if same is None or same.hash != header.hash:
            raise InconsistentResponseError(f"block {first} changed while its logs were read", reader.name) from refusal
        return logs, [header], next(iter(witness), None)


async def _proven_silent(reader: Reader, blocks: Sequence[Header], addresses: Sequence[str], proven: bool) -> bool:
    """Whether the receipts show that the blocks have no log of ours: blooms are wrong in this direction now and then.

    A node that keeps no receipts leaves nothing to prove it with; unless it must be `proven` it is believed, and the
    log says so.
    """
    watched = {bytes.fromhex(a[2:]) for a in addresses}
    for block in blocks:
        logged = await reader.addresses_in_receipts(block)
        if logged is None and proven:
            raise InconsistentResponseError(
                f"no receipts to prove that block {block.number} has no logs of ours", reader.name
            )
        if logged is None:
            log.warning("unproven_empty_block", block=block.number, endpoint=reader.name)
        elif logged & watched:
            return False
    return True


async def logs_of_block(
    reader: Reader, number: int, addresses: Sequence[str], refusal: RangeTooLargeError
) -> tuple[list[Log], Header]:
    """All logs of the addresses in block `number`, in their order, and its header; `refusal` is of all addresses.

    Each address is asked for alone; those refused even so are read from the block's receipts. Every part comes with the
    header, in one request, and all headers must be of one block. Raises RangeTooLargeError when an address is
    refused and there are no receipts, InconsistentResponseError when the parts contradict each other.
    """
    served: list[Log] = []
    headers: list[Header] = []
    refused = {addresses[0]: refusal} if len(addresses) == 1 else {}
    for address in addresses if not refused else ():
        try:
            logs, of_block = await reader.logs_with_headers(number, number, [address], [number])
        except RangeTooLargeError as error:
            refused[address] = error
            continue
        served += logs
        headers += of_block
    found = served
    if refused:
        try:
            found, header = await reader.receipts(number, addresses)
        except RpcCallError as error:
            message = f"block {number} has more logs than are served at once, and its receipts are not: {error.message}"
            raise RangeTooLargeError(message, reader.name, results=True) from error
        headers.append(header)
        _agree(found, served, refused, reader.name)
    return _of_one_block(found, headers, reader.name)


def _agree(read: Sequence[Log], served: Sequence[Log], refused: dict[str, RangeTooLargeError], endpoint: str) -> None:
    """What eth_getLogs served must be in the receipts, all of it and no more, and an address that it had too many logs
    of must be there too: receipts that lack these may lack others."""
    lacking = {bytes.fromhex(a[2:]): error for a, error in refused.items()}
    told = [log for log in read if log.address not in lacking]
    if _places(told) != _places(served):
        raise InconsistentResponseError("receipts and eth_getLogs disagree about a block's logs", endpoint)
    for address in lacking.keys() - {log.address for log in read}:
        if lacking[address].results:
            raise InconsistentResponseError(
                f"no logs of 0x{address.hex()} in the receipts, though it has too many", endpoint
            )


def _places(logs: Iterable[Log]) -> list[tuple[int, bytes, bytes]]:
    return sorted((log.log_index, log.address, log.block_hash) for log in logs)


def _of_one_block(logs: Sequence[Log], headers: Sequence[Header], endpoint: str) -> tuple[list[Log], Header]:
    number, known = headers[0].number, {header.hash for header in headers}
    if len(known) > 1 or any(log.block_hash not in known for log in logs):
        raise InconsistentResponseError(f"block {number} changed while its logs were read", endpoint)
    if len({log.log_index for log in logs}) != len(logs):
        raise InconsistentResponseError(f"a log index of block {number} came twice", endpoint)
    return sorted(logs, key=lambda log: log.log_index), headers[0]
