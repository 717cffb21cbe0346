"""Messages between a worker and whoever started it: pickled objects, each behind its length in four bytes.

Both ends are processes of one program on one machine; nothing else may write into such a pipe.
"""

from __future__ import annotations

import asyncio
import marshal
import pickle
from typing import Any

from indexer.chain.batch import LogBatch
from indexer.chain.types import made_header, made_log


def encode_message(message: object) -> bytes:
    body = pickle.dumps(message)
    return len(body).to_bytes(4) + body


async def read_message(source: asyncio.StreamReader) -> Any:
    """The next message; None at the end, also in the middle of one."""
    try:
        return pickle.loads(await source.readexactly(int.from_bytes(await source.readexactly(4))))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def dump_batch(unit: LogBatch) -> bytes:
    """A unit as bytes; marshal writes plain tuples at a third of pickle's cost."""
    logs, blocks = list(map(tuple, unit.logs)), list(map(tuple, unit.blocks))
    return marshal.dumps((unit.first, unit.last, unit.addresses, logs, blocks))


def load_batch(body: bytes) -> LogBatch:
    first, last, addresses, logs, blocks = marshal.loads(body)
    return LogBatch(first, last, addresses, list(map(made_log, logs)), list(map(made_header, blocks)))
