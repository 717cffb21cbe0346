"""Changes of history: each method of `Rewriter` is one transaction, during which nobody ingests.

Where raw logs are replaced, the rows made from them are replaced with them. Each change of public rows ends in
`Step.log_change`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from indexer.chain.batch import ServedRange
from indexer.chain.types import BlockRef
from indexer.db.connection import Connection, patient
from indexer.projections.events import Event, events_of
from indexer.projector import rollback
from indexer.projector.capture import Capture
from indexer.projector.replay import ReplayScope, replay
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import MAX_STEP_LOGS, Writer
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import background_task
from indexer.store import checkpoint, coverage, epoch, head_proofs, provenance, raw_logs, reorg_journal, staging
from indexer.store.index_state import stored_block_ref
from indexer.store.provenance import EndpointFault
from indexer.store.raw_logs import StoredLogs
from indexer.store.reorg_journal import Reorg

MAX_STATEMENT_S = 600  # Time limit of a statement (s) in a replacement, whose size is the reorg's.


class Rewriter:
    """Changes what a writer wrote. Each method raises EpochChangedError or LeaseLostError if another process was first.

    `writer`: projects what takes the place of the old rows.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    async def apply_reorg(
        self, step: Step, reorg: Reorg, finalized: int, scope: ReplayScope | None = None
    ) -> StepResult:
        """Replace everything above the fork point with the staged logs, in one commit (verify before delete).

        From the floor on, before-images give the state at the fork point; below it, replaying `scope` does.

        Args:
            step: its index state is the one that the reorg was found in.
            reorg: its fork point, old and new tip, and what is proven of them.
            finalized: the finalized block.
            scope: what to replay below the floor. None: the steps that follow project everything again.
        """
        started, conn = time.monotonic(), step.conn
        first, last = reorg.fork.number + 1, reorg.new_tip.number
        await raw_logs.ensure_partitions(conn, first, last)
        # Staged logs no longer change: the first of them are decoded while the server takes the old rows back.
        staged = await raw_logs.read(conn, first, last, MAX_STEP_LOGS, staged=True)
        decoding = asyncio.to_thread(events_of, self.writer.registry, staged.logs, staged.times)
        async with background_task(decoding) as decoded, self._exclusive(step, new_epoch=True):
            number = await reorg_journal.reserve_id(conn)
            capture = step.capture(number)
            removed = await self._restore(step, reorg.fork, number, scope, capture)
            hit("replace.undone")
            logs = await self._promote(conn, reorg)
            hit("replace.moved")
            after, rows = replace(step, state=step.state.after_rollback(reorg.fork)), dict[str, int]()
            take_rows_back = functools.partial(self._take_rows_back, after, reorg, number, removed, capture)
            if scope is None and step.state.predates_before_images(reorg.fork.number):
                await take_rows_back()
                await self._reset(after)
            else:
                rows = await self._project_replacement(after, reorg, finalized, staged, decoded, take_rows_back)
            await provenance.record_faults(conn, reorg.faults, number)
            await reorg_journal.write(conn, number, after.state.epoch, reorg, removed, rows, time.monotonic() - started)
            hit("replace.before_commit")
        hit("replace.committed")
        return StepResult("rollback", first, last, logs, rows, bool(rows), time.monotonic() - started)

    async def _restore(
        self, step: Step, fork: BlockRef, number: int, scope: ReplayScope | None, capture: Capture
    ) -> dict[str, int]:
        """Restore everything but append rows to the fork point. Return how many rows were removed or restored."""
        await raw_logs.upsert_block_ref(step.conn, fork)
        counts: dict[str, int] = {}
        if not step.state.predates_before_images(fork.number):
            counts = await rollback.restore_state(step.conn, fork.number)
            capture.restored_above = fork.number
        elif scope is not None:
            counts = await replay(step, self.writer, scope, capture)
        return counts | await rollback.remove_chain_above(step.conn, fork.number, number)

    async def _promote(self, conn: Connection, reorg: Reorg) -> int:
        """Store the staged blocks, and who served and proved them. Return the number of logs."""
        first, last = reorg.fork.number + 1, reorg.new_tip.number
        if last < first:
            return 0
        contracts = await coverage.add(conn, reorg.addresses, first, last)
        await provenance.record_served(conn, ServedRange(first, last, reorg.endpoint), contracts)
        for kept in reorg.kept:
            await provenance.record_served(conn, kept, contracts, merge=False)
        logs = await staging.promote(conn, first, last)
        await head_proofs.add(conn, reorg.proven, reorg.addresses)
        return logs

    async def _take_rows_back(
        self, step: Step, reorg: Reorg, number: int, removed: dict[str, int], capture: Capture
    ) -> None:
        """Remove the append rows above the fork point, count them in `removed`, and log the rollback."""
        removed.update(await rollback.remove_rows_above(step.conn, reorg.fork.number, number))
        await step.log_change("rollback", reorg.fork.number + 1, reorg.old_tip.number, removed, capture)
        if capture.restored_above is not None:
            await rollback.drop_images_above(step.conn, capture.restored_above)
        hit("replace.taken_back")

    async def _project_replacement(
        self, step: Step, reorg: Reorg, finalized: int, stored: StoredLogs, decoded: Awaitable[list[Event]],
        take_rows_back: Callable[[], Awaitable[None]],
    ) -> dict[str, int]:  # fmt: skip
        """Take the old append rows back; project the replacement if the projection reached the fork point.

        `decoded`: the events of `stored`, the first staged logs. Returns new rows by table.
        """
        total: Counter[str] = Counter()
        conn, state, writer, last = step.conn, step.state, self.writer, reorg.new_tip.number
        complete = set(reorg.addresses) == set(state.coverage)
        joins = complete and state.contiguous_end + 1 == state.next_block == reorg.fork.number + 1
        meanwhile: Callable[[], Awaitable[None]] | None = take_rows_back
        while joins and writer.projection_is_current(state) and state.next_block <= last:
            if meanwhile:
                events = await decoded
            else:
                stored = await raw_logs.read(conn, state.next_block, last, MAX_STEP_LOGS)
                events = events_of(writer.registry, stored.logs, stored.times)
            end = await stored_block_ref(conn, stored.last)
            current = replace(step, state=state)
            total.update(await writer.project(current, stored.first, end, events, finalized, meanwhile))
            floor = await checkpoint.floor_after(conn, state.floor, finalized, end.number)
            state, meanwhile = state.after_projection(end, floor, writer.digest), None
        if meanwhile:
            await meanwhile()
        return dict(total)

    async def apply_heal(
        self, step: Step, healing: Reorg, scope: ReplayScope | None, faults: Sequence[EndpointFault] = ()
    ) -> StepResult:
        """Replace blocks of a range below everything that a reorg may change, and replay what they affect.

        Args:
            step: its index state is the one that the replacement was staged in.
            healing: `fork` is the block before the range, `old_tip` its last block as stored, `new_tip` on the chain.
            scope: as in `apply_reorg`; blocks that nothing was projected from need none.
            faults: whose fault the stored logs were, where that is proven.
        """
        started, conn, state = time.monotonic(), step.conn, step.state
        first, last = healing.fork.number + 1, healing.new_tip.number
        async with self._exclusive(step, new_epoch=True):
            number = await reorg_journal.reserve_id(conn)
            capture = step.capture(number)
            changed = await staging.changed_blocks(conn, first, last, healing.addresses)
            removed = await rollback.remove_blocks(conn, changed, healing.addresses, number)
            logs = await staging.promote_blocks(conn, changed)
            await rollback.reassign_provenance(conn, healing, changed)
            await provenance.record_faults(conn, faults, number)
            hit("heal.moved")
            rows: dict[str, int] = {}
            if state.checkpoint is not None and scope is None:
                await self._reset(step)
            elif scope is not None:
                rows = await replay(step, self.writer, scope, capture)
            await step.log_change("heal", first, max(last, state.next_block - 1), rows, capture)
            await reorg_journal.write(conn, number, state.epoch + 1, healing, removed, rows, time.monotonic() - started)
            hit("heal.before_commit")
        hit("heal.committed")
        return StepResult("heal", first, last, logs, rows, bool(rows), time.monotonic() - started)

    async def commit_replay(self, step: Step, scope: ReplayScope) -> dict[str, int]:
        """Replay a scope; from then on the tables count from today's origin. Return rows written, by table.

        `scope`: from `replay.plan_replay`, planned in the step's index state.
        """
        origin, capture = step.state.binding.origin, step.capture()
        async with self._exclusive(step, new_epoch=True):
            rows = await replay(step, self.writer, scope, capture)
            await checkpoint.set_origin(step.conn, origin)
            await step.log_change("heal", origin, step.state.next_block - 1, rows, capture)
            hit("restate.before_commit")
        return rows

    async def reset_projection(self, step: Step, *, manual: bool = False) -> None:
        """Forget what was projected, to project it again from stored logs with today's ABIs (raw logs are kept).

        `manual`: requested by hand; until it is projected again as far, `reproject` resumes it instead of restarting.
        """
        async with self._exclusive(step):
            if manual and step.state.checkpoint is not None:
                await checkpoint.begin_reprojection(step.conn)
            await self._reset(step)
            hit("reset.before_commit")

    async def _reset(self, step: Step) -> None:
        await rollback.reset_projections(step.conn)
        state, capture = step.state, step.capture()
        capture.add_void()
        last = state.checkpoint.number if state.checkpoint else state.binding.origin - 1
        await step.log_change("reproject", state.binding.origin, last, {}, capture)

    @contextlib.asynccontextmanager
    async def _exclusive(self, step: Step, *, new_epoch: bool = False) -> AsyncIterator[None]:
        """Open a transaction of the lease holder while nobody else ingests; it may last longer than others."""
        conn = step.conn
        async with conn.transaction():
            await conn.execute(f"SET LOCAL statement_timeout = '{MAX_STATEMENT_S}s'")
            await step.renew_lease()
            await epoch.lock_exclusive(conn, step.state.epoch)
            if new_epoch:
                await epoch.bump(conn)
            with patient(conn, MAX_STATEMENT_S + 15):
                yield
            await step.renew_lease()
