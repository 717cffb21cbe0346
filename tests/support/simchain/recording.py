"""Chain files: one block a line, and such a file in memory with its logs serialised for answers.

The first line is an object with chain_id, head (the number of the last block) and logs (their number).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests.support.simchain.chain import Block, SimLog, SimTx

Json = dict[str, Any]


def line_of(block: Block) -> bytes:
    """A block as one line of a chain file."""
    txs = [
        [tx.hash.hex(), tx.kind, tx.status, [[g.address, [t.hex() for t in g.topics], g.data.hex()] for g in tx.logs]]
        for tx in block.txs
    ]
    told = {f.name: getattr(block, f.name) for f in fields(block)} | {"txs": txs}
    return orjson.dumps({k: v.hex() if isinstance(v, bytes) else v for k, v in told.items()}) + b"\n"


def block_of(line: bytes) -> Block:
    """The block of a line."""
    told = orjson.loads(line)
    unhex, intern = bytes.fromhex, sys.intern
    told["txs"] = tuple(
        SimTx(unhex(h), tuple(SimLog(intern(a), tuple(map(unhex, t)), unhex(d)) for a, t, d in logs), kind, status)
        for h, kind, status, logs in told["txs"]
    )
    for name in ("hash", "parent", "logs_bloom", "receipts_root", "transactions_root", "extra"):
        told[name] = unhex(told[name])
    return Block(**told)


class Found(NamedTuple):
    """The logs that pass a filter, serialised with a comma behind each: block n's are buffer[at[n]:at[n + 1]], and
    before[n] logs stand before them."""

    buffer: bytes
    at: array[int]
    before: array[int]


class Recording:
    """A chain file in memory."""

    def __init__(self, path: Path, log_timestamp: bool) -> None:
        self.path = path
        self.headers: list[bytes] = []
        self.by_hash: dict[str, int] = {}
        self.kinds: dict[tuple[str, str], int] = {}  # (address, topic0) -> number
        self._lines: array[int] = array("Q")
        self._kind, self._end = array("H"), array("Q")  # by log
        buffer, at, before = bytearray(), array("Q"), array("Q")
        with path.open("rb") as file:
            self.meta: Json = orjson.loads(file.readline())
            position = file.tell()
            for line in file:
                self._lines.append(position)
                position += len(line)
                block = block_of(line)
                at.append(len(buffer))
                before.append(len(self._kind))
                self.headers.append(orjson.dumps(block.header()))
                self.by_hash[block.hex] = block.number
                for log in block.logs():
                    if not log_timestamp:
                        del log["blockTimestamp"]
                    buffer += orjson.dumps(log) + b","
                    kind = (log["address"], log["topics"][0] if log["topics"] else "")
                    self._kind.append(self.kinds.setdefault(kind, len(self.kinds)))
                    self._end.append(len(buffer))
        at.append(len(buffer))
        before.append(len(self._kind))
        self.everything = Found(bytes(buffer), at, before)
        self.head = len(self.headers) - 1
        self._found: dict[frozenset[int], Found] = {}

    def find(self, addresses: Collection[str] | None, topics: Collection[str] | None) -> Found:
        """The logs of these addresses and first topics; None lets every one pass."""
        wanted = frozenset(
            number
            for (address, topic), number in self.kinds.items()
            if (addresses is None or address in addresses) and (topics is None or topic in topics)
        )
        if len(wanted) == len(self.kinds):
            return self.everything
        if wanted not in self._found:
            self._found[wanted] = self._filtered(wanted)
        return self._found[wanted]

    def _filtered(self, wanted: frozenset[int]) -> Found:
        whole, at, before, buffer, count, log = self.everything, array("Q"), array("Q"), bytearray(), 0, 0
        for last in whole.before[1:]:
            at.append(len(buffer))
            before.append(count)
            for n in range(log, last):
                if self._kind[n] in wanted:
                    buffer += whole.buffer[self._end[n - 1] if n else 0 : self._end[n]]
                    count += 1
            log = last
        at.append(len(buffer))
        before.append(count)
        return Found(bytes(buffer), at, before)

    def block(self, number: int) -> Block:
        """A block, read again from the file."""
        with self.path.open("rb") as file:
            file.seek(self._lines[number])
            return block_of(file.readline())
