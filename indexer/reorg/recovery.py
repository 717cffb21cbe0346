"""Recovery by hand: previewing a plan, executing it while the daemon pauses, and healing single ranges."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from indexer.chain.batch import LogBatch
from indexer.chain.finality import FinalBlock, FinalityStatus, FinalityTracker
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import RefusedError, ReplacementUnavailableError, RpcError
from indexer.projector.impact import DependencyGroups
from indexer.projector.preview import ChangePreview
from indexer.projector.replay import HistoryPart, ReplayScope, keys_between, keys_of, plan_replay
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import Writer
from indexer.reorg.claims import final_up_to
from indexer.reorg.plan import Plan, make_plan, still_holds
from indexer.reorg.replacement import read_replacement, stage_replacement_from
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import raw_logs, staging
from indexer.store.head_proofs import projectable_end
from indexer.store.index_state import IndexState, binding, load_index_state, stored_block_ref, stored_hash
from indexer.store.lease import exclusive_lease, holder_name
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

log = structlog.get_logger()
T = TypeVar("T")


class Recovery:
    """One command's work on one database, or the healing that a daemon's auditor requests.

    Args:
        deployment: Chain and watched contracts.
        pool: The endpoints.
        conn: Connection to read and write on.
        finality: The process's own tracker, if it has one: it holds the evidence against a lying tag, while a new
            tracker would believe the tag again and let the floor rise to the head.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, conn: Connection, finality: FinalityTracker | None = None
    ) -> None:  # fmt: skip
        self.deployment, self.pool, self.conn = deployment, pool, conn
        self.finality, self._looks = finality or FinalityTracker(deployment.finality_depth), finality is None
        self.writer = Writer(deployment)
        self.rewriter = Rewriter(self.writer)
        self.addresses = tuple(sorted(c.address for c in deployment.contracts))
        self.holder = holder_name("reorg recovery")

    async def state(self) -> IndexState:
        """Load the index state. Raises RefusedError if nothing is stored."""
        state = await load_index_state(self.conn, self.addresses) if await binding(self.conn) is not None else None
        if state is None or state.tip is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        return state

    async def plan(self, to_block: int | None) -> Plan:
        """Make a plan to keep blocks up to `to_block`. Raises ReplacementUnavailableError, RefusedError, RpcError."""
        return await make_plan(self.deployment, self.pool, self.conn, await self.state(), to_block)

    async def count_changes(self, plan: Plan) -> tuple[dict[str, dict[str, int]], bool]:
        """Count the rows removed (or put back), the rows inserted and their difference, by table.

        The second result is whether the counts are exact.

        Reads the whole replacement. Raises ReplacementUnavailableError if no endpoint serves it.
        """
        if plan.empty:
            return {}, True
        state = await self.state()

        async def preview(reader: Reader) -> ChangePreview:
            fresh = ChangePreview(self.conn, self.writer, state, plan.keep.number)
            fresh.rows_removed = await fresh.removed()
            addresses = state.contracts_covered_above(plan.keep.number)
            await read_replacement(reader, plan.keep, plan.upto, addresses, fresh.add)
            return fresh

        done = await self._with_planned_endpoint(preview, plan)
        removed, inserted = done.rows_removed, done.inserted()
        tables = {
            table: {
                "removed": removed.get(table, 0),
                "inserted": inserted.get(table, 0),
                "difference": inserted.get(table, 0) - removed.get(table, 0),
            }
            for table in sorted({*removed, *inserted})
        }
        return tables, done.exact

    async def _with_planned_endpoint(self, work: Callable[[Reader], Awaitable[T]], plan: Plan) -> T:
        """Run `work` on the plan's endpoint, else on another. Raises ReplacementUnavailableError if none serves it."""
        try:
            return await self.pool.with_failover(work, prefer=plan.endpoint)
        except RpcError as error:
            raise ReplacementUnavailableError(
                f"no endpoint serves blocks {plan.keep.number + 1} to {plan.upto}: {error.message}",
                "Nothing was changed. Use --rpc-url with an endpoint that has the logs and receipts of these blocks",
            ) from error

    async def recover(self, to_block: int | None, confirmed: str) -> tuple[Plan, StepResult | None]:
        """Execute the confirmed plan: above the floor by before-images, below it by replay.

        The result is None if there was nothing to do. Raises RefusedError if the plan is not the confirmed one,
        ReplacementUnavailableError if no endpoint serves the replacement.
        """
        async with exclusive_lease(self.conn, self.holder) as token:
            plan = await self.check(to_block, confirmed)
            if plan.empty:
                return plan, None
            step, final = Step(self.conn, await self.state(), token), await self._final()
            reorg = await self._stage(step, plan)
            scope = await self._replay_scope_above(step, reorg)
            up_to = await self._final_up_to(reorg.new_tip, final, reorg.endpoint)
            done = await self.rewriter.apply_reorg(step, reorg, up_to, scope)
            await self._project(final, token)
            return plan, done

    async def check(self, to_block: int | None, confirmed: str) -> Plan:
        """Return the plan as it is now, if the hash confirms it or its state with fewer blocks. Raises RefusedError."""
        plan = await self.plan(to_block)
        if not await still_holds(self.deployment, self.conn, await self.state(), plan.keep, confirmed):
            raise RefusedError(
                f"{confirmed} is not the hash of the current plan, which keeps block {plan.keep.number}",
                "Nothing was changed. The chain, the database, or the flags differ now: run `reya-indexer reorg plan`"
                " again",
            )
        return plan

    async def look(self) -> FinalityStatus:
        """Look at the head, and return what is final. Raises RpcError."""
        return self.finality.observe(await self.pool.heads())

    async def _final(self) -> FinalBlock:
        if self._looks:
            await self.look()
        return self.finality.final

    async def _final_up_to(self, end: BlockRef, final: FinalBlock, prefer: str = "") -> int:
        """Return the block up to which the chain that ends in `end` is final; -1 if no endpoint shows it.

        With -1, nothing becomes final.
        """
        try:
            up_to = await self.pool.with_failover(lambda reader: final_up_to(reader, end, final), prefer=prefer)
        except RpcError:
            return -1
        return -1 if up_to is None else up_to

    async def _stage(self, step: Step, plan: Plan) -> Reorg:
        async def stage(reader: Reader) -> Reorg:
            cause = f"reorg recover, kept block {plan.keep.number}"
            return await stage_replacement_from(reader, step, plan.keep, plan.upto, cause)

        return await self._with_planned_endpoint(stage, plan)

    async def _replay_scope_above(self, step: Step, reorg: Reorg) -> ReplayScope | None:
        """Return what to replay to restore the state at the fork point, if before-images do not reach it."""
        fork, state, registry = reorg.fork.number, step.state, self.writer.registry
        if not state.predates_before_images(fork) or not self.writer.projection_is_current(state):
            return None
        orphaned = await keys_between(self.conn, registry, fork + 1, state.next_block - 1)
        parts = [HistoryPart(state.binding.origin, fork, False)]
        return await plan_replay(step, registry, parts, frozenset(), orphaned, fork + 1)

    async def _project(self, final: FinalBlock, token: int) -> None:
        """Project what the commit left unprojected: everything, if a heal had to reset the projection."""
        state, finalized = await self.state(), -1
        strict = self.deployment.attest.before_commit
        last = await projectable_end(self.conn, state, self.addresses, strict=strict)
        if self.writer.projection_is_current(state) and state.next_block <= last:
            finalized = await self._final_up_to(await stored_block_ref(self.conn, last), final)
        while self.writer.projection_is_current(state) and state.next_block <= last:
            done = await self.writer.commit_stored(Step(self.conn, state, token), last, finalized)
            log.info(
                "projected",
                first=done.first,
                last=done.last,
                front=last,
                rows=sum(done.rows.values()),
            )
            state = await self.state()

    async def heal(
        self, contract_range: ContractRange, cause: str, batch: LogBatch | None = None,
        faults: Sequence[EndpointFault] = (),
    ) -> StepResult:  # fmt: skip
        """Make a covered range of final blocks equal to the chain, rows included.

        Args:
            contract_range: Blocks and contracts to heal.
            cause: Reason for the journal.
            batch: Every header and log of the range, proven; None to read them from an endpoint and believe it.
            faults: Endpoint faults to store with the heal.

        Raises:
            RefusedError: Nothing is stored, or the lease is not to be had.
            ReplacementUnavailableError: No endpoint serves the range.
        """
        async with exclusive_lease(self.conn, self.holder) as token:
            step, final = Step(self.conn, await self.state(), token), await self._final()
            if batch is None:
                healing = await self._stage_range(contract_range, cause, token)
            else:
                healing = await self._stage_batch(batch, cause, token)
            scope = await self._replay_scope_within(step, contract_range)
            done = await self.rewriter.apply_heal(step, healing, scope, faults)
            await self._project(final, token)
            return done

    async def _stage_batch(self, batch: LogBatch, cause: str, token: int) -> Reorg:
        await staging.clear(self.conn, token)
        await staging.add(self.conn, batch, token)
        below, tip = batch.blocks[0], batch.blocks[-1]
        fork = BlockRef(below.number - 1, below.parent_hash, below.timestamp)
        new = tip.ref()
        old = await stored_hash(self.conn, tip.number)
        return Reorg(fork, new._replace(hash=old or new.hash), new, batch.addresses, batch.sources[0].endpoint, cause)

    async def _stage_range(self, contract_range: ContractRange, cause: str, token: int) -> Reorg:
        async def stage(reader: Reader) -> Reorg:
            first = contract_range.first
            before = (
                (await reader.headers([first - 1]))[0]
                if first
                else (await reader.headers([0]))[0]._replace(number=-1, hash=b"\0" * 32)
            )
            fork = before.ref()
            await staging.clear(self.conn, token)
            stage_batch = functools.partial(staging.add, self.conn, token=token)
            tip = await read_replacement(reader, fork, contract_range.last, contract_range.addresses, stage_batch)
            old = await stored_hash(self.conn, contract_range.last)
            return Reorg(fork, tip._replace(hash=old or tip.hash), tip, contract_range.addresses, reader.name, cause)

        try:
            return await self.pool.with_failover(stage)
        except RpcError as error:
            raise ReplacementUnavailableError(
                f"no endpoint serves blocks {contract_range.first} to {contract_range.last}: {error.message}",
                "Nothing was changed. Use --rpc-url with an endpoint that has the logs and receipts of these blocks",
            ) from error

    async def _replay_scope_within(self, step: Step, contract_range: ContractRange) -> ReplayScope | None:
        state, registry = step.state, self.writer.registry
        numbers = await staging.changed_blocks(
            self.conn, contract_range.first, contract_range.last, contract_range.addresses
        )
        projected = state.next_block - 1
        if not self.writer.projection_is_current(state):
            return None
        changed = frozenset(n for n in numbers if n <= projected)
        if not changed:
            return ReplayScope(DependencyGroups(), frozenset(), changed, [], contract_range.first)
        stored_logs = await raw_logs.read_blocks(self.conn, sorted(changed), strict=False)
        parts = [
            HistoryPart(state.binding.origin, contract_range.first - 1, False),
            HistoryPart(contract_range.first, min(contract_range.last, projected), True),
            HistoryPart(contract_range.last + 1, projected, False),
        ]
        return await plan_replay(step, registry, parts, changed, keys_of(registry, stored_logs), min(changed))
