"""Messages between a worker and its parent: pickled objects, each behind its length in four bytes.

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
    """Return the message pickled, behind its length."""
    body = pickle.dumps(message)
    return len(body).to_bytes(4) + body


async def read_message(source: asyncio.StreamReader) -> Any:
    """Return the next message; None at the end of the stream, even in the middle of a message."""
    try:
        return pickle.loads(await source.readexactly(int.from_bytes(await source.readexactly(4))))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def dump_batch(batch: LogBatch) -> bytes:
    """Return a log batch as bytes; marshal writes plain tuples at a third of pickle's cost."""
    logs, blocks = list(map(tuple, batch.logs)), list(map(tuple, batch.blocks))
    return marshal.dumps((batch.first, batch.last, batch.addresses, logs, blocks))


def load_batch(body: bytes) -> LogBatch:
    """Return the log batch that `dump_batch` wrote."""
    first, last, addresses, logs, blocks = marshal.loads(body)
    return LogBatch(first, last, addresses, list(map(made_log, logs)), list(map(made_header, blocks)))
