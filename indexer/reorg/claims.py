"""Claims of endpoints about the stored chain, and the search for the fork point behind them."""

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
    """Compare the reader's chain with the stored one by hash; the reader's head bounds the search.

    Never raises RpcError: an endpoint that fails makes an unclear claim.

    Args:
        reader: The endpoint.
        conn: Connection that stored blocks are read on.
        state: Index state with a tip.
        final: The highest block known to be final.
    """
    try:
        found = await _claim(reader, conn, state)
    except RpcError as error:
        return ForkClaim(reader.name, ClaimKind.UNCLEAR, detail=error.message)
    if found.kind is ClaimKind.DEEP and found.head is not None and final.hash and found.head.number < final.number:
        detail = f"{reader.name} is on another branch at block {found.head.number}, below what is final"
        return replace(found, behind=True, detail=detail)
    return found


async def _claim(reader: Reader, conn: Connection, state: IndexState) -> ForkClaim:
    latest = await reader.latest()
    head, tip, floor = latest.ref(), state.tip, state.floor
    assert tip is not None
    start = min(tip.number, head.number)
    # Never below the origin: a fork point there would pull in blocks that nobody requested.
    block_refs = await block_refs_between(conn, max(floor, state.binding.origin), start)
    if start < floor or not block_refs:
        detail = f"{reader.name} is at block {head.number}, below what is final here"
        return ForkClaim(reader.name, ClaimKind.LAGGING, None, head, detail)
    fork = await highest_common_block(reader, block_refs, state)
    if fork is None:
        return await _below(reader, state, head, block_refs[0])
    kind = ClaimKind.SAME if fork.number in (tip.number, head.number) else ClaimKind.FORK
    detail = f"{reader.name} serves the stored chain up to block {fork.number}" if kind is ClaimKind.SAME else ""
    return ForkClaim(reader.name, kind, fork, head, detail)


async def highest_common_block(reader: Reader, block_refs: Sequence[BlockRef], state: IndexState) -> BlockRef | None:
    """Return the highest of the block refs (ascending) up to which all are on the reader's chain.

    Returns None if the lowest is not. Raises InconsistentResponseError.
    """
    fork = None
    for part in _chained(block_refs, state):
        found = await _search(reader, part)
        fork = found or fork
        if found != part[-1]:
            break
    return fork


async def final_up_to(reader: Reader, block: BlockRef, final: FinalBlock) -> int | None:
    """Return the block up to which the chain that ends in `block` is final, as one answer of the reader shows.

    Returns -1 if the reader lacks the final block, None if `block` is not on its chain. Raises MissingBlockError if it
    does not have a block of that number.
    """
    found, *witness = await reader.found([block.number, *final.witness])
    if found is None:
        raise MissingBlockError(f"block {block.number} is missing", reader.name)
    return final.final_up_to(next(iter(witness), None)) if found.hash == block.hash else None


async def confirm_stored(pool: Pool, conn: Connection, state: IndexState, finalized: int, final: FinalBlock) -> None:
    """Check that blocks stored before they were final join the final block; else orphans would be projected for good.

    Everything below the highest of them joins it by parent links.

    Args:
        pool: The endpoints.
        conn: Connection that stored blocks are read on.
        state: Index state.
        finalized: Highest block to check.
        final: The block that they must join.

    Raises:
        StoredHashMismatchError: The highest such block is not on the chain.
        RpcError: No endpoint answered; NotFinalError if the block does not join the final one.
    """
    highest = next(iter(await block_refs_below(conn, finalized + 1, 1)), None)
    if highest is None or highest.number <= state.floor:
        return

    async def ask(reader: Reader) -> bool:
        up_to = await final_up_to(reader, highest, final)
        if up_to is not None and up_to < highest.number:
            raise NotFinalError(
                f"block {highest.number} does not connect to the final block {final.number}", reader.name
            )
        return up_to is not None

    if not await pool.with_failover(ask):
        raise StoredHashMismatchError(highest.number)


def _chained(block_refs: Sequence[BlockRef], state: IndexState) -> Iterator[list[BlockRef]]:
    """Cut the block refs (ascending) where blocks between them are not ingested.

    Another process may have ingested final blocks above a stored tip that was reorged away, so a common block above a
    gap says nothing about lower ones.
    """
    block_ranges = [block_range for block_ranges in state.coverage.values() for block_range in block_ranges]
    gaps = gaps_in(block_ranges, block_refs[0].number + 1, block_refs[-1].number)
    cuts = [edge for gap in gaps for edge in (gap.first, gap.last + 1)]
    for _, part in groupby(block_refs, lambda block_ref: bisect_right(cuts, block_ref.number)):
        yield list(part)


async def _search(reader: Reader, block_refs: Sequence[BlockRef]) -> BlockRef | None:
    search = ForkSearch(block_refs)
    while wanted := search.ask():
        search.tell({h.number: h.hash for h in await reader.headers(wanted)})
    if search.outcome is ForkSearchOutcome.INCONCLUSIVE:
        raise InconsistentResponseError("its blocks changed during the fork search", reader.name)
    return None if search.outcome is ForkSearchOutcome.BELOW_RETAINED else search.fork


async def _below(reader: Reader, state: IndexState, head: BlockRef, lowest: BlockRef) -> ForkClaim:
    """Return the claim of a chain that shares no stored block: too deep, unless nothing final is stored.

    In that case the block before the lowest stored one is the fork point.
    """
    if state.floor < lowest.number and lowest.number > 0 and state.binding.number < lowest.number:
        before = await reader.header(lowest.number - 1)
        if before is not None:
            return ForkClaim(reader.name, ClaimKind.FORK, before.ref(), head)
    return ForkClaim(reader.name, ClaimKind.DEEP, None, head)


async def collect_claims(
    pool: Pool, conn: Connection, state: IndexState, final: FinalBlock, *, everyone: bool
) -> tuple[ForkClaim, ...]:  # fmt: skip
    """Return the claims of one endpoint, or of every one, about the stored chain.

    Args:
        pool: The endpoints.
        conn: Connection that stored blocks are read on.
        state: Index state with a tip.
        final: The highest block known to be final.
        everyone: Whether to ask every endpoint.

    Raises:
        RpcError: No endpoint answered, when only one was to be asked.
    """

    async def ask(reader: Reader) -> ForkClaim:
        return await claim(reader, conn, state, final)

    if not everyone:
        return (await pool.with_failover(ask),)
    answers = await pool.ask_all(ask)
    return tuple(
        ForkClaim("", ClaimKind.UNCLEAR, detail=a.message) if isinstance(a, IndexerError) else a for a in answers
    )
