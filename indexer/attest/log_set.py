"""What is wrong with logs that an endpoint served, beside those that headers prove. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import NamedTuple

from indexer.chain.types import Log

LEFT_OUT, MADE_UP, CHANGED, WRONG_INDEX = "left out a log", "made up a log", "changed a log", "gave a wrong log index"


class LogFault(NamedTuple):
    """`log_index` is the true one; of a log that is none, the one it was given."""

    block: int
    log_index: int
    what: str


def diff_logs(said: Iterable[Log], truth: Iterable[Log]) -> list[LogFault]:
    """In chain order. A log that stands elsewhere in its block is one fault, not two."""
    theirs = {log[:2]: log[2:7] for log in said}
    true = {log[:2]: log[2:7] for log in truth}
    found = [LogFault(*place, CHANGED) for place in theirs.keys() & true.keys() if theirs[place] != true[place]]
    moved = {(place[0], theirs[place]): place for place in theirs.keys() - true.keys()}
    for place in sorted(true.keys() - theirs.keys()):
        elsewhere = moved.pop((place[0], true[place]), None)
        found.append(LogFault(*place, LEFT_OUT if elsewhere is None else WRONG_INDEX))
    return sorted(found + [LogFault(*place, MADE_UP) for place in moved.values()])


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
