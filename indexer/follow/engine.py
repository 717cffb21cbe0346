"""The main loop: look at the head, ingest what is missing, project what is contiguous, replace what was reorged away.

`run` is this engine without an end, `backfill` is it with one. Everything it decides on is read from the database again
for each step, so a kill at any point, or another process that ingests at the same time, changes nothing but who does
the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import asyncpg
import structlog

from indexer.chain.finality import FinalBlock, FinalityTracker, HeadView
from indexer.chain.ranges import ContractRange, plan_missing
from indexer.chain.types import BlockRef, Header, Heads
from indexer.config import Deployment
from indexer.db.connection import Connect, Connection
from indexer.decode.block_times import time_fields_of
from indexer.errors import EpochChangedError, ParentMismatchError, ReorgTooDeepError, StoredHashMismatchError
from indexer.follow import state_machine
from indexer.follow.catch_up import CatchUp
from indexer.follow.engine_options import EngineOptions
from indexer.follow.fork_handler import ForkHandler
from indexer.follow.head_healer import HeadHealer
from indexer.follow.lease_keeper import LeaseKeeper
from indexer.follow.maintenance import Maintenance
from indexer.follow.state_machine import Mode
from indexer.follow.step_report import StepReporter
from indexer.ingest.executor import InlineExecutor
from indexer.ingest.fetch import fetch_batch
from indexer.ingest.proven_batch import ProvenBatch, prove_batch
from indexer.projector.reproject import project_again
from indexer.projector.writer import StepResult, Writer
from indexer.reorg.claims import confirm_stored, final_up_to
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.progress import STARTING, DaemonProgress
from indexer.store import lease
from indexer.store.head_proofs import projectable_end
from indexer.store.index_state import IndexState, block_refs_between, load_index_state, stored_hash

MAX_CONFLICTS = 20  # consecutive conflicts with other ingesting processes before they are an error
MIN_CATCH_UP_BLOCKS = 500  # left below finalized, from which ingesting and projecting run concurrently
LOOK_INTERVAL_S = 5.0  # between looks at the head while there is known work

log = structlog.get_logger()


class Engine:
    """The loop over one database.

    Args:
        deployment: Chain and watched contracts.
        pool: The endpoints.
        progress: Where progress and waits are published.
        holder: Name of this process in the lease.
        connect: Opens connections for workers.
        options: What makes it a daemon or a backfill.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, progress: DaemonProgress, holder: str, connect: Connect,
        options: EngineOptions,
    ) -> None:  # fmt: skip
        self.deployment, self.pool, self.progress = deployment, pool, progress
        self.first, self.last, self.ingest_only = options.first, options.last, options.ingest_only
        self.addresses = tuple(sorted(c.address for c in deployment.contracts))
        self.finality = FinalityTracker(deployment.finality_depth)
        self.writer = Writer(deployment)
        self.follower = state_machine.Follower()
        self.reporter = StepReporter(progress, pool)
        self.maintenance = Maintenance(progress)
        self.fork_handler = ForkHandler(pool, self.writer, progress, self.reporter)
        self.head_healer = HeadHealer(pool, self.writer, self.reporter)
        # Called after each commit at the head, with the headers of its blocks and the endpoint that served them.
        self.on_head_commit: Callable[[Sequence[Header], str], None] = lambda headers, endpoint: None
        self.wrong_from: int | None = None  # the first block at the head whose stored logs are proven to be wrong
        self._time_fields = time_fields_of(deployment.contracts)
        executor = options.executor or InlineExecutor(pool, connect, self._time_fields)
        self.catch_up = CatchUp(
            executor, self.writer, connect, self._committed, self.read_heads, deployment.max_blocks, options.defer_from
        )
        self.lease_keeper = LeaseKeeper(holder, ingest_only=options.ingest_only)
        self._state: IndexState | None = None
        self._confirmed: bytes | None = None  # hash of the stored block that this look found on the chain
        self._final_up_to = -1  # block up to which that chain is final, in the answer that confirmed it
        self._named, self._conflicts = "", 0
        self._indexes_complete = False  # as far as the holder of the lease knows

    async def read_heads(self) -> HeadView:
        """Read the head from one endpoint. Raises RpcError if no endpoint answers."""

        async def ask(reader: Reader) -> tuple[Heads, str]:
            return await reader.heads(), reader.name

        heads, endpoint = await self.pool.with_failover(ask)
        status = self.finality.observe(heads)
        self.writer.safe = status.safe
        # The final chain may replace stored blocks, so these must be found on it after this look.
        self._confirmed, self._final_up_to = None, -1
        p = self.progress
        if p.waiting == STARTING:
            p.set_wait("")
        p.regressions += int(heads.latest.number < p.head)
        self.pool.observe_head(endpoint, heads.latest)
        p.head, p.head_time, p.looked_at = heads.latest.number, heads.latest.timestamp, p.clock()
        self.reporter.report_finality(status, self.finality.remark)
        return HeadView(heads, status, endpoint, self.finality.final)

    @property
    def token(self) -> int | None:
        """Token of the lease; None without it."""
        return self.lease_keeper.token

    @property
    def final_ref(self) -> BlockRef | None:
        """A stored final block: the newest known here, otherwise the one that the database is bound to."""
        bound = self._state.binding if self._state else None
        return self.maintenance.final or (BlockRef(bound.number, bound.hash, 0) if bound else None)

    async def run_cycle(self, conn: Connection) -> bool:
        """Look at the head and work for a few seconds. Returns False when there is nothing left to do now.

        Raises RpcError, connection errors of asyncpg, LeaseLostError.
        """
        paused = await self.take_lease(conn)
        action: state_machine.Action
        view: HeadView | None = None
        if paused:
            action = self.follower.observe(state_machine.Paused(paused))
        else:
            view = await self.read_heads()
            action = self.follower.observe(await self._seen(conn, view))
        worked, until = False, time.monotonic() + LOOK_INTERVAL_S
        while not isinstance(action, state_machine.Wait | state_machine.Halt):
            assert view is not None
            if isinstance(action, state_machine.Refresh):
                worked = True
                if time.monotonic() > until:
                    break
                view = await self.read_heads()
                observed: state_machine.Observation = await self._seen(conn, view)
            else:
                observed = await self._do(conn, view, action)
                worked = worked or isinstance(observed, state_machine.HeadSeen)
                # A block is confirmed for one look only: a cycle that ended here would confirm it again forever.
                stepped = isinstance(observed, state_machine.HeadSeen) and not isinstance(action, state_machine.Confirm)
                if stepped and time.monotonic() > until:
                    break
            action = self.follower.observe(observed)
        await self._name_wait(conn, action)
        if isinstance(action, state_machine.Wait) and self.token is not None and not self._indexes_complete:
            worked = await self.catch_up.build_indexes(conn, self.token, self._building) or worked
            self._indexes_complete = True
        return worked

    def _building(self, name: str, left: int) -> None:
        if self.progress.set_wait(f"indexes deferred during the initial load: {left} left to build"):
            log.info("building_index", index=name, left=left)

    async def _name_wait(self, conn: Connection, action: state_machine.Action) -> None:
        """Publish the follower's mode and wait where /ready, the metrics, the log and `status` find them."""
        p, mode = self.progress, self.follower.mode
        reason = action.reason if isinstance(action, state_machine.Wait) else ""
        if isinstance(action, state_machine.Halt):
            reason = f"halted: {action.reason}. {action.remedy}"
        p.mode = mode.value
        if p.set_wait(reason) and reason:
            log.error("halted", reason=reason) if mode is Mode.HALTED else log.warning("waiting", waiting_for=reason)
        await self.publish_state(conn, reason or mode.value)
        if isinstance(action, state_machine.Halt) and self.last is not None:
            raise ReorgTooDeepError(action.reason, action.remedy)

    async def publish_state(self, conn: Connection, state: str) -> None:
        """Write what the holder of the lease does, or waits for, where `status` finds it."""
        if self.token is not None and state != self._named:
            await lease.set_state(conn, self.token, state)
            self._named = state

    async def load_state(self, conn: Connection) -> IndexState:
        """Load the index state, and publish its numbers as progress."""
        state = await load_index_state(conn, self.addresses)
        p = self.progress
        p.origin, p.ingested, p.holder = state.binding.origin, state.contiguous_end, self.token is not None
        p.projected = state.checkpoint.number if state.checkpoint else state.binding.origin - 1
        p.projected_time = state.checkpoint.timestamp if state.checkpoint else 0
        self._state = state
        return state

    async def _seen(self, conn: Connection, view: HeadView) -> state_machine.HeadSeen:
        state, head = await self.load_state(conn), view.heads.latest
        if self.wrong_from is not None and self.wrong_from <= state.floor:
            self.wrong_from = None  # Final by now: the auditor's. It must not hide what is reported later.
        if state.tip is not None and state.tip.number > head.number:
            log.debug("lagging_head", endpoint=view.endpoint, blocks_behind=state.tip.number - head.number)
        if self.token is not None:
            await self.maintenance.run_if_due(conn, state, self.token)
        end = await projectable_end(conn, state, self.addresses, strict=self.deployment.attest.before_commit)
        return state_machine.HeadSeen(
            head=head,
            at_head=await stored_hash(conn, head.number),
            tip=state.tip,
            checkpoint=state.next_block - 1,
            contiguous_end=state.contiguous_end,
            floor=state.floor,
            holder=self.token is not None,
            stale=not self.writer.projection_is_current(state),
            unconfirmed=await self._unconfirmed(conn, state),
            ranges=tuple(self.ranges_to_ingest(state, view)),
            wrong_from=self.wrong_from,
            unproven_from=end + 1 if end < state.contiguous_end else None,
        )

    def report_wrong_logs(self, first: int) -> None:
        """Have the blocks from `first` on healed by the next step: the logs of that block are proven to be wrong."""
        self.wrong_from = first if self.wrong_from is None else min(first, self.wrong_from)

    async def take_lease(self, conn: Connection) -> str | None:
        """Take or renew the lease; return the name of a recovery that it was yielded to. Raises LeaseLostError."""
        held = self.token
        yielded_to = await self.lease_keeper.take(conn)
        if self.token != held:
            self._named, self._indexes_complete = "", False
        return yielded_to

    async def _do(self, conn: Connection, view: HeadView, action: state_machine.Action) -> state_machine.Observation:
        """Execute one action, and return what was observed."""
        started, asked = time.monotonic(), self.pool.requests
        state, done = self._state, None
        assert state is not None
        try:
            match action:
                case state_machine.Project() | state_machine.Ingest() if self._far_behind(state, view):
                    await self._catch_up(conn, state, view)
                case state_machine.Project(last):
                    done = await self.writer.project_stored(conn, state, last, self._final_up_to, self._held_token)
                case state_machine.Reproject(last):
                    await project_again(conn, self.writer, state, last, self._held_token)
                case state_machine.Ingest(contract_range):
                    done = await self._ingest(conn, state, contract_range, view.final)
                case state_machine.HealHead(first):
                    # Whatever comes of it, the prover looks again and reports what is still wrong.
                    self.wrong_from = None
                    done = await self.head_healer.heal(conn, state, first, self._held_token)
                case state_machine.Confirm(block):
                    if not await self._confirm(block, view.final):
                        return state_machine.Conflict(
                            block.number, f"the stored block {block.number} is not on the chain"
                        )
                case _:
                    return await self.fork_handler.handle(conn, state, view.final, action, self.token)
        except (ParentMismatchError, StoredHashMismatchError) as conflict:
            # A reorg between two looks, or a node that contradicts itself: the fork search finds out.
            log.info("seam_broken", block=conflict.number)
            return state_machine.Conflict(conflict.number, conflict.message)
        except (EpochChangedError, asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError) as conflict:
            self._beaten_by_another(conflict)
            return state_machine.StateChanged()
        self._conflicts = 0
        if done is not None:
            self.reporter.report(done, time.monotonic() - started, self.pool.requests - asked)
        return await self._seen(conn, view)

    async def _unconfirmed(self, conn: Connection, state: IndexState) -> BlockRef | None:
        """Return the block at the contiguous end, if rows are to be projected and this look has not compared it."""
        last = state.next_block - 1
        if state.contiguous_end < last or (state.contiguous_end == last and self.writer.projection_is_current(state)):
            return None
        (end,) = await block_refs_between(conn, state.contiguous_end, state.contiguous_end)
        return None if end.hash == self._confirmed else end

    async def _confirm(self, block: BlockRef, final: FinalBlock) -> bool:
        up_to = await self.pool.with_failover(lambda reader: final_up_to(reader, block, final))
        if up_to is not None:
            self._confirmed, self._final_up_to = block.hash, up_to
        return up_to is not None

    @property
    def _held_token(self) -> int:
        assert self.token is not None, "the machine lets only the holder write rows"
        return self.token

    def _beaten_by_another(self, conflict: Exception) -> None:
        """Tolerate that another process committed the same range, or a block row of it, first.

        Nothing of this process was written, and the next plan leaves the range out. Raises the conflict when it comes
        again and again, or from a public table: then it has another cause.
        """
        self._conflicts += 1
        public = isinstance(conflict, asyncpg.UniqueViolationError) and conflict.schema_name != "indexer"
        if public or self._conflicts > MAX_CONFLICTS:
            raise conflict
        log.debug("beaten", conflict=" ".join(str(conflict).split()))

    def ranges_to_ingest(self, state: IndexState, view: HeadView) -> list[ContractRange]:
        """Return what to ingest now. Without the lease only up to finalized: a fork above it needs the projector."""
        goal = view.heads.latest.number if self.last is None else min(self.last, view.heads.latest.number)
        if self.token is None:
            goal = min(goal, view.finality.finalized)
        return plan_missing(state.coverage, state.binding.origin if self.first is None else self.first, goal)

    def _far_behind(self, state: IndexState, view: HeadView) -> bool:
        """Return whether much is left to do below finalized, where nothing can be reorged away.

        In strict mode, each batch is proven by the loop instead.
        """
        if self.deployment.attest.before_commit:
            return False
        finalized = view.finality.finalized
        missing = sum(max(0, min(s.last, finalized) - s.first + 1) for s in self.ranges_to_ingest(state, view))
        return max(missing, min(state.contiguous_end, finalized) - state.next_block + 1) >= MIN_CATCH_UP_BLOCKS

    async def _catch_up(self, conn: Connection, state: IndexState, view: HeadView) -> None:
        finalized, p = view.finality.finalized, self.progress
        below = [
            s._replace(last=min(s.last, finalized)) for s in self.ranges_to_ingest(state, view) if s.first <= finalized
        ]
        p.to_ingest, p.bulk_from = p.blocks + sum(s.last - s.first + 1 for s in below), state.next_block - 1
        self._indexes_complete = False
        await self.publish_state(conn, self.follower.mode.value)
        if self.token is not None:
            await confirm_stored(self.pool, conn, state, finalized, view.final)
        await self.catch_up.run(conn, state, below, view.final, finalized, self.token)

    def _committed(self, done: StepResult) -> None:
        """Report a commit made while catching up."""
        self._conflicts = 0
        if done.projected:
            self.lease_keeper.extended_at = time.monotonic()
        self.reporter.report_bulk(done, self.catch_up.contiguous_end)

    async def _ingest(
        self, conn: Connection, state: IndexState, contract_range: ContractRange, final: FinalBlock
    ) -> StepResult:
        before = await stored_hash(conn, contract_range.first - 1)

        async def read(reader: Reader) -> ProvenBatch:
            batch = await fetch_batch(reader, contract_range, final, before, self._time_fields)
            # What cannot be proven of this endpoint's answer may be proven of another's: a wrong transaction hash.
            return await prove_batch(self.pool, batch) if self.deployment.attest.before_commit else (batch, None)

        batch, proof = await self.pool.with_failover(read)
        done = await self.writer.commit_batch(conn, state, batch, batch.final, self.token, proof)
        self.reporter.report_faults(proof.faults if proof else ())
        self.on_head_commit(batch.blocks, batch.sources[0].endpoint)
        return done
