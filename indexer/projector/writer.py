"""The committed steps: each function is one transaction (one transaction). Public rows change nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.catalog import COLUMNS
from indexer.db.connection import Connection, patient
from indexer.decode.registry import Registry
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import state_keys
from indexer.projections.row_encoder import RowEncoder
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector import rollback
from indexer.projector.prepare import PreparedRows, project_and_prepare
from indexer.projector.replay import ReplayScope, replay
from indexer.projector.rows import drop_before_images, load_state, write_rows
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import background_task
from indexer.store import (
    checkpoint,
    commit_log,
    coverage,
    epoch,
    head_proofs,
    lease,
    provenance,
    raw_logs,
    reorg_journal,
    staging,
)
from indexer.store.head_proofs import ProofRecord
from indexer.store.index_state import IndexState, stored_block_ref
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

MAX_STEP_LOGS = 20_000  # Logs projected in one transaction: bounds memory and the time readers wait for a lock.
MAX_STATEMENT_S = 600  # Time limit of a statement (s) in a replacement, whose size is the reorg's.


@dataclass(frozen=True, slots=True)
class StepResult:
    """A committed step: blocks `first` to `last`, and what it wrote for them.

    `logs`: read or stored. `rows`: by table, public and state. `seconds`: from the transaction's begin to its commit
    (s), None where another process committed it.
    """

    kind: str
    first: int
    last: int
    logs: int
    rows: dict[str, int] = field(default_factory=dict)
    projected: bool = False
    seconds: float | None = None


class Writer:
    """Writes steps for one deployment. Holds no state that a restart would need.

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

    async def commit_batch(
        self, conn: Connection, state: IndexState, batch: LogBatch, finalized: int, token: int | None,
        proof: ProofRecord | None = None,
    ) -> StepResult:  # fmt: skip
        """Store a confirmed batch; with the lease, also project it when it extends the projection.

        Raises StoredHashMismatchError, EpochChangedError, LeaseLostError or asyncpg.ExclusionViolationError; then
        nothing was written.

        Args:
            conn: connection that writes.
            state: the index state that the batch was read for.
            batch: the confirmed logs.
            finalized: the finalized block.
            token: token of the lease; None: without it.
            proof: what proves the batch, if it was proven beforehand.
        """
        await raw_logs.ensure_partitions(conn, batch.first, batch.last)
        projected = token is not None and self.extends_projection(state, batch)
        rows, began = dict[str, int](), time.monotonic()
        async with conn.transaction():
            hit("ingest.begun")
            if projected and token is not None:
                await lease.lock_and_renew(conn, token)
            await epoch.lock_shared(conn, state.epoch)
            await raw_logs.commit_batch(conn, batch)
            if proof is not None:
                await head_proofs.record(conn, batch, proof)
            hit("ingest.stored")
            if projected and token is not None:
                end = batch.blocks[-1].ref()
                events = events_of(self.registry, batch.logs, batch.times)
                rows = await self._project(conn, state, batch.first, end, events, finalized)
                await lease.lock_and_renew(conn, token)  # The lease counts from the commit, however long it took.
            hit("ingest.before_commit")
        hit("ingest.committed")
        kind, seconds = "forward" if projected else "ingest", time.monotonic() - began
        return StepResult(kind, batch.first, batch.last, len(batch.logs), rows, projected, seconds)

    async def project_stored(
        self, conn: Connection, state: IndexState, last: int, finalized: int, token: int, limit: int = MAX_STEP_LOGS
    ) -> StepResult:
        """Project stored raw logs after the checkpoint.

        Args:
            conn: connection that writes.
            state: the index state to continue from.
            last: the last block to be projected at most.
            finalized: the finalized block.
            token: token of the lease.
            limit: about how many logs; blocks are never split.
        """
        began = time.monotonic()
        async with conn.transaction():
            await lease.lock_and_renew(conn, token)
            await epoch.lock_shared(conn, state.epoch)
            stored = await raw_logs.read(conn, state.next_block, last, limit)
            end = await stored_block_ref(conn, stored.last)
            hit("project.read")
            events = events_of(self.registry, stored.logs, stored.times)
            rows = await self._project(conn, state, stored.first, end, events, finalized)
            await lease.lock_and_renew(conn, token)
            hit("project.before_commit")
        return StepResult("project", stored.first, stored.last, len(stored.logs), rows, True, time.monotonic() - began)

    async def commit_prepared(
        self, conn: Connection, state: IndexState, stored: raw_logs.StoredLogs, end: BlockRef,
        output: PreparedRows, token: int
    ) -> StepResult:  # fmt: skip
        """Write a step that was computed beforehand, at or below finalized. Raises EpochChangedError.

        Args:
            conn: connection that writes.
            state: the index state that the step was computed from.
            stored: the logs that were projected.
            end: block ref of their last block.
            output: the rows.
            token: token of the lease.
        """
        began = time.monotonic()
        async with conn.transaction():
            await lease.lock_and_renew(conn, token)
            await epoch.lock_shared(conn, state.epoch)
            rows = await self._write(conn, state, stored.first, end, max(state.floor, end.number), output)
            await lease.lock_and_renew(conn, token)
            hit("project.before_commit")
        return StepResult("project", stored.first, stored.last, len(stored.logs), rows, True, time.monotonic() - began)

    async def reset_projection(self, conn: Connection, state: IndexState, token: int, *, manual: bool = False) -> None:
        """Forget what was projected, to project it again from stored logs with today's ABIs (raw logs are kept).

        Args:
            conn: connection that writes.
            state: the index state to be reset.
            token: token of the lease.
            manual: requested by hand; until it is projected again as far, `reproject` resumes it instead of restarting.
        """
        async with self._exclusive(conn, state, token):
            if manual and state.checkpoint is not None:
                await checkpoint.begin_reprojection(conn)
            await self._reset(conn, state)
            hit("reset.before_commit")

    async def _reset(self, conn: Connection, state: IndexState) -> None:
        await rollback.reset_projections(conn)
        last = state.checkpoint.number if state.checkpoint else state.binding.origin - 1
        await commit_log.append(conn, "reproject", state.binding.origin, last, 0)

    async def apply_reorg(
        self, conn: Connection, state: IndexState, reorg: Reorg, finalized: int, token: int,
        scope: ReplayScope | None = None,
    ) -> StepResult:  # fmt: skip
        """Replace everything above the fork point with the staged logs, in one commit (verify before delete).

        From the floor on, before-images give the state at the fork point; below it, replaying `scope` does.

        Args:
            conn: connection that writes.
            state: the index state that the reorg was found in.
            reorg: its fork point, old and new tip, and what is proven of them.
            finalized: the finalized block.
            token: token of the lease.
            scope: what to replay below the floor. None: the steps that follow project everything again.
        """
        started, logs = time.monotonic(), 0
        fork, last = reorg.fork, reorg.new_tip.number
        await raw_logs.ensure_partitions(conn, fork.number + 1, last)
        # Staged logs no longer change: the first of them are decoded while the server takes the old rows back.
        staged = await raw_logs.read(conn, fork.number + 1, last, MAX_STEP_LOGS, staged=True)
        decoding = asyncio.to_thread(events_of, self.registry, staged.logs, staged.times)
        async with background_task(decoding) as decoded, self._exclusive(conn, state, token, new_epoch=True):
            number = await reorg_journal.reserve_id(conn)
            removed = await self._restore(conn, state, fork, number, scope)
            hit("replace.undone")
            if last > fork.number:
                contracts = await coverage.add(conn, reorg.addresses, fork.number + 1, last)
                await provenance.record_served(conn, ServedRange(fork.number + 1, last, reorg.endpoint), contracts)
                for kept in reorg.kept:
                    await provenance.record_served(conn, kept, contracts, merge=False)
                logs = await staging.promote(conn, fork.number + 1, last)
                await head_proofs.add(conn, reorg.proven, reorg.addresses)
            hit("replace.moved")
            after, rows = state.after_rollback(fork), {}

            async def take_rows_back() -> None:
                removed.update(await rollback.remove_rows_above(conn, fork.number, number))
                await commit_log.append(conn, "rollback", fork.number + 1, reorg.old_tip.number, sum(removed.values()))
                hit("replace.taken_back")

            if scope is None and state.predates_before_images(fork.number):
                await take_rows_back()
                await self._reset(conn, after)
            else:
                rows = await self._project_replacement(conn, after, reorg, finalized, staged, decoded, take_rows_back)
            await provenance.record_faults(conn, reorg.faults, number)
            await reorg_journal.write(conn, number, state.epoch + 1, reorg, removed, rows, time.monotonic() - started)
            hit("replace.before_commit")
        hit("replace.committed")
        return StepResult("rollback", fork.number + 1, last, logs, rows, bool(rows), time.monotonic() - started)

    async def _restore(
        self, conn: Connection, state: IndexState, fork: BlockRef, number: int, scope: ReplayScope | None
    ) -> dict[str, int]:
        """Restore everything but append rows to the fork point. Return how many rows were removed or restored."""
        await raw_logs.upsert_block_ref(conn, fork)
        counts: dict[str, int] = {}
        if not state.predates_before_images(fork.number):
            counts = await rollback.restore_state(conn, fork.number)
        elif scope is not None:
            counts = await replay(conn, self.registry, scope, lambda loaded: self.new_write_set(loaded, state.floor))
        return counts | await rollback.remove_chain_above(conn, fork.number, number)

    async def apply_heal(
        self, conn: Connection, state: IndexState, healing: Reorg, scope: ReplayScope | None, token: int,
        blames: Sequence[EndpointFault] = (),
    ) -> StepResult:  # fmt: skip
        """Replace blocks of a range below everything that a reorg may change, and replay what they affect.

        Args:
            conn: connection that writes.
            state: the index state that the replacement was staged in.
            healing: `fork` is the block before the range, `old_tip` its last block as stored, `new_tip` on the chain.
            scope: as in `apply_reorg`; blocks that nothing was projected from need none.
            token: token of the lease.
            blames: whose fault the stored logs were, where that is proven.
        """
        started = time.monotonic()
        first, last = healing.fork.number + 1, healing.new_tip.number
        async with self._exclusive(conn, state, token, new_epoch=True):
            number = await reorg_journal.reserve_id(conn)
            changed = await staging.changed_blocks(conn, first, last, healing.addresses)
            removed = await rollback.remove_blocks(conn, changed, healing.addresses, number)
            logs = await staging.promote_blocks(conn, changed)
            await rollback.reassign_provenance(conn, healing, changed)
            await provenance.record_faults(conn, blames, number)
            hit("heal.moved")
            rows: dict[str, int] = {}
            if state.checkpoint is not None and scope is None:
                await self._reset(conn, state)
            elif scope is not None:
                rows = await replay(conn, self.registry, scope, lambda loaded: self.new_write_set(loaded, state.floor))
            await commit_log.append(conn, "heal", first, max(last, state.next_block - 1), sum(rows.values()))
            await reorg_journal.write(conn, number, state.epoch + 1, healing, removed, rows, time.monotonic() - started)
            hit("heal.before_commit")
        hit("heal.committed")
        return StepResult("heal", first, last, logs, rows, bool(rows), time.monotonic() - started)

    async def commit_replay(
        self, conn: Connection, state: IndexState, scope: ReplayScope, token: int
    ) -> dict[str, int]:
        """Replay a scope; from then on the tables count from today's origin. Return rows written, by table.

        Args:
            conn: connection that writes.
            state: the index state that the scope was planned in.
            scope: from `replay.plan_replay`.
            token: token of the lease.
        """
        async with self._exclusive(conn, state, token, new_epoch=True):
            rows = await replay(conn, self.registry, scope, lambda loaded: self.new_write_set(loaded, state.floor))
            await checkpoint.set_origin(conn, state.binding.origin)
            await commit_log.append(conn, "heal", state.binding.origin, state.next_block - 1, sum(rows.values()))
            hit("restate.before_commit")
        return rows

    @contextlib.asynccontextmanager
    async def _exclusive(
        self, conn: Connection, state: IndexState, token: int, *, new_epoch: bool = False
    ) -> AsyncIterator[None]:
        """Open a transaction of the projector while nobody else ingests; it may last longer than others."""
        async with conn.transaction():
            await conn.execute(f"SET LOCAL statement_timeout = '{MAX_STATEMENT_S}s'")
            await lease.lock_and_renew(conn, token)
            await epoch.lock_exclusive(conn, state.epoch)
            if new_epoch:
                await epoch.bump(conn)
            with patient(conn, MAX_STATEMENT_S + 15):
                yield
            await lease.lock_and_renew(conn, token)

    def new_write_set(self, state: dict[StateKey, StateRow], floor: int) -> WriteSet:
        """Return an empty write set over loaded state rows, which keeps before-images of blocks above `floor`."""
        return WriteSet(self._encoder, state, floor, self._tokens, self._rusd, self.deployment.accounting)

    async def _project_replacement(
        self, conn: Connection, state: IndexState, reorg: Reorg, finalized: int, stored: raw_logs.StoredLogs,
        decoded: Awaitable[list[Event]], take_rows_back: Callable[[], Awaitable[None]],
    ) -> dict[str, int]:  # fmt: skip
        """Take the old append rows back; project the replacement if the projection reached the fork point.

        `decoded`: the events of `stored`, the first staged logs. Returns new rows by table.
        """
        total: Counter[str] = Counter()
        complete = set(reorg.addresses) == set(state.coverage)
        joins = complete and state.contiguous_end + 1 == state.next_block == reorg.fork.number + 1
        meanwhile: Callable[[], Awaitable[None]] | None = take_rows_back
        while joins and self.projection_is_current(state) and state.next_block <= reorg.new_tip.number:
            if meanwhile:
                events = await decoded
            else:
                stored = await raw_logs.read(conn, state.next_block, reorg.new_tip.number, MAX_STEP_LOGS)
                events = events_of(self.registry, stored.logs, stored.times)
            end = await stored_block_ref(conn, stored.last)
            total.update(await self._project(conn, state, stored.first, end, events, finalized, meanwhile))
            floor = await checkpoint.floor_after(conn, state.floor, finalized, end.number)
            state, meanwhile = state.after_projection(end, floor, self.digest), None
        if meanwhile:
            await meanwhile()
        return dict(total)

    async def _project(
        self, conn: Connection, state: IndexState, first: int, end: BlockRef, events: list[Event], finalized: int,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, int]:  # fmt: skip
        """Write rows, before-images, checkpoint and commit log of blocks first..end, in the caller's transaction.

        `meanwhile`: work for the server between loading the state rows and writing the first row.
        """
        # Before-images exist exactly above the floor: below it nobody rewinds, above it a missing one corrupts a reorg.
        floor = await checkpoint.floor_after(conn, state.floor, finalized, end.number)
        write_set = self.new_write_set(await load_state(conn, state_keys(events)), floor)
        async with background_task(project_and_prepare(write_set, events)) as output:
            if meanwhile:
                await meanwhile()
            return await self._write(conn, state, first, end, floor, await output)

    async def _write(
        self, conn: Connection, state: IndexState, first: int, end: BlockRef, floor: int, output: PreparedRows
    ) -> dict[str, int]:  # fmt: skip
        rows = await write_rows(conn, output)
        hit("project.written")
        await checkpoint.advance(conn, end, floor, self.safe, origin=state.binding.origin, digest=self.digest)
        if floor > state.floor:
            await drop_before_images(conn, floor)
        await commit_log.append(conn, "forward", first, end.number, sum(rows.values()))
        return rows
