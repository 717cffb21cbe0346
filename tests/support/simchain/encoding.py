"""What Ethereum hashes, from its definitions: RLP, the Merkle-Patricia root of a list, blooms, headers, receipts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from eth_hash.auto import keccak

Rlp = bytes | int | Sequence["Rlp"]

EMPTY_UNCLES = bytes.fromhex("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347")
EMPTY_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
EMPTY_BLOOM = bytes(256)
# The header as London has it, in hashing order: JSON name, and whether it is a quantity.
LONDON = (
    ("parentHash", False), ("sha3Uncles", False), ("miner", False), ("stateRoot", False), ("transactionsRoot", False),
    ("receiptsRoot", False), ("logsBloom", False), ("difficulty", True), ("number", True), ("gasLimit", True),
    ("gasUsed", True), ("timestamp", True), ("extraData", False), ("mixHash", False), ("nonce", False),
    ("baseFeePerGas", True),
)  # fmt: skip


def rlp(item: Rlp) -> bytes:
    """RLP; integers as their shortest big-endian bytes."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(len(item), 0x80) + item
    if isinstance(item, int):
        return rlp(item.to_bytes((item.bit_length() + 7) // 8, "big"))
    body = b"".join([rlp(part) for part in item])
    return _prefix(len(body), 0xC0) + body


def _prefix(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes((offset + size,))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((offset + 55 + len(length),)) + length


def trie_root(pairs: Mapping[bytes, bytes]) -> bytes:
    """The root hash of the Merkle-Patricia trie of these pairs; empty values are no entries."""
    entries = sorted((_nibbles(k), v) for k, v in pairs.items() if v)
    return keccak(rlp(_node(entries, 0))) if entries else EMPTY_ROOT


def list_root(values: Sequence[bytes]) -> bytes:
    """The root over a block's transactions or receipts: keys are the RLP of the positions."""
    return trie_root({rlp(n): value for n, value in enumerate(values)})


def _nibbles(key: bytes) -> bytes:
    return bytes(n for byte in key for n in (byte >> 4, byte & 15))


def _compact(path: bytes, leaf: bool) -> bytes:
    """Hex-prefix encoding of a partial path."""
    flag = 2 if leaf else 0
    padded = bytes((flag + 1, *path)) if len(path) % 2 else bytes((flag, 0, *path))
    return bytes(padded[n] << 4 | padded[n + 1] for n in range(0, len(padded), 2))


def _node(entries: list[tuple[bytes, bytes]], depth: int) -> Rlp:
    """The node of sorted entries that agree in their first `depth` nibbles."""
    first = entries[0][0]
    if len(entries) == 1:
        return [_compact(first[depth:], True), entries[0][1]]
    last, shared = entries[-1][0], depth
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    if shared > depth:
        return [_compact(first[depth:shared], False), _reference(entries, shared)]
    children: list[Rlp] = [b""] * 16
    value = first == last[:depth]
    for nibble in {path[depth] for path, _ in entries[value:]}:
        children[nibble] = _reference([e for e in entries[value:] if e[0][depth] == nibble], depth + 1)
    return [*children, entries[0][1] if value else b""]


def _reference(entries: list[tuple[bytes, bytes]], depth: int) -> Rlp:
    """A node inside its parent: as it is below 32 bytes, else its hash."""
    node = _node(entries, depth)
    encoded = rlp(node)
    return node if len(encoded) < 32 else keccak(encoded)


@lru_cache(65536)
def bloom_bits(value: bytes) -> int:
    """The three bits of an address or topic, as an integer of 2048 bits."""
    digest, bits = keccak(value), 0
    for n in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[n : n + 2], "big") & 2047)
    return bits


def bloom(values: Iterable[bytes]) -> bytes:
    """The 256-byte bloom of these addresses and topics."""
    bits = 0
    for value in values:
        bits |= bloom_bits(value)
    return bits.to_bytes(256, "big") if bits else EMPTY_BLOOM


def receipt(
    kind: int, status: int, cumulative_gas: int, logs_bloom: bytes, logs: Sequence[tuple[bytes, Sequence[bytes], bytes]]
) -> bytes:
    """A receipt as it enters the trie; kind 0 is the legacy form, without a type byte."""
    body = rlp([status, cumulative_gas, logs_bloom, [[address, topics, data] for address, topics, data in logs]])
    return bytes((kind,)) + body if kind else body


def header_hash(header: Mapping[str, Any]) -> bytes:
    """The hash of a header in JSON-RPC form; before London it ends at the nonce."""
    fields: list[Rlp] = []
    for name, quantity in LONDON:
        if name not in header:
            continue
        text = header[name]
        fields.append(int(text, 16) if quantity else bytes.fromhex(text[2:]))
    return keccak(rlp(fields))
