"""The bytes of an HTTP answer to JSON, with no more memory than an honest answer of its size would take. Pure.

A body is limited in bytes, but a byte of `[[],[],…` becomes twenty in memory, where one of a log becomes two. So the
number of values and of containers is limited by the size too; blocks, receipts and logs stay far below. How deep they
are nested orjson limits, to 1024.
"""

from __future__ import annotations

from typing import Any

import orjson

SMALL = 2 << 20  # bytes; up to it nothing grows beyond 40 MiB, and an answer of usual size need not be looked through
BYTES_EACH_VALUE, BYTES_EACH_CONTAINER = 20, 40  # a log has one value in 60 bytes, one container in 250


def parsed(body: bytes) -> Any:
    """The JSON value. Raises ValueError: not JSON, nested too deep, or too many values for its size."""
    if len(body) > SMALL:
        values = body.count(b",")
        containers = body.count(b"[") + body.count(b"{")
        if values * BYTES_EACH_VALUE > len(body) or containers * BYTES_EACH_CONTAINER > len(body):
            raise ValueError(f"{values:,} values and {containers:,} containers in {len(body):,} bytes")
    return orjson.loads(body)
