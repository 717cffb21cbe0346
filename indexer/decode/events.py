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
    events: list[Event] = []
    sources = registry.sources
    hash_, transaction = b"", ""
    for block, index, address, transaction_hash, _, topics, data, *_ in logs:
        source = sources.get(address)
        if source is None:
            continue
        if transaction_hash != hash_:
            hash_, transaction = transaction_hash, "0x" + transaction_hash.hex()
        abi = source.events.get(topics[0]) if topics else None
        if abi is None:
            topic0, reason = ("0x" + topics[0].hex(), "unknown topic") if topics else ("", "no topics")
            name, args, detail = None, {}, reason
        else:
            topic0, name, reason, detail = source.texts[topics[0]], abi.name, "", ""
            try:
                args = abi.decode(topics, data)
            except DecodeMismatch as mismatch:
                name, args, reason, detail = None, {}, "does not fit", str(mismatch)
        events.append(
            Event(
                block,
                times[block],
                index,
                transaction,
                source.address,
                topic0,
                name,
                args,
                source.erc20,
                reason,
                detail,
            )
        )
    name_pools(events, registry.pool_account)
    return events
