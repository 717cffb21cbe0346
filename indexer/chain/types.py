"""Blocks and logs as this program carries them: integers are int, hashes and addresses are bytes."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

# unique_id = block number * 100000 + log index: a block with more logs would collide with the next one.
LOGS_PER_BLOCK = 100_000


class Header(NamedTuple):
    """The block header fields that are used here. `timestamp` (s); `logs_bloom` (256 bytes), empty if not given.

    `receipts_root` (32 bytes) is set only if all fields of the header were read and have its hash: then bloom filter
    and root are what consensus says. Else it is empty.
    """

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    logs_bloom: bytes = b""
    receipts_root: bytes = b""

    def ref(self) -> BlockRef:
        """Return what identifies the block."""
        return BlockRef(self.number, self.hash, self.timestamp)


class Log(NamedTuple):
    """One log. Its identity is (block_number, log_index); `block_hash` validates it.

    `block_timestamp` (s) is set only if the node gave it: a convenience of some nodes, not consensus data, and never
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

    @property
    def identity(self) -> tuple[int, int]:
        """Block number and log index."""
        return self[:2]

    @property
    def content(self) -> tuple[bytes, bytes, int, tuple[bytes, ...], bytes]:
        """What the log says and which transaction emitted it: all but its identity, and its block's hash and time."""
        return self[2:7]


# Like `_make` without its length check, for callers that create them by the hundred thousand.
made_log, made_header = partial(tuple.__new__, Log), partial(tuple.__new__, Header)


def address_bytes(address: str) -> bytes:
    """Return the 20 bytes of an address (lower-case 0x)."""
    return bytes.fromhex(address[2:])


class Heads(NamedTuple):
    """One endpoint's head and tags. Tags that the endpoint does not have, or does not give now, are None.

    `failing`: why `finalized` is not known now, although the endpoint may have it in a moment; "" if it has no such
    tag.
    """

    latest: Header
    safe: Header | None
    finalized: Header | None
    failing: str = ""


class BlockRef(NamedTuple):
    """A (number, hash) that the chain once confirmed and that is stored here, with its `timestamp` (s)."""

    number: int
    hash: bytes
    timestamp: int
