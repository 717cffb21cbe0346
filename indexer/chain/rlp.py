"""RLP encoding, as far as headers, receipts and trie nodes need it (Yellow Paper, appendix B). Pure."""

from __future__ import annotations


def string(data: bytes) -> bytes:
    """Encode bytes."""
    size = len(data)
    if size == 1 and data[0] < 0x80:
        return data
    return bytes((0x80 + size,)) + data if size < 56 else _long(size, 0xB7) + data


def integer(number: int) -> bytes:
    """Encode a number as its shortest big-endian bytes; 0 has none. Raises OverflowError below 0."""
    return string(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def array(body: bytes) -> bytes:
    """Encode a list, given its encoded items joined."""
    size = len(body)
    return bytes((0xC0 + size,)) + body if size < 56 else _long(size, 0xF7) + body


def _long(size: int, offset: int) -> bytes:
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((offset + len(length),)) + length
