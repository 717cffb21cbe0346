"""Stored logs to events: pure, so that the past can be decoded again with a later release's ABIs (rule 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from indexer.chain.types import Log
from indexer.decode.abi import DecodeMismatch
from indexer.decode.registry import Registry
from indexer.projections.base import Event, name_pools


def events_of(registry: Registry, logs: Iterable[Log], times: Mapping[int, int]) -> list[Event]:
    """One event per log of a watched contract, in order; whole transactions; `times` are block timestamps in seconds.

    A log without a decoder, or that does not fit it, is an event without a name and with a reason.
    """
    events = [
        _event(registry, log, times[log.block_number]) for log in logs if "0x" + log.address.hex() in registry.watched
    ]
    if any(e.name == "PassivePerpMatchOrder" for e in events):
        name_pools(events, registry.pool_account)
    return events


def _event(registry: Registry, log: Log, time: int) -> Event:
    address = "0x" + log.address.hex()
    topic0 = "0x" + log.topics[0].hex() if log.topics else ""
    event = Event(
        log.block_number,
        time,
        log.log_index,
        "0x" + log.transaction_hash.hex(),
        address,
        topic0,
        None,
        {},
        address in registry.erc20,
    )
    try:
        abi, event.args = registry.decode(address, log.topics, log.data)
        event.name = abi.name
    except DecodeMismatch as mismatch:
        known = log.topics and registry.find(address, log.topics[0])
        event.reason = "does not fit" if known else "unknown topic" if log.topics else "no topics"
        event.detail = str(mismatch)
    return event
