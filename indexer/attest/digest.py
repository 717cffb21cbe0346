"""The digest of logs that an attestation keeps: it says which logs were attested, whatever is stored later. Pure.

SHA-256 over the logs in chain order, each as: block number (8 bytes), block hash, log index (4), transaction index (4),
transaction hash, address, number of topics (1), topics, size of the data (4), data. Numbers big-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from indexer.chain.types import Log

_NUMBERS = struct.Struct(">QII")


def digest(logs: Iterable[Log]) -> bytes:
    """Of logs in chain order."""
    running = hashlib.sha256()
    for log in logs:
        place = _NUMBERS.pack(log.block_number, log.log_index, log.transaction_index)
        running.update(
            b"".join(
                (
                    place[:8], log.block_hash, place[8:], log.transaction_hash, log.address, bytes((len(log.topics),)),
                    *log.topics, len(log.data).to_bytes(4, "big"), log.data,
                )
            )
        )  # fmt: skip
    return running.digest()
