"""Steps forward: each method of `Writer` is one transaction that stores a log batch or projects logs.

`Rewriter` changes what was written before. Public rows change nowhere else, and each change ends in `Step.log_change`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from indexer.chain.batch import LogBatch
from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.catalog import COLUMNS
from indexer.decode.registry import Registry
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import state_keys
from indexer.projections.row_encoder import RowEncoder
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector.prepare import PreparedRows, project_and_prepare
from indexer.projector.rows import drop_before_images, load_state, write_rows
from indexer.projector.step import Step, StepResult
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import background_task
from indexer.store import checkpoint, epoch, head_proofs, raw_logs
from indexer.store.head_proofs import ProofRecord
from indexer.store.index_state import IndexState, stored_block_ref
from indexer.store.raw_logs import StoredLogs

MAX_STEP_LOGS = 20_000  # Logs projected in one transaction: bounds memory and the time readers wait for a lock.


class Writer:
    """Writes steps forward for one deployment. Holds no state that a restart would need.

    `safe`: the highest safe block, as of the last look at the head; everything below finalized is safe anyway.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.registry = Registry(deployment.contracts)
        self.digest, self.safe = deployment.digest, -1
        self._tokens = {t.address: (t.name, t.symbol) for t in deployment.tokens}
        self._encoder = RowEncoder(COLUMNS)
        self._rusd = next((c.address for c in deployment.contracts if c.name == "rusd"), None)

    def projection_is_current(self, state: IndexState) -> bool:
        """Return whether the public tables were projected with today's contracts and ABIs, from today's origin."""
        current = (self.digest, state.binding.origin)
        return state.checkpoint is None or (state.digest, state.projected_origin) == current

    def extends_projection(self, state: IndexState, batch: LogBatch) -> bool:
        """Return whether a batch continues the coverage of every contract and the projection, in one transaction."""
        complete = set(batch.addresses) == set(state.coverage) and self.projection_is_current(state)
        return complete and state.contiguous_end + 1 == state.next_block == batch.first

    def new_write_set(self, state: dict[StateKey, StateRow], floor: int) -> WriteSet:
        """Return an empty write set over loaded state rows, which keeps before-images of blocks above `floor`."""
        return WriteSet(self._encoder, state, floor, self._tokens, self._rusd, self.deployment.accounting)

    async def commit_batch(
        self, step: Step, batch: LogBatch, finalized: int, proof: ProofRecord | None = None
    ) -> StepResult:
        """Store a confirmed batch; with the lease, also project it when it extends the projection.

        Args:
            step: its index state is the one that the batch was read for.
            batch: the confirmed logs.
            finalized: the finalized block.
            proof: what proves the batch, if it was proven beforehand.

        Raises:
            StoredHashMismatchError, EpochChangedError, LeaseLostError, asyncpg.ExclusionViolationError: Nothing was
                written.
        """
        conn = step.conn
        await raw_logs.ensure_partitions(conn, batch.first, batch.last)
        projected = step.token is not None and self.extends_projection(step.state, batch)
        rows, began = dict[str, int](), time.monotonic()
        async with conn.transaction():
            hit("ingest.begun")
            if projected:
                await step.renew_lease()
            await epoch.lock_shared(conn, step.state.epoch)
            await raw_logs.commit_batch(conn, batch)
            if proof is not None:
                await head_proofs.record(conn, batch, proof)
            hit("ingest.stored")
            if projected:
                events = events_of(self.registry, batch.logs, batch.times)
                rows = await self.project(step, batch.first, batch.blocks[-1].ref(), events, finalized)
                await step.renew_lease()  # The lease counts from the commit, however long it took.
            hit("ingest.before_commit")
        hit("ingest.committed")
        kind, seconds = "forward" if projected else "ingest", time.monotonic() - began
        return StepResult(kind, batch.first, batch.last, len(batch.logs), rows, projected, seconds)

    async def commit_stored(self, step: Step, last: int, finalized: int, limit: int = MAX_STEP_LOGS) -> StepResult:
        """Project stored raw logs after the checkpoint. Raises EpochChangedError, LeaseLostError.

        Args:
            step: its index state is the one to continue from.
            last: the last block to be projected at most.
            finalized: the finalized block.
            limit: about how many logs; blocks are never split.
        """
        began = time.monotonic()
        async with self._projecting(step):
            stored = await raw_logs.read(step.conn, step.state.next_block, last, limit)
            end = await stored_block_ref(step.conn, stored.last)
            hit("project.read")
            events = events_of(self.registry, stored.logs, stored.times)
            rows = await self.project(step, stored.first, end, events, finalized)
        return StepResult("project", stored.first, stored.last, len(stored.logs), rows, True, time.monotonic() - began)

    async def commit_prepared(self, step: Step, stored: StoredLogs, end: BlockRef, output: PreparedRows) -> StepResult:
        """Write a step that was computed beforehand, at or below finalized. Raises EpochChangedError, LeaseLostError.

        Args:
            step: its index state is the one that the rows were computed from.
            stored: the logs that were projected.
            end: block ref of their last block.
            output: the rows.
        """
        began = time.monotonic()
        async with self._projecting(step):
            rows = await self._write(step, stored.first, end, max(step.state.floor, end.number), output)
        return StepResult("project", stored.first, stored.last, len(stored.logs), rows, True, time.monotonic() - began)

    @contextlib.asynccontextmanager
    async def _projecting(self, step: Step) -> AsyncIterator[None]:
        """Open a transaction of the lease holder during which nobody changes the past."""
        async with step.conn.transaction():
            await step.renew_lease()
            await epoch.lock_shared(step.conn, step.state.epoch)
            yield
            await step.renew_lease()
            hit("project.before_commit")

    async def project(
        self, step: Step, first: int, end: BlockRef, events: list[Event], finalized: int,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, int]:  # fmt: skip
        """Write rows, before-images, checkpoint and commit log of some blocks, in the caller's transaction.

        Args:
            step: its index state ends before these blocks.
            first: the first block.
            end: block ref of the last one.
            events: the events of the blocks.
            finalized: the finalized block.
            meanwhile: work for the server between loading the state rows and writing the first row.

        Returns:
            Rows written, by table.
        """
        # Before-images exist exactly above the floor: below it nobody rewinds, above it a missing one corrupts a reorg.
        floor = await checkpoint.floor_after(step.conn, step.state.floor, finalized, end.number)
        write_set = self.new_write_set(await load_state(step.conn, state_keys(events)), floor)
        async with background_task(project_and_prepare(write_set, events)) as output:
            if meanwhile:
                await meanwhile()
            return await self._write(step, first, end, floor, await output)

    async def _write(self, step: Step, first: int, end: BlockRef, floor: int, output: PreparedRows) -> dict[str, int]:
        conn, origin = step.conn, step.state.binding.origin
        # Up to the floor nothing is captured: loading history costs what it would cost without consumers.
        capture = step.capture() if end.number > floor else None
        if capture:
            capture.add_written(output)
        rows = await write_rows(conn, output)
        hit("project.written")
        await checkpoint.advance(conn, end, floor, self.safe, origin=origin, digest=self.digest)
        if floor > step.state.floor:
            await drop_before_images(conn, floor)
        await step.log_change("forward", first, end.number, rows, capture)
        return rows
