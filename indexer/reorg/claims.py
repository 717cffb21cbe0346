"""The fork point on one endpoint, and the replacement read from it into staging before anything is deleted (verify
before delete)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from indexer.chain.finality import NOTHING_FINAL, FinalBlock
from indexer.chain.forks import ClaimKind, ForkClaim, ForkSearch, ForkSearchOutcome
from indexer.chain.ranges import gaps_in
from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.errors import (
    InconsistentResponseError,
    IndexerError,
    MissingBlockError,
    NotFinalError,
    RpcError,
    StoredHashMismatchError,
)
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.index_state import IndexState, block_refs_below, block_refs_between


async def claim(reader: Reader, conn: Connection, state: IndexState, final: FinalBlock = NOTHING_FINAL) -> ForkClaim:
    """What the reader's chain is to the stored one, by hash; its own head bounds the search. Never raises RpcError."""
    try:
        found = await _claim(reader, conn, state)
    except RpcError as error:
        return ForkClaim(reader.name, ClaimKind.UNCLEAR, detail=error.message)
    if found.kind is ClaimKind.DEEP and found.head is not None and final.hash and found.head.number < final.number:
        detail = f"{reader.name} is on another branch at block {found.head.number}, below what is final"
        return replace(found, behind=True, detail=detail)
    return found


async def _claim(reader: Reader, conn: Connection, state: IndexState) -> ForkClaim:
    latest = (await reader.heads()).latest
    head, tip, floor = BlockRef(latest.number, latest.hash, latest.timestamp), state.tip, state.floor
    assert tip is not None
    start = min(tip.number, head.number)
    # Never below the origin: a fork point there would pull in blocks that nobody asked for.
    anchors = await block_refs_between(conn, max(floor, state.binding.origin), start)
    if start < floor or not anchors:
        detail = f"{reader.name} is at block {head.number}, below what is final here"
        return ForkClaim(reader.name, ClaimKind.LAGGING, None, head, detail)
    fork = await highest_common(reader, anchors, state)
    if fork is None:
        return await _below(reader, state, head, anchors[0])
    finding = ClaimKind.SAME if fork.number in (tip.number, head.number) else ClaimKind.FORK
    detail = f"{reader.name} serves the stored chain up to block {fork.number}" if finding is ClaimKind.SAME else ""
    return ForkClaim(reader.name, finding, fork, head, detail)


async def highest_common(reader: Reader, anchors: Sequence[BlockRef], state: IndexState) -> BlockRef | None:
    """The highest of the anchors, ascending, up to which all are on the reader's chain. Raises
    InconsistentResponseError."""
    fork = None
    for part in _chained(anchors, state):
        found = await _search(reader, part)
        fork = found or fork
        if found != part[-1]:
            break
    return fork


async def final_upto(reader: Reader, block: BlockRef, final: FinalBlock) -> int | None:
    """Up to which block the chain that ends on `block` is final, as one answer of the reader shows; -1 where it lacks
    the final block, None when `block` is not on its chain. Raises MissingBlockError for a block that it does not
    have."""
    found, *witness = await reader.found([block.number, *final.witness])
    if found is None:
        raise MissingBlockError(f"block {block.number} is missing", reader.name)
    return final.final_up_to(next(iter(witness), None)) if found.hash == block.hash else None


async def confirm_stored(pool: Pool, conn: Connection, state: IndexState, finalized: int, final: FinalBlock) -> None:
    """Blocks that were stored before they were final join the final block, or bulk work would project orphans for good.

    What is below the highest of them joins it by its seams. Raises StoredHashMismatchError, NotFinalError and other
    RpcErrors.
    """
    highest = next(iter(await block_refs_below(conn, finalized + 1, 1)), None)
    if highest is None or highest.number <= state.floor:
        return

    async def ask(reader: Reader) -> bool:
        upto = await final_upto(reader, highest, final)
        if upto is not None and upto < highest.number:
            raise NotFinalError(f"block {highest.number} does not join the final block {final.number}", reader.name)
        return upto is not None

    if not await pool.with_failover(ask):
        raise StoredHashMismatchError(highest.number)


def _chained(anchors: Sequence[BlockRef], state: IndexState) -> Iterator[list[BlockRef]]:
    """The anchors, ascending, cut where blocks between them are not ingested: another process may have ingested final
    blocks above a stored tip that was reorged away, so that across a gap a common block says nothing of lower ones."""
    spans = [span for spans in state.coverage.values() for span in spans]
    gaps = gaps_in(spans, anchors[0].number + 1, anchors[-1].number)
    cuts = [edge for gap in gaps for edge in (gap.first, gap.last + 1)]
    for _, part in groupby(anchors, lambda anchor: bisect_right(cuts, anchor.number)):
        yield list(part)


async def _search(reader: Reader, anchors: Sequence[BlockRef]) -> BlockRef | None:
    search = ForkSearch(anchors)
    while wanted := search.ask():
        search.tell({h.number: h.hash for h in await reader.headers(wanted)})
    if search.outcome is ForkSearchOutcome.INCONCLUSIVE:
        raise InconsistentResponseError("its blocks changed during the fork search", reader.name)
    return None if search.outcome is ForkSearchOutcome.BELOW_RETAINED else search.fork


async def _below(reader: Reader, state: IndexState, head: BlockRef, lowest: BlockRef) -> ForkClaim:
    """No stored block is common: too deep, unless nothing final is stored, when the block before the first is it."""
    if state.floor < lowest.number and lowest.number > 0 and state.binding.number < lowest.number:
        before = await reader.header(lowest.number - 1)
        if before is not None:
            return ForkClaim(reader.name, ClaimKind.FORK, BlockRef(before.number, before.hash, before.timestamp), head)
    return ForkClaim(reader.name, ClaimKind.DEEP, None, head)


async def collect_claims(
    pool: Pool, conn: Connection, state: IndexState, final: FinalBlock, *, everyone: bool
) -> tuple[ForkClaim, ...]:  # fmt: skip
    """What one endpoint, or every one, says of the stored chain. Raises RpcError when none answers."""

    async def ask(reader: Reader) -> ForkClaim:
        return await claim(reader, conn, state, final)

    if not everyone:
        return (await pool.with_failover(ask),)
    answers = await pool.ask_all(ask)
    return tuple(
        ForkClaim("", ClaimKind.UNCLEAR, detail=a.message) if isinstance(a, IndexerError) else a for a in answers
    )
