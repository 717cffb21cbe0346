"""The hash of a block, computed from the fields of its header. Pure.

Arbitrum's headers are Ethereum's of the London fork; the extra fields its nodes show (l1BlockNumber, sendRoot,
sendCount) are already contained in extraData and mixHash.
"""

from __future__ import annotations

from collections.abc import Mapping

from eth_hash.auto import keccak

from indexer.chain.rlp import array, integer, string

# JSON-RPC names and sizes (bytes) in hashing order. A size of 0 means a number, None bytes of any length.
FIELDS: tuple[tuple[str, int | None], ...] = (
    ("parentHash", 32), ("sha3Uncles", 32), ("miner", 20), ("stateRoot", 32), ("transactionsRoot", 32),
    ("receiptsRoot", 32), ("logsBloom", 256), ("difficulty", 0), ("number", 0), ("gasLimit", 0), ("gasUsed", 0),
    ("timestamp", 0), ("extraData", None), ("mixHash", 32), ("nonce", 8),
)  # fmt: skip
# Later forks appended these; a header has the first few of them and no gaps.
LATER_FIELDS: tuple[tuple[str, int | None], ...] = (
    ("baseFeePerGas", 0),  # London
    ("withdrawalsRoot", 32),  # Shanghai
    ("blobGasUsed", 0), ("excessBlobGas", 0), ("parentBeaconBlockRoot", 32),  # Cancun
    ("requestsHash", 32),  # Prague
)  # fmt: skip


def header_hash(values: Mapping[str, bytes | int]) -> bytes:
    """Return the keccak hash of the header. Raises KeyError if one of FIELDS is missing.

    Of LATER_FIELDS, the header ends before the first one that is missing. Names that are not listed do not matter.
    """
    parts = [_encoded(values[name]) for name, _ in FIELDS]
    for name, _ in LATER_FIELDS:
        if name not in values:
            break
        parts.append(_encoded(values[name]))
    return keccak(array(b"".join(parts)))


def _encoded(value: bytes | int) -> bytes:
    return integer(value) if isinstance(value, int) else string(value)
