"""Replacements of orphaned blocks: read into staging before anything is deleted (verify before delete)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.finality import FinalBlock
from indexer.chain.forks import ClaimKind, ForkClaim
from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.errors import InconsistentResponseError, NotFinalError, ParentMismatchError, RangeTooLargeError
from indexer.ingest.fetch import fetch_head
from indexer.ingest.proven_batch import prove_batch
from indexer.reorg.claims import claim, final_up_to
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import staging
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

MAX_STAGED_BLOCKS = 200  # per request and staging step: bounds memory, whatever the depth of the reorg


async def read_replacement(
    reader: Reader, fork: BlockRef, last: int, addresses: Sequence[str], on_batch: Callable[[LogBatch], Awaitable[None]]
) -> BlockRef:
    """Read and validate blocks fork + 1 .. last, chained to the fork point. Returns the last one.

    Args:
        reader: The endpoint.
        fork: The fork point.
        last: Last block to read.
        addresses: Contracts whose logs are requested.
        on_batch: Awaited with each log batch.

    Raises:
        RpcError: The endpoint failed; InconsistentResponseError if the blocks do not follow each other.
    """
    tip, size = fork, MAX_STAGED_BLOCKS
    while tip.number < last:
        up_to = min(tip.number + size, last)
        try:
            batch = await fetch_head(reader, tip.number + 1, up_to, addresses, tip.hash, proven=True)
        except ParentMismatchError as mismatch:
            raise InconsistentResponseError(
                f"block {mismatch.number} changed while the replacement was read", reader.name
            ) from mismatch
        except RangeTooLargeError:
            if size == 1:
                raise
            size = max(1, (up_to - tip.number) // 2)
            continue
        await on_batch(batch)
        end = batch.blocks[-1]
        tip = end.ref()
    return tip


async def stage_replacement(
    pool: Pool, conn: Connection, state: IndexState, fork_claim: ForkClaim, cause: str, final: FinalBlock, token: int,
    *, strict: bool = False,
) -> tuple[Reorg, int]:  # fmt: skip
    """Read the replacement into staging from the endpoint that claimed it, else from another that claims a fork.

    Args:
        pool: The endpoints.
        conn: Connection to read and write on.
        state: Index state with a tip.
        fork_claim: The claim to start from.
        cause: Reason for the journal.
        final: The highest block known to be final.
        token: Token of the lease.
        strict: Whether every block must be proven before it is staged.

    Returns:
        The reorg, and the block up to which the new chain is final according to the endpoint that served it.

    Raises:
        RpcError: No endpoint serves the replacement in a form that can be believed.
        LeaseLostError: Another process holds the lease.
    """
    tip = state.tip
    assert tip is not None

    async def from_one(reader: Reader) -> tuple[Reorg, int]:
        answer = fork_claim if reader.name == fork_claim.endpoint else await claim(reader, conn, state)
        if answer.kind is not ClaimKind.FORK or answer.fork is None or answer.head is None:
            raise InconsistentResponseError(answer.detail or f"serves no such fork ({answer.kind.value})", reader.name)
        last = min(answer.head.number, max(tip.number, answer.fork.number + 1))
        provers = pool if strict else None
        reorg = await stage_replacement_from(reader, conn, state, answer.fork, last, cause, token, provers)
        if await staging.first_block_unchanged(conn, answer.fork.number + 1):
            # The chain came back meanwhile: replacing its blocks would archive rows that never were orphaned.
            raise InconsistentResponseError("serves the stored chain again", reader.name)
        up_to = await final_up_to(reader, reorg.new_tip, final)
        if up_to is None:
            raise InconsistentResponseError(f"block {last} changed after the replacement was read", reader.name)
        if final.hash and up_to < 0 and answer.fork.number < final.number:
            # It denies a block that another endpoint called final: its branch is the orphaned one.
            raise NotFinalError(
                f"its fork from block {answer.fork.number} lacks the final block {final.number}", reader.name
            )
        return reorg, up_to

    return await pool.with_failover(from_one, prefer=fork_claim.endpoint)


async def stage_replacement_from(
    reader: Reader, conn: Connection, state: IndexState, fork: BlockRef, last: int, cause: str, token: int,
    provers: Pool | None = None,
) -> Reorg:  # fmt: skip
    """Stage blocks fork + 1 .. last of one endpoint, for the contracts that are covered above the fork point.

    Args:
        reader: The endpoint.
        conn: Connection to write on.
        state: Index state with a tip.
        fork: The fork point.
        last: Last block to read.
        cause: Reason for the journal.
        token: Token of the lease.
        provers: Endpoints that must prove every block before it is staged; None: the reader is believed.

    Raises:
        RpcError: The endpoint failed, or a block is not proven.
        LeaseLostError: Another process holds the lease.
    """
    assert state.tip is not None
    addresses = state.contracts_covered_above(fork.number)
    await staging.clear(conn, token)

    proven: dict[int, tuple[bytes, str]] = {}
    faults: list[EndpointFault] = []

    async def stage(batch: LogBatch) -> None:
        if provers is not None:
            sources = (ServedRange(batch.first, batch.last, reader.name),)
            batch, proof = await prove_batch(provers, replace(batch, sources=sources))
            proven.update({b.number: (b.hash, proof.proven_by[b.number]) for b in batch.blocks})
            faults.extend(proof.faults)
        await staging.add(conn, batch, token)

    new_tip = await read_replacement(reader, fork, last, addresses, stage)
    return Reorg(fork, state.tip, new_tip, addresses, reader.name, cause, proven, tuple(faults))
