"""Messages between a worker and whoever started it: pickled objects, each behind its length in four bytes.

Both ends are processes of one program on one machine; nothing else may write into such a pipe.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import Any


def packed(message: object) -> bytes:
    body = pickle.dumps(message)
    return len(body).to_bytes(4) + body


async def received(source: asyncio.StreamReader) -> Any:
    """The next message; None at the end, also in the middle of one."""
    try:
        return pickle.loads(await source.readexactly(int.from_bytes(await source.readexactly(4))))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
