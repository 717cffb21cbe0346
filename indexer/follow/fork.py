"""Where the stored chain and the node's chain part: by hash, from the top down."""

from __future__ import annotations

from indexer.chain.types import Anchor
from indexer.rpc.reader import Reader
from indexer.store.database import Connection
from indexer.store.standing import anchors_below


async def find_fork(reader: Reader, conn: Connection, start: int, floor: int) -> Anchor | None:
    """The highest stored block at or below `start` that is on the reader's chain; None when even the floor is not.

    Blocks that a rollback removed are not stored any more, so they are never evidence. Raises RpcError.
    """
    batch = 16
    while start >= floor:
        anchors = await anchors_below(conn, start, max(floor, 0), batch)
        if not anchors:
            return None
        headers = await reader.headers([a.number for a in anchors])
        for anchor, header in zip(anchors, headers, strict=True):
            if anchor.hash == header.hash:
                return anchor
        start = anchors[-1].number - 1
        batch *= 4
    return None
