"""The logs bloom of a header: 2048 bits, three per address or topic (Yellow Paper, section 4.3.1). Pure."""

from __future__ import annotations

from functools import lru_cache

from eth_hash.auto import keccak


@lru_cache(maxsize=4096)
def mask(item: bytes) -> int:
    """Return the three bits of an address (20 bytes) or topic (32 bytes), as a 2048-bit integer."""
    digest = keccak(item)
    bits = 0
    for i in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[i : i + 2], "big") & 2047)
    return bits


def may_contain(bloom: bytes, item: bytes) -> bool:
    """Return False if the block certainly has no log with this address or topic, True if it may have one."""
    bits = mask(item)
    return int.from_bytes(bloom, "big") & bits == bits
