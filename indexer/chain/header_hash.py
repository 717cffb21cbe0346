"""The hash of a block out of its header's fields. Pure.

Arbitrum's headers are Ethereum's of the London fork; what its nodes show besides (l1BlockNumber, sendRoot, sendCount)
stands in extraData and mixHash already.
"""

from __future__ import annotations

from collections.abc import Mapping

from eth_hash.auto import keccak

from indexer.chain.rlp import array, integer, string

# JSON-RPC name and size in bytes; a size of 0 is a number, None any bytes. In hashing order.
FIELDS: tuple[tuple[str, int | None], ...] = (
    ("parentHash", 32), ("sha3Uncles", 32), ("miner", 20), ("stateRoot", 32), ("transactionsRoot", 32),
    ("receiptsRoot", 32), ("logsBloom", 256), ("difficulty", 0), ("number", 0), ("gasLimit", 0), ("gasUsed", 0),
    ("timestamp", 0), ("extraData", None), ("mixHash", 32), ("nonce", 8),
)  # fmt: skip
# Each later fork appended some: a header has the first so many of them.
LATER: tuple[tuple[str, int | None], ...] = (
    ("baseFeePerGas", 0),  # London
    ("withdrawalsRoot", 32),  # Shanghai
    ("blobGasUsed", 0), ("excessBlobGas", 0), ("parentBeaconBlockRoot", 32),  # Cancun
    ("requestsHash", 32),  # Prague
)  # fmt: skip


def header_hash(values: Mapping[str, bytes | int]) -> bytes:
    """keccak of the header. Raises KeyError when one of FIELDS is missing.

    Of LATER the header ends before the first one that is missing. Names that are not listed do not matter.
    """
    parts = [_encoded(values[name]) for name, _ in FIELDS]
    for name, _ in LATER:
        if name not in values:
            break
        parts.append(_encoded(values[name]))
    return keccak(array(b"".join(parts)))


def _encoded(value: bytes | int) -> bytes:
    return integer(value) if isinstance(value, int) else string(value)
