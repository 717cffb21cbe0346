"""The committed steps: each function is one transaction (one transaction), and the only places where public rows
change."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from indexer.chain.batch import LogBatch, ServedRange
from indexer.chain.ranges import BlockRange, merge_ranges
from indexer.chain.types import BlockRef, Header
from indexer.config import Deployment
from indexer.db.catalog import COLUMNS
from indexer.db.connection import Connection, patient
from indexer.decode.registry import Registry
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import state_keys
from indexer.projections.row_encoder import RowEncoder
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector import rollback
from indexer.projector.replay import ReplayScope, replay
from indexer.projector.rows import PreparedRows, load_state, project_and_prepare, write_rows
from indexer.runtime.failpoints import hit
from indexer.runtime.tasks import background_task
from indexer.store import attestations, coverage, epoch, lease, provenance, raw_logs, reorg_journal, staging
from indexer.store.effects import counted, require
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

MAX_STEP_LOGS = 20_000  # logs projected in one transaction: bounds memory and the time readers wait for a lock

MAX_STATEMENT_S = 600  # seconds, inside a swap, whose size is the reorg's


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step committed. `rows` by table, public and state; `logs` read or stored; `seconds` from its
    transaction's begin to its commit, None where another process committed it."""

    kind: str
    first: int
    last: int
    logs: int
    rows: dict[str, int] = field(default_factory=dict)
    projected: bool = False
    seconds: float | None = None


class Writer:
    """Writes steps for one deployment. Holds no state that a restart would need.

    `safe`: the highest block that counts as safe, as the last look at the head said; what is below finalized is.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.registry = Registry(deployment.contracts)
        self.digest = deployment.digest
        self.safe = -1
        self._tokens = {t.address: (t.name, t.symbol) for t in deployment.tokens}
        self._lines = RowEncoder(COLUMNS)
        self._rusd = next((c.address for c in deployment.contracts if c.name == "rusd"), None)

    def projection_is_current(self, state: IndexState) -> bool:
        """Whether the public tables were projected with today's contracts and ABIs, from today's origin."""
        made_with = (state.digest, state.projected_origin)
        return state.checkpoint is None or made_with == (self.digest, state.binding.origin)

    def extends_projection(self, state: IndexState, unit: LogBatch) -> bool:
        """Whether a unit continues both coverage of every contract and the projection: one transaction for both."""
        complete = set(unit.addresses) == set(state.coverage)
        return (
            complete
            and self.projection_is_current(state)
            and state.contiguous_end + 1 == state.next_block == unit.first
        )

    async def commit_batch(
        self, conn: Connection, state: IndexState, unit: LogBatch, finalized: int, token: int | None
    ) -> StepResult:
        """Stores a confirmed unit; with the lease, projects it too when it joins.

        Raises StoredHashMismatchError, EpochChangedError, LeaseLostError or asyncpg.ExclusionViolationError; then
        nothing was written.
        """
        await raw_logs.ensure_partitions(conn, unit.first, unit.last)
        projected = token is not None and self.extends_projection(state, unit)
        rows: dict[str, int] = {}
        began = time.monotonic()
        async with conn.transaction():
            hit("ingest.begun")
            if projected and token is not None:
                await lease.lock_and_renew(conn, token)
            await epoch.lock_shared(conn, state.epoch)
            await raw_logs.commit_batch(conn, unit)
            hit("ingest.stored")
            if projected and token is not None:
                anchor = _block_ref(unit.blocks[-1])
                events = events_of(self.registry, unit.logs, unit.times)
                rows = await self._project(conn, state, unit.first, anchor, events, finalized)
                await lease.lock_and_renew(conn, token)  # the lease counts from the commit, however long the step took
            hit("ingest.before_commit")
        hit("ingest.committed")
        kind, seconds = "forward" if projected else "ingest", time.monotonic() - began
        return StepResult(kind, unit.first, unit.last, len(unit.logs), rows, projected, seconds)

    async def project_stored(
        self, conn: Connection, state: IndexState, last: int, finalized: int, token: int, limit: int = MAX_STEP_LOGS
    ) -> StepResult:
        """Projects stored raw logs after the checkpoint, about `limit` of them, no further than block `last`."""
        began = time.monotonic()
        async with conn.transaction():
            await lease.lock_and_renew(conn, token)
            await epoch.lock_shared(conn, state.epoch)
            chunk = await raw_logs.read(conn, state.next_block, last, limit)
            anchor = await stored_block_ref(conn, chunk.last)
            hit("project.read")
            events = events_of(self.registry, chunk.logs, chunk.times)
            rows = await self._project(conn, state, chunk.first, anchor, events, finalized)
            await lease.lock_and_renew(conn, token)
            hit("project.before_commit")
        return StepResult("project", chunk.first, chunk.last, len(chunk.logs), rows, True, time.monotonic() - began)

    async def commit_prepared(
        self, conn: Connection, state: IndexState, chunk: raw_logs.StoredLogs, anchor: BlockRef,
        output: PreparedRows, token: int
    ) -> StepResult:  # fmt: skip
        """Writes a step that was computed beforehand from stored logs, at or below finalized. Raises
        EpochChangedError."""
        began = time.monotonic()
        async with conn.transaction():
            await lease.lock_and_renew(conn, token)
            await epoch.lock_shared(conn, state.epoch)
            rows = await self._write(conn, state, chunk.first, anchor, max(state.floor, anchor.number), output)
            await lease.lock_and_renew(conn, token)
            hit("project.before_commit")
        return StepResult("project", chunk.first, chunk.last, len(chunk.logs), rows, True, time.monotonic() - began)

    async def reset_projection(self, conn: Connection, state: IndexState, token: int, *, asked: bool = False) -> None:
        """Forgets what was projected, to project it again from the stored raw logs with today's ABIs (raw logs are
        kept). `asked`
        by hand: until it is projected again as far, `reproject` goes on with it instead of beginning anew."""
        async with self._exclusive(conn, state, token):
            if asked and state.checkpoint is not None:
                await conn.execute("UPDATE indexer.checkpoint SET reprojecting_to = number")
            await self._reset(conn, state)
            hit("reset.before_commit")

    async def _reset(self, conn: Connection, state: IndexState) -> None:
        await rollback.reset_projections(conn)
        last = state.checkpoint.number if state.checkpoint else state.binding.origin - 1
        await _log_commit(conn, "reproject", state.binding.origin, last, 0)

    async def apply_reorg(
        self, conn: Connection, state: IndexState, reorg: Reorg, finalized: int, token: int,
        scope: ReplayScope | None = None,
    ) -> StepResult:  # fmt: skip
        """A reorg's swap: everything above the fork point goes, what is staged comes, in one commit (verify before
        delete).

        From the floor on, before-images give the state at the fork point. Below it `scope` says what to replay for
        that, from `heal.survey`; without one everything is projected again by the steps that follow.
        """
        started, logs = time.monotonic(), 0
        fork, last = reorg.fork, reorg.new_tip.number
        await raw_logs.ensure_partitions(conn, fork.number + 1, last)
        # What is staged does not change any more: its first chunk is decoded while the server takes the old rows back.
        staged = await raw_logs.read(conn, fork.number + 1, last, MAX_STEP_LOGS, staged=True)
        decoding = asyncio.to_thread(events_of, self.registry, staged.logs, staged.times)
        async with background_task(decoding) as decoded, self._exclusive(conn, state, token, new_epoch=True):
            number = await reorg_journal.reserve_id(conn)
            removed = await self._restore(conn, state, fork, number, scope)
            hit("replace.undone")
            if last > fork.number:
                contracts = await coverage.add(conn, reorg.addresses, fork.number + 1, last)
                await provenance.record_served(conn, ServedRange(fork.number + 1, last, reorg.endpoint), contracts)
                logs = await staging.promote(conn, fork.number + 1, last)
            hit("replace.moved")
            after, rows = state.after_rollback(fork), {}

            async def take_rows_back() -> None:
                removed.update(await rollback.remove_rows_above(conn, fork.number, number))
                await _log_commit(conn, "rollback", fork.number + 1, reorg.old_tip.number, sum(removed.values()))
                hit("replace.taken_back")

            if scope is None and state.predates_before_images(fork.number):
                await take_rows_back()
                await self._reset(conn, after)
            else:
                rows = await self._project_replacement(conn, after, reorg, finalized, staged, decoded, take_rows_back)
            await reorg_journal.write(conn, number, state.epoch + 1, reorg, removed, rows, time.monotonic() - started)
            hit("replace.before_commit")
        hit("replace.committed")
        return StepResult("rollback", fork.number + 1, last, logs, rows, bool(rows), time.monotonic() - started)

    async def _restore(
        self, conn: Connection, index_state: IndexState, fork: BlockRef, number: int, scope: ReplayScope | None
    ) -> dict[str, int]:
        """Everything but append rows as it was at the fork point; counts of what was removed or restored."""
        await raw_logs.upsert_block_ref(conn, fork)
        counts: dict[str, int] = {}
        if not index_state.predates_before_images(fork.number):
            counts = await rollback.restore_state(conn, fork.number)
        elif scope is not None:
            counts = await replay(conn, self.registry, scope, lambda state: self.ledger(state, index_state.floor))
        return counts | await rollback.remove_chain_above(conn, fork.number, number)

    async def apply_heal(
        self, conn: Connection, index_state: IndexState, healing: Reorg, scope: ReplayScope | None, token: int,
        blames: Sequence[EndpointFault] = (),
    ) -> StepResult:  # fmt: skip
        """Swaps the staged blocks of a range below everything that a reorg may change, and replays what they touch.

        `healing.fork` is the block before the range, `healing.old_tip` its last block as stored, `healing.new_tip` on
        the chain. `scope` as in replace; blocks that nothing was projected from need none. `blames`: whose fault the
        stored logs were, where that is proven.
        """
        started = time.monotonic()
        first, last = healing.fork.number + 1, healing.new_tip.number
        async with self._exclusive(conn, index_state, token, new_epoch=True):
            number = await reorg_journal.reserve_id(conn)
            changed = await staging.changed_blocks(conn, first, last, healing.addresses)
            removed = await rollback.remove_blocks(conn, changed, healing.addresses, number)
            logs = await staging.promote_blocks(conn, changed)
            await self._reassign_provenance(conn, healing, changed)
            await provenance.record_faults(conn, blames, number)
            hit("heal.moved")
            rows: dict[str, int] = {}
            if index_state.checkpoint is not None and scope is None:
                await self._reset(conn, index_state)
            elif scope is not None:
                floor = index_state.floor
                rows = await replay(conn, self.registry, scope, lambda state: self.ledger(state, floor))
            await _log_commit(conn, "heal", first, max(last, index_state.next_block - 1), sum(rows.values()))
            await reorg_journal.write(
                conn, number, index_state.epoch + 1, healing, removed, rows, time.monotonic() - started
            )
            hit("heal.before_commit")
        hit("heal.committed")
        return StepResult("heal", first, last, logs, rows, bool(rows), time.monotonic() - started)

    async def _reassign_provenance(self, conn: Connection, healing: Reorg, changed: Sequence[int]) -> None:
        """The changed blocks are another endpoint's now, and what was attested of them is void."""
        spans = merge_ranges(BlockRange(number, number) for number in changed)
        contracts = sorted((await coverage.contract_ids(conn, healing.addresses)).values())
        await attestations.void(conn, spans, contracts, "heal")
        for span in spans:
            await provenance.record_served(
                conn, ServedRange(span.first, span.last, healing.endpoint), contracts, merge=False
            )

    async def commit_replay(
        self, conn: Connection, index_state: IndexState, scope: ReplayScope, token: int
    ) -> dict[str, int]:
        """Replays a scope; from then on the tables count from today's origin. Rows written by table."""
        async with self._exclusive(conn, index_state, token, new_epoch=True):
            rows = await replay(conn, self.registry, scope, lambda state: self.ledger(state, index_state.floor))
            await conn.execute("UPDATE indexer.checkpoint SET origin = $1", index_state.binding.origin)
            await _log_commit(conn, "heal", index_state.binding.origin, index_state.next_block - 1, sum(rows.values()))
            hit("restate.before_commit")
        return rows

    @contextlib.asynccontextmanager
    async def _exclusive(
        self, conn: Connection, state: IndexState, token: int, *, new_epoch: bool = False
    ) -> AsyncIterator[None]:
        """A transaction of the projector with nobody else ingesting; longer than others may last."""
        async with conn.transaction():
            await conn.execute(f"SET LOCAL statement_timeout = '{MAX_STATEMENT_S}s'")
            await lease.lock_and_renew(conn, token)
            await epoch.lock_exclusive(conn, state.epoch)
            if new_epoch:
                await epoch.bump(conn)
            with patient(conn, MAX_STATEMENT_S + 15):
                yield
            await lease.lock_and_renew(conn, token)

    def ledger(self, state: dict[StateKey, StateRow], floor: int) -> WriteSet:
        """An empty ledger over loaded state rows, which keeps before-images of blocks above `floor`."""
        return WriteSet(self._lines, state, floor, self._tokens, self._rusd, self.deployment.accounting)

    async def _project_replacement(
        self, conn: Connection, state: IndexState, reorg: Reorg, finalized: int, chunk: raw_logs.StoredLogs,
        decoded: Awaitable[list[Event]], take_rows_back: Callable[[], Awaitable[None]],
    ) -> dict[str, int]:  # fmt: skip
        """Takes the old append rows back and projects the replacement in chunks, when the projection reached the fork
        point; new rows by table. `decoded` are the events of the first chunk."""
        total: Counter[str] = Counter()
        complete = set(reorg.addresses) == set(state.coverage)
        joins = complete and state.contiguous_end + 1 == state.next_block == reorg.fork.number + 1
        meanwhile: Callable[[], Awaitable[None]] | None = take_rows_back
        while joins and self.projection_is_current(state) and state.next_block <= reorg.new_tip.number:
            if meanwhile:
                events = await decoded
            else:
                chunk = await raw_logs.read(conn, state.next_block, reorg.new_tip.number, MAX_STEP_LOGS)
                events = events_of(self.registry, chunk.logs, chunk.times)
            anchor = await stored_block_ref(conn, chunk.last)
            total.update(await self._project(conn, state, chunk.first, anchor, events, finalized, meanwhile))
            floor = await _floor(conn, state.floor, finalized, anchor.number)
            state, meanwhile = state.after_projection(anchor, floor, self.digest), None
        if meanwhile:
            await meanwhile()
        return dict(total)

    async def _project(
        self, conn: Connection, state: IndexState, first: int, anchor: BlockRef, events: list[Event], finalized: int,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, int]:  # fmt: skip
        """Public rows, before-images, checkpoint, commit log of blocks first..anchor; in the caller's transaction.

        `meanwhile` is what the server can do between loading the state rows and writing the first row.
        """
        # Before-images exist exactly above the floor: below it nobody rewinds, above it a missing one corrupts a reorg.
        floor = await _floor(conn, state.floor, finalized, anchor.number)
        ledger = self.ledger(await load_state(conn, state_keys(events)), floor)
        async with background_task(project_and_prepare(ledger, events)) as output:
            if meanwhile:
                await meanwhile()
            return await self._write(conn, state, first, anchor, floor, await output)

    async def _write(
        self, conn: Connection, state: IndexState, first: int, anchor: BlockRef, floor: int, output: PreparedRows
    ) -> dict[str, int]:  # fmt: skip
        rows = await write_rows(conn, output)
        hit("project.written")
        moved = await conn.execute(
            "UPDATE indexer.checkpoint SET number = $1, hash = $2, timestamp = $3, origin = $4, digest = $5,"
            " rollback_floor = $6, safe_block = GREATEST($6::bigint, LEAST($1::bigint, $7::bigint)),"
            " updated_at = clock_timestamp(),"
            " reprojecting_to = CASE WHEN reprojecting_to > $1 THEN reprojecting_to END",
            anchor.number, anchor.hash, anchor.timestamp, state.binding.origin, self.digest, floor,
            self.safe,
        )  # fmt: skip
        await require(conn, "indexer.checkpoint", "updated", counted(moved), 1)
        if floor > state.floor:
            await conn.execute("DELETE FROM indexer.before_image WHERE block_number <= $1", floor)
        await _log_commit(conn, "forward", first, anchor.number, sum(rows.values()))
        return rows


async def _floor(conn: Connection, floor: int, finalized: int, anchor: int) -> int:
    """The floor after a step that ends at `anchor`: a stored block, so that the fork search can compare it."""
    if finalized >= anchor:
        return max(floor, anchor)
    stored: int | None = await conn.fetchval("SELECT max(number) FROM indexer.block WHERE number <= $1", finalized)
    return max(floor, -1 if stored is None else stored)


async def _log_commit(conn: Connection, kind: str, first: int, last: int, rows: int) -> None:
    await conn.execute(
        "INSERT INTO indexer.commit_log (epoch, kind, from_block, to_block, rows)"
        " SELECT value, $1, $2, $3, $4 FROM indexer.epoch",
        kind,
        first,
        last,
        rows,
    )


async def stored_block_ref(conn: Connection, number: int) -> BlockRef:
    row = await conn.fetchrow("SELECT number, hash, timestamp FROM indexer.block WHERE number = $1", number)
    assert row is not None, "ends of coverage and blocks with logs are stored"
    return BlockRef(*row)


def _block_ref(header: Header) -> BlockRef:
    return BlockRef(header.number, header.hash, header.timestamp)
