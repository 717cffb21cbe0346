"""Blocks and logs as this program carries them: integers are int, hashes and addresses bytes."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple


class Header(NamedTuple):
    """A block header as far as we use it. `timestamp` in seconds; `logs_bloom` 256 bytes, empty when not given."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    logs_bloom: bytes = b""


class Log(NamedTuple):
    """One log. Its identity is (block_number, log_index); `block_hash` validates it.

    `block_timestamp` (seconds) only when the node gave it: a convenience of some nodes, not consensus data, and never
    stored unless a header or an event confirms it.
    """

    block_number: int
    log_index: int
    address: bytes
    transaction_hash: bytes
    transaction_index: int
    topics: tuple[bytes, ...]
    data: bytes
    block_hash: bytes
    block_timestamp: int | None = None


# What `_make` does, without a look at the length: for whoever makes them by the hundred thousand.
made_log, made_header = partial(tuple.__new__, Log), partial(tuple.__new__, Header)


class Heads(NamedTuple):
    """What one endpoint said about its head in one answer. Tags it does not have are None."""

    latest: Header
    safe: Header | None
    finalized: Header | None


class BlockRef(NamedTuple):
    """A (number, hash) that the chain once confirmed and we stored; `timestamp` in seconds."""

    number: int
    hash: bytes
    timestamp: int
