"""Confirmation of log batches: logs are checked against headers of the same endpoint (one unit, one endpoint). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from indexer.chain.batch import LogBatch
from indexer.chain.bloom import may_contain
from indexer.chain.types import Header, Log, address_bytes
from indexer.errors import InconsistentResponseError, ParentMismatchError


def confirm_final_range(
    first: int,
    last: int,
    addresses: Sequence[str],
    logs: Sequence[Log],
    headers: Iterable[Header],
    before: bytes | None,
    times: Mapping[int, int] = MappingProxyType({}),
) -> LogBatch:
    """Confirm the logs of a block range at or below finalized, and return them as a log batch.

    The block time that a log carries is ignored: it would be stored for good, and nothing here confirms it.

    Args:
        first: First block of the range.
        last: Last block of the range.
        addresses: Contracts whose logs were requested.
        logs: All logs of the answer.
        headers: Those of at least the first and the last block, and of all blocks with logs that are not in `times`.
        before: Stored hash of block first - 1; None to leave the comparison to others.
        times: Confirmed timestamps of blocks without a header (s).

    Raises:
        InconsistentResponseError: Logs and headers disagree.
        ParentMismatchError: The range does not join the stored blocks.
    """
    known = {h.number: h for h in headers}
    if before is not None and known[first].parent_hash != before:
        raise ParentMismatchError(first)
    _agree(known, logs)
    for log in logs:
        if log.block_number not in known:
            time = times.get(log.block_number)
            if time is None:
                raise InconsistentResponseError(f"no timestamp is known for block {log.block_number}")
            known[log.block_number] = Header(log.block_number, log.block_hash, b"", time)
    numbers = {g.block_number for g in logs} | {first, last}
    return LogBatch(first, last, tuple(addresses), list(logs), [known[n] for n in sorted(numbers)])


def confirm_head_range(
    first: int,
    last: int,
    addresses: Sequence[str],
    logs: Sequence[Log],
    headers: Sequence[Header],
    before: bytes | None,
) -> LogBatch:
    """Confirm the logs of a block range above finalized, and return them as a log batch.

    Args:
        first: First block of the range.
        last: Last block of the range.
        addresses: Contracts whose logs were requested.
        logs: All logs of the answer.
        headers: Those of every block from `first` to `last`, in order.
        before: Stored hash of block first - 1; None to leave the comparison to others.

    Raises:
        InconsistentResponseError: Headers are missing or not chained, or logs and headers disagree.
        ParentMismatchError: The range does not join the stored blocks.
    """
    if [h.number for h in headers] != list(range(first, last + 1)):
        raise InconsistentResponseError(f"headers of blocks {first} to {last} are not complete")
    for parent, child in pairwise(headers):
        if child.parent_hash != parent.hash:
            raise InconsistentResponseError(
                f"block {child.number} is not a child of block {parent.number} in the same answer"
            )
    if before is not None and headers[0].parent_hash != before:
        raise ParentMismatchError(first)
    _agree({h.number: h for h in headers}, logs)
    return LogBatch(first, last, tuple(addresses), list(logs), list(headers))


def _agree(headers: dict[int, Header], logs: Iterable[Log]) -> None:
    for log in logs:
        header = headers.get(log.block_number)
        if header and header.hash != log.block_hash:
            raise InconsistentResponseError(
                f"log {log.log_index} of block {log.block_number} has a different block hash"
            )


def blocks_with_unmet_bloom(batch: LogBatch) -> list[Header]:
    """Return the blocks whose bloom announces a watched address but which came without any watched log.

    Nodes answer eth_getLogs for the newest block from an index that may lag behind its header; such an empty answer
    must be requested again. Bloom filters have false positives, so this is a reason to look twice, not a proof.
    """
    with_logs = {log.block_number for log in batch.logs}
    watched = [address_bytes(a) for a in batch.addresses]
    return [
        b
        for b in batch.blocks
        if b.number not in with_logs and b.logs_bloom and any(may_contain(b.logs_bloom, a) for a in watched)
    ]
