"""Fetching a unit from one endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from indexer.ingest.units import Unit, confirm_chained, confirm_plain, without_logs_though_announced
from indexer.rpc.reader import Reader

# Seconds between looks at a block whose bloom announces logs that did not come; about two seconds in all.
_LOOK_AGAIN = (0.1, 0.2, 0.4, 0.6, 0.8)


async def fetch_plain(reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None) -> Unit:
    """A confirmed range at or below finalized: one request, or two where the node's logs carry no time.

    Raises RpcError, or SeamBroken.
    """
    logs, headers = await reader.logs_with_headers(first, last, addresses, sorted({first, last}))
    known = {h.number for h in headers}
    lacking = sorted({g.block_number for g in logs if g.block_timestamp is None} - known)
    if lacking:
        headers = [*headers, *await reader.headers(lacking)]
    return confirm_plain(first, last, addresses, logs, headers, before)


async def fetch_chained(reader: Reader, first: int, last: int, addresses: Sequence[str], before: bytes | None) -> Unit:
    """A confirmed range above finalized: logs and every header in one request. Raises RpcError, or SeamBroken."""
    numbers = range(first, last + 1)
    for pause in (*_LOOK_AGAIN, None):
        logs, headers = await reader.logs_with_headers(first, last, addresses, numbers)
        unit = confirm_chained(first, last, addresses, logs, headers, before)
        if pause is None or not without_logs_though_announced(unit):
            break
        await asyncio.sleep(pause)
    return unit
