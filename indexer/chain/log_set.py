"""Differences between the logs that an endpoint served and the proven ones, and the digest of a set of logs. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import NamedTuple

from indexer.chain.types import Log

LEFT_OUT, MADE_UP, CHANGED, WRONG_INDEX = "left out a log", "made up a log", "changed a log", "gave a wrong log index"


class LogFault(NamedTuple):
    """One wrong log. `log_index` is the true one; for a log that does not exist, the index it was given."""

    block: int
    log_index: int
    what: str


def diff_logs(answer: Iterable[Log], truth: Iterable[Log]) -> list[LogFault]:
    """Return the faults of an answer in chain order. A log at another index of its block is one fault, not two."""
    answered = {log.identity: log.content for log in answer}
    true = {log.identity: log.content for log in truth}
    faults = [LogFault(*key, CHANGED) for key in answered.keys() & true.keys() if answered[key] != true[key]]
    moved = {(key[0], answered[key]): key for key in answered.keys() - true.keys()}
    for key in sorted(true.keys() - answered.keys()):
        elsewhere = moved.pop((key[0], true[key]), None)
        faults.append(LogFault(*key, LEFT_OUT if elsewhere is None else WRONG_INDEX))
    return sorted(faults + [LogFault(*key, MADE_UP) for key in moved.values()])


_NUMBERS = struct.Struct(">QII")


def digest(logs: Iterable[Log]) -> bytes:
    """Return the SHA-256 digest of logs that are given in chain order."""
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
