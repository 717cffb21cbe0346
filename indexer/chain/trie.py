"""The root over a block's receipts: a Merkle-Patricia trie keyed by the RLP of each receipt's index. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from eth_hash.auto import keccak

from indexer.chain.rlp import array, integer, string

EMPTY_ROOT = keccak(string(b""))

Entries = list[tuple[bytes, bytes]]  # (key in nibbles, value), ascending.


def trie_root(values: Sequence[bytes]) -> bytes:
    """Return the root hash over the values, none of which may be empty."""
    entries = sorted((_nibbles(integer(position)), value) for position, value in enumerate(values))
    return keccak(_node(entries, 0, len(entries), 0)) if entries else EMPTY_ROOT


def _nibbles(key: bytes) -> bytes:
    return bytes([nibble for byte in key for nibble in (byte >> 4, byte & 15)])


def _node(entries: Entries, low: int, high: int, depth: int) -> bytes:
    """Encode the node over entries low..high-1, whose keys agree in their first `depth` nibbles."""
    first = entries[low][0]
    if high - low == 1:
        return array(string(_compact(first[depth:], 0x20)) + string(entries[low][1]))
    last, shared = entries[high - 1][0], depth
    while first[shared] == last[shared]:  # Terminates: no RLP is a prefix of another.
        shared += 1
    if shared > depth:
        return array(string(_compact(first[depth:shared], 0)) + _reference(entries, low, high, shared))
    children = [b"\x80"] * 17  # The last is the value at this very key; no key here ends at one.
    while low < high:
        nibble, end = entries[low][0][depth], low + 1
        while end < high and entries[end][0][depth] == nibble:
            end += 1
        children[nibble] = _reference(entries, low, end, depth + 1)
        low = end
    return array(b"".join(children))


def _reference(entries: Entries, low: int, high: int, depth: int) -> bytes:
    """Encode a node as its parent refers to it: the node itself if shorter than 32 bytes, else its hash."""
    node = _node(entries, low, high, depth)
    return node if len(node) < 32 else b"\xa0" + keccak(node)


def _compact(path: bytes, flag: int) -> bytes:
    """Apply the hex-prefix encoding to a partial path; `flag` is 0x20 for a leaf."""
    if len(path) % 2:
        flag, path = flag | 0x10 | path[0], path[1:]
    return bytes([flag, *(path[n] << 4 | path[n + 1] for n in range(0, len(path), 2))])
