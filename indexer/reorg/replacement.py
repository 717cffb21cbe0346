"""The fork point on one endpoint, and the replacement read from it into staging before anything is deleted (verify
before delete)."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence

from indexer.chain.batch import LogBatch
from indexer.chain.finality import FinalBlock
from indexer.chain.forks import ClaimKind, ForkClaim
from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.errors import InconsistentResponseError, NotFinalError, ParentMismatchError, RangeTooLargeError
from indexer.ingest.fetch import fetch_head
from indexer.reorg.claims import claim, final_upto
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import staging
from indexer.store.index_state import IndexState
from indexer.store.reorg_journal import Reorg

MAX_STAGED_BLOCKS = 200  # blocks per request and staging step: bounds memory, whatever the depth


async def read_replacement(
    reader: Reader, fork: BlockRef, last: int, addresses: Sequence[str], keep: Callable[[LogBatch], Awaitable[None]]
) -> BlockRef:
    """Reads and validates blocks fork + 1 .. last, chained to the fork point, each unit given to `keep`. Its end.

    Raises RpcError; InconsistentResponseError when the blocks do not follow each other.
    """
    tip, size = fork, MAX_STAGED_BLOCKS
    while tip.number < last:
        upto = min(tip.number + size, last)
        try:
            unit = await fetch_head(reader, tip.number + 1, upto, addresses, tip.hash, proven=True)
        except ParentMismatchError as broken:
            raise InconsistentResponseError(
                f"block {broken.number} changed while the replacement was read", reader.name
            ) from broken
        except RangeTooLargeError:
            if size == 1:
                raise
            size = max(1, (upto - tip.number) // 2)
            continue
        await keep(unit)
        end = unit.blocks[-1]
        tip = BlockRef(end.number, end.hash, end.timestamp)
    return tip


async def stage_replacement(
    pool: Pool, conn: Connection, state: IndexState, found: ForkClaim, cause: str, final: FinalBlock, token: int
) -> tuple[Reorg, int]:  # fmt: skip
    """Reads the replacement into staging from the endpoint that claimed it, else from another that claims a fork; and
    up to which block the chain that it ends is final, by the word of who served it.

    Raises RpcError when no endpoint serves it in a form that can be believed, LeaseLostError.
    """
    tip = state.tip
    assert tip is not None

    async def from_one(reader: Reader) -> tuple[Reorg, int]:
        said = found if reader.name == found.endpoint else await claim(reader, conn, state)
        if said.kind is not ClaimKind.FORK or said.fork is None or said.head is None:
            raise InconsistentResponseError(said.detail or f"serves no such fork ({said.kind.value})", reader.name)
        last = min(said.head.number, max(tip.number, said.fork.number + 1))
        reorg = await stage_replacement_from(reader, conn, state, said.fork, last, cause, token)
        if await staging.first_block_unchanged(conn, said.fork.number + 1):
            # The chain came back while we read: a swap would archive rows that never were orphaned.
            raise InconsistentResponseError("serves the stored chain again", reader.name)
        upto = await final_upto(reader, reorg.new_tip, final)
        if upto is None:
            raise InconsistentResponseError(f"block {last} changed after the replacement was read", reader.name)
        if final.hash and upto < 0 and said.fork.number < final.number:
            # It denies a block that another endpoint called final: its branch is the orphaned one.
            raise NotFinalError(
                f"its fork from block {said.fork.number} lacks the final block {final.number}", reader.name
            )
        return reorg, upto

    return await pool.with_failover(from_one, prefer=found.endpoint)


async def stage_replacement_from(
    reader: Reader, conn: Connection, state: IndexState, fork: BlockRef, last: int, cause: str, token: int
) -> Reorg:  # fmt: skip
    """Blocks fork + 1 .. last of one endpoint, staged, for the contracts that are covered above the fork point."""
    assert state.tip is not None
    addresses = state.contracts_covered_above(fork.number)
    await staging.clear(conn, token)
    keep = functools.partial(staging.add, conn, token=token)
    new_tip = await read_replacement(reader, fork, last, addresses, keep)
    return Reorg(fork, state.tip, new_tip, addresses, reader.name, cause)
