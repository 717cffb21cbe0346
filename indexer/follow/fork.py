"""The fork point on one endpoint, and the replacement read from it into staging before anything is deleted (rule 6)."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.chain.forkpoint import ForkSearch, Outcome
from indexer.chain.types import Anchor
from indexer.errors import Inconsistent
from indexer.ingest.fetch import fetch_chained
from indexer.ingest.units import SeamBroken
from indexer.rpc.reader import Reader
from indexer.store import staging
from indexer.store.database import Connection
from indexer.store.standing import anchors_between

STAGED_BLOCKS = 200  # blocks per request and staging step: bounds memory, whatever the depth


async def find_fork(reader: Reader, conn: Connection, start: int, floor: int) -> Anchor | None:
    """The highest stored block at or below `start` that is on the reader's chain; None when even the floor is not.

    Blocks that a rollback removed are not stored any more, so they are never evidence. Raises RpcError; Inconsistent
    when the node changed its chain during the search.
    """
    search = ForkSearch(await anchors_between(conn, max(floor, 0), start))
    while wanted := search.ask():
        search.tell({h.number: h.hash for h in await reader.headers(wanted)})
    if search.outcome is Outcome.INCONCLUSIVE:
        raise Inconsistent("its blocks changed during the fork search", reader.name)
    return search.fork if search.outcome is Outcome.COMMON else None


async def stage_replacement(
    reader: Reader, conn: Connection, fork: Anchor, last: int, addresses: Sequence[str]
) -> Anchor:
    """Reads, validates and stages blocks fork + 1 .. last, chained to the fork point. Its last block.

    Raises RpcError; Inconsistent when the blocks do not follow each other.
    """
    await staging.clear(conn)
    tip = fork
    while tip.number < last:
        upto = min(tip.number + STAGED_BLOCKS, last)
        try:
            unit = await fetch_chained(reader, tip.number + 1, upto, addresses, tip.hash)
        except SeamBroken as broken:
            raise Inconsistent(f"block {broken.number} changed while the replacement was read", reader.name) from broken
        await staging.add(conn, unit)
        end = unit.blocks[-1]
        tip = Anchor(end.number, end.hash, end.timestamp)
    return tip
