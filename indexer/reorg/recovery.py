"""Recovery by hand: previewing a plan, and executing it while the daemon pauses."""

from __future__ import annotations

import structlog

from indexer.chain.finality import FinalBlock, FinalityStatus, FinalityTracker
from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import RefusedError, RpcError
from indexer.projector.preview import ChangePreview
from indexer.projector.replay import HistoryPart, ReplayScope, keys_between, plan_replay
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import Writer
from indexer.reorg.claims import final_up_to
from indexer.reorg.plan import Plan, make_plan, still_holds
from indexer.reorg.replacement import from_any_endpoint, read_replacement, stage_replacement_from
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.head_proofs import projectable_end
from indexer.store.index_state import IndexState, binding, load_index_state, stored_block_ref
from indexer.store.lease import exclusive_lease, holder_name
from indexer.store.reorg_journal import Reorg

log = structlog.get_logger()


class Recovery:
    """One command's work on one database. `reorg/heal.py` works on it, too, in a command or for a daemon's auditor.

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
        self.addresses = deployment.addresses
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

        done = await from_any_endpoint(self.pool, preview, plan.keep.number + 1, plan.upto, plan.endpoint)
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

    async def recover(self, to_block: int | None, confirmed: str) -> tuple[Plan, StepResult | None]:
        """Execute the confirmed plan: above the floor by before-images, below it by replay.

        The result is None if there was nothing to do. Raises RefusedError if the plan is not the confirmed one,
        ReplacementUnavailableError if no endpoint serves the replacement.
        """
        async with exclusive_lease(self.conn, self.holder) as token:
            plan = await self.check(to_block, confirmed)
            if plan.empty:
                return plan, None
            step, final = Step(self.conn, await self.state(), token), await self.final()
            reorg = await self._stage(step, plan)
            scope = await self._replay_scope_above(step, reorg)
            up_to = await self._final_up_to(reorg.new_tip, final, reorg.endpoint)
            done = await self.rewriter.apply_reorg(step, reorg, up_to, scope)
            await self.project_remaining(final, token)
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

    async def final(self) -> FinalBlock:
        """Return the block that everything final must join, looking at the head unless the process does so itself."""
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

        return await from_any_endpoint(self.pool, stage, plan.keep.number + 1, plan.upto, plan.endpoint)

    async def _replay_scope_above(self, step: Step, reorg: Reorg) -> ReplayScope | None:
        """Return what to replay to restore the state at the fork point, if before-images do not reach it."""
        fork, state, registry = reorg.fork.number, step.state, self.writer.registry
        if not state.predates_before_images(fork) or not self.writer.projection_is_current(state):
            return None
        orphaned = await keys_between(self.conn, registry, fork + 1, state.next_block - 1)
        parts = [HistoryPart(state.binding.origin, fork, False)]
        return await plan_replay(step, registry, parts, frozenset(), orphaned, fork + 1)

    async def project_remaining(self, final: FinalBlock, token: int) -> None:
        """Project what the commit left unprojected: everything, if a heal had to reset the projection."""
        state, finalized = await self.state(), -1
        strict = self.deployment.attest.before_commit
        last = await projectable_end(self.conn, state, self.addresses, strict=strict)
        if self.writer.projection_is_current(state) and state.next_block <= last:
            finalized = await self._final_up_to(await stored_block_ref(self.conn, last), final)
        while self.writer.projection_is_current(state) and state.next_block <= last:
            done = await self.writer.commit_stored(Step(self.conn, state, token), last, finalized)
            log.info("projected", first=done.first, last=done.last, front=last, rows=sum(done.rows.values()))
            state = await self.state()
