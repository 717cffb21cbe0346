"""Replacements of orphaned blocks: read into staging before anything is deleted (verify before delete)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.finality import FinalBlock
from indexer.chain.forks import ClaimKind, ForkClaim
from indexer.chain.types import BlockRef
from indexer.errors import (
    InconsistentResponseError,
    NotFinalError,
    ParentMismatchError,
    RangeTooLargeError,
    ReplacementUnavailableError,
    RpcError,
)
from indexer.ingest.fetch import fetch_head
from indexer.ingest.proven_batch import prove_batch
from indexer.projector.step import Step
from indexer.reorg.claims import claim, final_up_to
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import staging
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

T = TypeVar("T")
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


async def from_any_endpoint(
    pool: Pool, work: Callable[[Reader], Awaitable[T]], first: int, last: int, prefer: str = ""
) -> T:
    """Return what `work` reads of blocks first..last from the first endpoint that serves them.

    Args:
        pool: The endpoints.
        work: Reads from one endpoint, from the start.
        first: First block that it reads.
        last: Last block that it reads.
        prefer: The endpoint to ask first.

    Raises:
        ReplacementUnavailableError: No endpoint serves them.
    """
    try:
        return await pool.with_failover(work, prefer=prefer)
    except RpcError as error:
        raise ReplacementUnavailableError(
            f"no endpoint serves blocks {first} to {last}: {error.message}",
            "Nothing was changed. Use --rpc-url with an endpoint that has the logs and receipts of these blocks",
        ) from error


async def stage_replacement(
    pool: Pool, step: Step, fork_claim: ForkClaim, cause: str, final: FinalBlock, *, strict: bool = False
) -> tuple[Reorg, int]:
    """Read the replacement into staging from the endpoint that claimed it, else from another that claims a fork.

    Args:
        pool: The endpoints.
        step: Its index state must have a tip.
        fork_claim: The claim to start from.
        cause: Reason for the journal.
        final: The highest block known to be final.
        strict: Whether every block must be proven before it is staged.

    Returns:
        The reorg, and the block up to which the new chain is final according to the endpoint that served it.

    Raises:
        RpcError: No endpoint serves the replacement in a form that can be believed.
        LeaseLostError: Another process holds the lease.
    """
    tip = step.state.tip
    assert tip is not None

    async def from_one(reader: Reader) -> tuple[Reorg, int]:
        answer = fork_claim if reader.name == fork_claim.endpoint else await claim(reader, step.conn, step.state)
        if answer.kind is not ClaimKind.FORK or answer.fork is None or answer.head is None:
            raise InconsistentResponseError(answer.detail or f"serves no such fork ({answer.kind.value})", reader.name)
        last = min(answer.head.number, max(tip.number, answer.fork.number + 1))
        provers = pool if strict else None
        reorg = await stage_replacement_from(reader, step, answer.fork, last, cause, provers)
        if await staging.first_block_unchanged(step.conn, answer.fork.number + 1):
            # The chain came back meanwhile: replacing its blocks would archive rows that never were orphaned.
            raise InconsistentResponseError("serves the stored chain again", reader.name)
        return reorg, await _final_up_to(reader, reorg, final)

    return await pool.with_failover(from_one, prefer=fork_claim.endpoint)


async def _final_up_to(reader: Reader, reorg: Reorg, final: FinalBlock) -> int:
    """Return the block up to which the staged chain is final, -1 if none is. Raises RpcError if it cannot be."""
    up_to = await final_up_to(reader, reorg.new_tip, final)
    if up_to is None:
        raise InconsistentResponseError(
            f"block {reorg.new_tip.number} changed after the replacement was read", reader.name
        )
    if final.hash and up_to < 0 and reorg.fork.number < final.number:
        # It denies a block that another endpoint called final: its branch is the orphaned one.
        raise NotFinalError(
            f"its fork from block {reorg.fork.number} lacks the final block {final.number}", reader.name
        )
    return up_to


async def stage_replacement_from(
    reader: Reader, step: Step, fork: BlockRef, last: int, cause: str, provers: Pool | None = None
) -> Reorg:
    """Stage blocks fork + 1 .. last of one endpoint, for the contracts that are covered above the fork point.

    Args:
        reader: The endpoint.
        step: Its index state must have a tip.
        fork: The fork point.
        last: Last block to read.
        cause: Reason for the journal.
        provers: Endpoints that must prove every block before it is staged; None: the reader is believed.

    Raises:
        RpcError: The endpoint failed, or a block is not proven.
        LeaseLostError: Another process holds the lease.
    """
    tip = step.state.tip
    assert tip is not None
    addresses = step.state.contracts_covered_above(fork.number)
    await staging.clear(step.conn, step.held_token)

    proven: dict[int, tuple[bytes, str]] = {}
    faults: list[EndpointFault] = []

    async def stage(batch: LogBatch) -> None:
        if provers is not None:
            sources = (ServedRange(batch.first, batch.last, reader.name),)
            batch, proof = await prove_batch(provers, replace(batch, sources=sources))
            proven.update({b.number: (b.hash, proof.proven_by[b.number]) for b in batch.blocks})
            faults.extend(proof.faults)
        await staging.add(step.conn, batch, step.held_token)

    new_tip = await read_replacement(reader, fork, last, addresses, stage)
    return Reorg(fork, tip, new_tip, addresses, reader.name, cause, proven, tuple(faults))
