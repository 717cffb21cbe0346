"""Fetching a unit from one endpoint. A block over its limits is put together from parts; a range over them is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import structlog

from indexer.chain.types import Header, Log
from indexer.decode.stamps import Stamps, times
from indexer.errors import Inconsistent, RangeTooLarge
from indexer.ingest.parts import logs_of_block
from indexer.ingest.planner import Segment
from indexer.ingest.units import Source, Unit, confirm_chained, confirm_plain, without_logs_though_announced
from indexer.rpc.reader import Reader

log = structlog.get_logger()

NO_STAMPS: Stamps = MappingProxyType({})
CHAINED_BLOCKS = 200  # blocks above finalized per unit: every header is read, so answers stay small
PROBES = 4  # blocks of a range whose times, told by events alone, are compared with their headers

# Seconds between looks at a block whose bloom announces logs that did not come; about two seconds in all.
_LOOK_AGAIN = (0.1, 0.2, 0.4, 0.6, 0.8)


async def fetch_unit(
    reader: Reader, segment: Segment, finalized: int, before: bytes | None, stamps: Stamps = NO_STAMPS
) -> Unit:  # fmt: skip
    """The first unit of a segment, as large as the endpoint serves. `before` is the stored hash of the block before it,
    None where seams are compared later. Raises RpcError, SeamBroken; RangeTooLarge only for a block that is refused
    whole and in parts."""
    while True:
        first, chained = segment.first, segment.first > finalized
        size = min(reader.ranges.size, CHAINED_BLOCKS) if chained else reader.ranges.size
        last = min(first + size - 1, segment.last if chained else min(segment.last, finalized))
        try:
            if chained:
                unit = await fetch_chained(reader, first, last, segment.addresses, before)
            else:
                unit = await fetch_plain(reader, first, last, segment.addresses, before, stamps)
        except RangeTooLarge:
            if first == last:
                raise
            continue  # the range control heard of it
        reader.ranges.served(last - first + 1, len(unit.logs))
        return replace(unit, sources=(Source(first, last, reader.name),))


async def fetch_plain(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None, stamps: Stamps = NO_STAMPS
) -> Unit:
    """A confirmed range at or below finalized: one request, or two where the times of its blocks need more headers.

    Raises RpcError, or SeamBroken.
    """
    logs, headers = await _logs_with_headers(reader, first, last, addresses, sorted({first, last}))
    known = {h.number: h for h in headers}
    lacking = sorted({g.block_number for g in logs} - known.keys())
    confirmed, more = await _timed(reader, lacking, logs, stamps, known) if lacking else ({}, [])
    return confirm_plain(first, last, addresses, logs, [*headers, *more], before, confirmed)


async def _timed(
    reader: Reader, lacking: list[int], logs: Sequence[Log], stamps: Stamps, known: Mapping[int, Header]
) -> tuple[dict[int, int], list[Header]]:
    """Confirmed times of blocks whose headers are not `known`, and the headers that were read for the others.

    A node's `blockTimestamp` is never believed by itself: order and bounds do not catch a wrong one in the middle of a
    range, only its block's header or an event of the block that carries the time does, and it would be stored for good.
    So a time comes from an event, and the headers of blocks without such events are read. Where the node says the same
    as the event, two sources agree and nothing more is read; of the other events' times some are compared with headers.
    If one is wrong, or time runs backward along the chain, no event of the range is believed.
    """
    told, said = times(logs, stamps), _said(logs)
    ends = {n: h.timestamp for n, h in known.items()}
    alone = [n for n in lacking if n in told and said[n] != told[n]]
    probes = alone[:: max(1, len(alone) // PROBES)]
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


async def fetch_chained(
    reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None, *, proven: bool = False
) -> Unit:
    """A confirmed range above finalized: logs and every header in one request. Raises RpcError, or SeamBroken.

    A block whose bloom announces a watched address but that came without logs is looked at again, then proven by its
    receipts: nodes answer eth_getLogs from an index that may lag behind the header, or be pruned. `proven`: a node that
    keeps no receipts is then not believed, because rows are to be deleted for what it serves.
    """
    numbers = range(first, last + 1)
    for pause in (*_LOOK_AGAIN, None):
        logs, headers = await _logs_with_headers(reader, first, last, addresses, numbers)
        unit = confirm_chained(first, last, addresses, logs, headers, before)
        silent = without_logs_though_announced(unit)
        if not silent or await _proven_silent(reader, silent, addresses, proven):
            return unit
        if pause is not None:
            await asyncio.sleep(pause)
    raise Inconsistent(f"no logs of block {silent[0].number}, though it has some", reader.name)


async def _logs_with_headers(
    reader: Reader, first: int, last: int, addresses: Sequence[str], numbers: Iterable[int]
) -> tuple[list[Log], list[Header]]:
    try:
        return await reader.logs_with_headers(first, last, addresses, numbers)
    except RangeTooLarge as refusal:
        if first != last:
            raise
        log.info("block_in_parts", block=first, endpoint=reader.name, refusal=refusal.message)
        logs, header = await logs_of_block(reader, first, addresses, refusal)
        return logs, [header]


async def _proven_silent(reader: Reader, blocks: Sequence[Header], addresses: Sequence[str], proven: bool) -> bool:
    """Whether the receipts show that the blocks have no log of ours: blooms are wrong in this direction now and then.

    A node that keeps no receipts leaves nothing to prove it with; unless it must be `proven` it is believed, and the
    log says so.
    """
    watched = {bytes.fromhex(a[2:]) for a in addresses}
    for block in blocks:
        logged = await reader.logged_by_receipts(block)
        if logged is None and proven:
            raise Inconsistent(f"no receipts to prove that block {block.number} has no logs of ours", reader.name)
        if logged is None:
            log.warning("unproven_empty_block", block=block.number, endpoint=reader.name)
        elif logged & watched:
            return False
    return True
