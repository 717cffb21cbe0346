"""Observing: one endpoint's head and the index state, and what they mean together for the follower.

Nothing here writes to the database. Everything the follower decides on is read from there again for each step, because
other processes ingest into it at the same time.
"""

from __future__ import annotations

import structlog

from indexer.chain.finality import FinalBlock, FinalityTracker, HeadView
from indexer.chain.ranges import ContractRange, plan_missing
from indexer.chain.types import BlockRef, Heads
from indexer.db.connection import Connection
from indexer.follow.engine_options import EngineOptions
from indexer.follow.lease_keeper import LeaseKeeper
from indexer.follow.state_machine import HeadSeen
from indexer.follow.step_report import StepReporter
from indexer.projector.writer import Writer
from indexer.reorg.claims import final_up_to
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.progress import STARTING
from indexer.store.head_proofs import projectable_end
from indexer.store.index_state import IndexState, block_refs_between, load_index_state, stored_hash

log = structlog.get_logger()


class Observer:
    """Reads heads and the index state, and publishes their numbers as progress.

    `finality`: the process's tracker of what is final. `state`: the index state as last loaded, None before.
    `wrong_from`: the first block above the floor whose stored logs are proven to be wrong, None for none.
    `final_up_to`: the block up to which the chain is final on which `confirm` found the stored block.

    Args:
        pool: The endpoints.
        writer: Knows whether the projection is current, and learns which block is safe.
        lease_keeper: Knows whether this process is the projector.
        reporter: Publishes what is final, and holds the progress.
        options: The range to ingest.
    """

    def __init__(
        self, pool: Pool, writer: Writer, lease_keeper: LeaseKeeper, reporter: StepReporter, options: EngineOptions
    ) -> None:
        deployment = writer.deployment
        self.pool, self.writer, self.lease_keeper, self.reporter = pool, writer, lease_keeper, reporter
        self.options, self.progress = options, reporter.progress
        self.finality = FinalityTracker(deployment.finality_depth)
        self.addresses = deployment.addresses
        self.strict = deployment.attest.before_commit
        self.state: IndexState | None = None
        self.wrong_from: int | None = None
        self.final_up_to = -1
        self._confirmed: bytes | None = None  # hash of the stored block that this look found on the chain

    async def read_heads(self) -> HeadView:
        """Read the head from one endpoint. Raises RpcError if no endpoint answers."""

        async def ask(reader: Reader) -> tuple[Heads, str]:
            return await reader.heads(), reader.name

        heads, endpoint = await self.pool.with_failover(ask)
        status = self.finality.observe(heads)
        self.writer.safe = status.safe
        # The final chain may replace stored blocks, so these must be found on it after this look.
        self._confirmed, self.final_up_to = None, -1
        p = self.progress
        if p.waiting == STARTING:
            p.set_wait("")
        p.regressions += int(heads.latest.number < p.head)
        self.pool.observe_head(endpoint, heads.latest)
        p.head, p.head_time, p.looked_at = heads.latest.number, heads.latest.timestamp, p.clock()
        self.reporter.report_finality(status, self.finality.remark)
        return HeadView(heads, status, endpoint, self.finality.final)

    async def load_state(self, conn: Connection) -> IndexState:
        """Load the index state, and publish its numbers as progress."""
        state = await load_index_state(conn, self.addresses)
        p = self.progress
        p.origin, p.ingested = state.binding.origin, state.contiguous_end
        p.holder = self.lease_keeper.token is not None
        p.projected = state.checkpoint.number if state.checkpoint else state.binding.origin - 1
        p.projected_time = state.checkpoint.timestamp if state.checkpoint else 0
        self.state = state
        return state

    async def observe(self, conn: Connection, view: HeadView) -> HeadSeen:
        """Load the index state, and return what it and the head mean together."""
        state, head = await self.load_state(conn), view.heads.latest
        if self.wrong_from is not None and self.wrong_from <= state.floor:
            self.wrong_from = None  # Final by now: the auditor's. It must not hide what is reported later.
        if state.tip is not None and state.tip.number > head.number:
            log.debug("lagging_head", endpoint=view.endpoint, blocks_behind=state.tip.number - head.number)
        end = await projectable_end(conn, state, self.addresses, strict=self.strict)
        return HeadSeen(
            head=head,
            at_head=await stored_hash(conn, head.number),
            tip=state.tip,
            checkpoint=state.next_block - 1,
            contiguous_end=state.contiguous_end,
            floor=state.floor,
            holder=self.lease_keeper.token is not None,
            stale=not self.writer.projection_is_current(state),
            unconfirmed=await self._unconfirmed(conn, state),
            ranges=tuple(self.ranges_to_ingest(state, view)),
            wrong_from=self.wrong_from,
            unproven_from=end + 1 if end < state.contiguous_end else None,
        )

    async def _unconfirmed(self, conn: Connection, state: IndexState) -> BlockRef | None:
        """Return the block at the contiguous end, if rows are to be projected and this look has not compared it."""
        last = state.next_block - 1
        if state.contiguous_end < last or (state.contiguous_end == last and self.writer.projection_is_current(state)):
            return None
        (end,) = await block_refs_between(conn, state.contiguous_end, state.contiguous_end)
        return None if end.hash == self._confirmed else end

    async def confirm(self, block: BlockRef, final: FinalBlock) -> bool:
        """Return whether a stored block is on the chain, for this look only. Raises RpcError."""
        up_to = await self.pool.with_failover(lambda reader: final_up_to(reader, block, final))
        if up_to is not None:
            self._confirmed, self.final_up_to = block.hash, up_to
        return up_to is not None

    def ranges_to_ingest(self, state: IndexState, view: HeadView) -> list[ContractRange]:
        """Return what to ingest now. Without the lease only up to finalized: a fork above it needs the projector."""
        first, last = self.options.first, self.options.last
        goal = view.heads.latest.number if last is None else min(last, view.heads.latest.number)
        if self.lease_keeper.token is None:
            goal = min(goal, view.finality.finalized)
        return plan_missing(state.coverage, state.binding.origin if first is None else first, goal)

    def forget_wrong_logs(self) -> None:
        """Take what was reported as dealt with."""
        self.wrong_from = None

    def report_wrong_logs(self, first: int) -> None:
        """Have the blocks from `first` on healed by the next step: the logs of that block are proven to be wrong."""
        self.wrong_from = first if self.wrong_from is None else min(first, self.wrong_from)
