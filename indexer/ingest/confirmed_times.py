"""Block times of a final range: from events where two sources agree, otherwise from headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from indexer.chain.types import Header, Log
from indexer.decode.block_times import TimeFields, block_times
from indexer.rpc.reader import Reader

PROBES = 4  # blocks per range whose times come from events alone and are compared with their headers


async def confirmed_times(
    reader: Reader, lacking: list[int], logs: Sequence[Log], time_fields: TimeFields, known: Mapping[int, Header]
) -> tuple[dict[int, int], list[Header]]:
    """Return confirmed times of blocks whose headers are not `known`, and the headers that were read for the others.

    A node's `blockTimestamp` is never believed by itself: order and bounds do not catch a wrong one in the middle of a
    range, only the block's header or an event of the block that carries the time does, and it would be stored for good.
    So a time comes from an event, and the headers of blocks without such an event are read. Where the node reports the
    same time as the event, two sources agree and nothing more is read. Some of the other events' times are compared
    with headers, always including the highest such block: if a proxy asks several nodes for the calls of one request,
    that header's hash shows whose logs they are. If one time is wrong, or time runs backward along the chain, no event
    of the range is believed.

    Args:
        reader: The endpoint.
        lacking: Blocks with logs and without a header, ascending.
        logs: The logs of the range.
        time_fields: Events that carry the time of their block.
        known: Headers that were read already, by number.
    """
    event_times, log_times = block_times(logs, time_fields), _log_times(logs)
    ends = {n: h.timestamp for n, h in known.items()}
    uncorroborated = [n for n in lacking if n in event_times and log_times[n] != event_times[n]]
    probes = uncorroborated[:: -max(1, len(uncorroborated) // PROBES)]
    wanted = sorted({*(n for n in lacking if n not in event_times), *probes})
    headers = await reader.headers(wanted) if wanted else []
    header_times = ends | {h.number: h.timestamp for h in headers}
    differ = any(event_times[n] != header_times[n] for n in event_times.keys() & header_times.keys())
    if differ or not _in_order(event_times | header_times):
        return {}, [*headers, *await reader.headers([n for n in lacking if n not in header_times])]
    return event_times, headers


def _log_times(logs: Iterable[Log]) -> dict[int, int | None]:
    """Return the time that a block's logs carry, by block; None where a log has no time or a different one."""
    times: dict[int, int | None] = {}
    for log_ in logs:
        if times.setdefault(log_.block_number, log_.block_timestamp) != log_.block_timestamp:
            times[log_.block_number] = None
    return times


def _in_order(at: Mapping[int, int]) -> bool:
    return all(at[below] <= at[above] for below, above in pairwise(sorted(at)))
