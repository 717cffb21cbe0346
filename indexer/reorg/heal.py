"""Healing: making a range of final blocks equal to the chain, raw logs and the rows made from them.

Above the rollback floor `follow/head_healer.py` heals.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from indexer.chain.batch import LogBatch
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef
from indexer.projector.impact import DependencyGroups
from indexer.projector.replay import HistoryPart, ReplayScope, keys_of, plan_replay
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import Writer
from indexer.reorg.recovery import Recovery
from indexer.reorg.replacement import from_any_endpoint, read_replacement
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import raw_logs, staging
from indexer.store.index_state import stored_hash
from indexer.store.lease import exclusive_lease
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

# Reads a range, awaits what it is called with for each log batch, and returns the last block.
BatchReader = Callable[[Callable[[LogBatch], Awaitable[None]]], Awaitable[BlockRef]]


async def heal_proven(
    recovery: Recovery, batch: LogBatch, cause: str, faults: Sequence[EndpointFault] = ()
) -> StepResult:
    """Store proven logs of a covered range of final blocks, rows included.

    Args:
        recovery: The database to heal.
        batch: Every header and log of the range.
        cause: Reason for the journal.
        faults: Whose fault the stored logs were.

    Raises:
        RefusedError: Nothing is stored, or the lease is not to be had.
    """
    contract_range = ContractRange(batch.first, batch.last, batch.addresses)
    return await _heal(recovery, contract_range, cause, batch, faults)


async def heal_trusted(recovery: Recovery, contract_range: ContractRange, cause: str) -> StepResult:
    """Store what whichever endpoint serves a covered range of final blocks says, rows included. It is believed.

    Raises RefusedError when nothing is stored or the lease is not to be had, ReplacementUnavailableError when no
    endpoint serves the range.
    """
    return await _heal(recovery, contract_range, cause, recovery.pool)


async def _heal(
    recovery: Recovery, contract_range: ContractRange, cause: str, source: LogBatch | Pool,
    faults: Sequence[EndpointFault] = (),
) -> StepResult:  # fmt: skip
    async with exclusive_lease(recovery.conn, recovery.holder) as token:
        step, final = Step(recovery.conn, await recovery.state(), token), await recovery.final()
        healing = await _stage(step, contract_range, cause, source)
        scope = await _replay_scope(step, contract_range, recovery.writer)
        done = await recovery.rewriter.apply_heal(step, healing, scope, faults)
        await recovery.project_remaining(final, token)
        return done


async def _stage(step: Step, contract_range: ContractRange, cause: str, source: LogBatch | Pool) -> Reorg:
    """Stage the range from its source. Raises ReplacementUnavailableError if no endpoint serves it."""
    first, last, addresses = contract_range

    async def stage(endpoint: str, fork: BlockRef, read: BatchReader) -> Reorg:
        await staging.clear(step.conn, step.held_token)
        new = await read(partial(staging.add, step.conn, token=step.held_token))
        old = await stored_hash(step.conn, last)
        return Reorg(fork, new._replace(hash=old or new.hash), new, addresses, endpoint, cause)

    async def stage_from(reader: Reader) -> Reorg:
        fork = await _block_before(reader, first)
        return await stage(reader.name, fork, partial(read_replacement, reader, fork, last, addresses))

    if isinstance(source, Pool):
        return await from_any_endpoint(source, stage_from, first, last)
    below = source.blocks[0]
    fork = BlockRef(below.number - 1, below.parent_hash, below.timestamp)
    return await stage(source.sources[0].endpoint, fork, partial(_read_batch, source))


async def _read_batch(batch: LogBatch, on_batch: Callable[[LogBatch], Awaitable[None]]) -> BlockRef:
    await on_batch(batch)
    return batch.blocks[-1].ref()


async def _block_before(reader: Reader, first: int) -> BlockRef:
    """Return the block before a range; one that never was before the genesis block."""
    (header,) = await reader.headers([max(0, first - 1)])
    return (header if first else header._replace(number=-1, hash=bytes(32))).ref()


async def _replay_scope(step: Step, contract_range: ContractRange, writer: Writer) -> ReplayScope | None:
    """Return what the staged range affects. None: everything is to be projected again."""
    first, last, addresses = contract_range
    state, registry, projected = step.state, writer.registry, step.state.next_block - 1
    numbers = await staging.changed_blocks(step.conn, first, last, addresses)
    if not writer.projection_is_current(state):
        return None
    changed = frozenset(n for n in numbers if n <= projected)
    if not changed:
        return ReplayScope(DependencyGroups(), frozenset(), changed, [], first)
    stored_logs = await raw_logs.read_blocks(step.conn, sorted(changed), strict=False)
    parts = [
        HistoryPart(state.binding.origin, first - 1, False),
        HistoryPart(first, min(last, projected), True),
        HistoryPart(last + 1, projected, False),
    ]
    return await plan_replay(step, registry, parts, changed, keys_of(registry, stored_logs), min(changed))
