"""The receipts root of a block, computed from its receipts. Pure.

A receipt enters the trie as its type byte (none for the legacy form) and the RLP of outcome, cumulative gas, bloom and
logs. Arbitrum's own types (0x64 deposit, 0x65 unsigned, 0x66 contract, 0x68 retry, 0x69 submit retryable, 0x6a
internal, 0x78 classic) are encoded the same way, and so will be a type that is new tomorrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from indexer.chain.rlp import array, integer, string
from indexer.chain.trie import trie_root


class ReceiptLog(NamedTuple):
    """The part of a log that consensus covers; its log index is its position in the block."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


class Receipt(NamedTuple):
    """`kind`: the type byte, 0 for the legacy form. `outcome`: the status 0 or 1; a state root before Byzantium."""

    kind: int
    outcome: int | bytes
    cumulative_gas: int
    bloom: bytes
    logs: Sequence[ReceiptLog]


def receipts_root(receipts: Iterable[Receipt]) -> bytes:
    """Return the root over all receipts of a block, in their order."""
    return trie_root([encoded(receipt) for receipt in receipts])


def encoded(receipt: Receipt) -> bytes:
    """Encode a receipt as it enters the trie."""
    kind, outcome, gas, bloom, logs = receipt
    body = array(
        (integer(outcome) if isinstance(outcome, int) else string(outcome))
        + integer(gas)
        + string(bloom)
        + array(b"".join([_log(log) for log in logs]))
    )
    return bytes((kind,)) + body if kind else body


def _log(log: ReceiptLog) -> bytes:
    address, topics, data = log
    return array(string(address) + array(b"".join([string(topic) for topic in topics])) + string(data))
