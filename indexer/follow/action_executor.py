"""Executing what the state machine decided, one action at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import asyncpg
import structlog

from indexer.chain.finality import FinalBlock, HeadView
from indexer.chain.ranges import ContractRange, count_blocks
from indexer.chain.types import Header
from indexer.db.connection import Connect, Connection
from indexer.decode.block_times import time_fields_of
from indexer.errors import EpochChangedError, ParentMismatchError, StoredHashMismatchError
from indexer.follow import state_machine
from indexer.follow.catch_up import CatchUp
from indexer.follow.engine_options import EngineOptions
from indexer.follow.fork_handler import ForkHandler
from indexer.follow.head_healer import HeadHealer
from indexer.follow.lease_keeper import LeaseKeeper
from indexer.follow.observer import Observer
from indexer.follow.step_report import StepReporter
from indexer.ingest.executor import InlineExecutor
from indexer.ingest.fetch import fetch_batch
from indexer.ingest.proven_batch import ProvenBatch, prove_batch
from indexer.projector.reproject import project_again
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step, StepResult
from indexer.reorg.claims import confirm_stored
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.index_state import IndexState, stored_hash

MAX_CONFLICTS = 20  # consecutive conflicts with other ingesting processes before they are an error
MIN_CATCH_UP_BLOCKS = 500  # left below finalized, from which ingesting and projecting run concurrently

log = structlog.get_logger()


class ActionExecutor:
    """Executes actions, and reports what they committed.

    Args:
        pool: The endpoints.
        rewriter: Changes history; its writer goes forward.
        observer: What was seen, and what is to be ingested.
        lease_keeper: The lease, without which only raw logs are written.
        reporter: Reports the committed steps.
        connect: Opens connections for workers.
        options: Who ingests below finalized.
    """

    def __init__(
        self, pool: Pool, rewriter: Rewriter, observer: Observer, lease_keeper: LeaseKeeper, reporter: StepReporter,
        connect: Connect, options: EngineOptions,
    ) -> None:  # fmt: skip
        writer = rewriter.writer
        self.pool, self.writer, self.rewriter, self.observer = pool, writer, rewriter, observer
        self.lease_keeper, self.reporter = lease_keeper, reporter
        self.strict = writer.deployment.attest.before_commit
        self.fork_handler = ForkHandler(pool, rewriter, reporter)
        self.head_healer = HeadHealer(pool, rewriter, reporter)
        self._time_fields = time_fields_of(writer.deployment.contracts)
        executor = options.executor or InlineExecutor(pool, connect, self._time_fields)
        max_blocks, look = writer.deployment.max_blocks, observer.read_heads
        self.catch_up = CatchUp(executor, writer, connect, self._committed, look, max_blocks, options.defer_from)
        # Called after each commit at the head, with the headers of its blocks and the endpoint that served them.
        self.on_head_commit: Callable[[Sequence[Header], str], None] = lambda headers, endpoint: None
        self._conflicts = 0

    async def execute(
        self, conn: Connection, view: HeadView, action: state_machine.Action
    ) -> state_machine.Observation | None:
        """Execute one action. Return what the state machine has to know of it first; None: it is done, look again."""
        started, asked, state = time.monotonic(), self.pool.requests, self.observer.state
        assert state is not None, "an action follows from a look at the state"
        step = Step(conn, state, self.lease_keeper.token)
        try:
            match action:
                case state_machine.Confirm(block):
                    if not await self.observer.confirm(block, view.final):
                        why = f"the stored block {block.number} is not on the chain"
                        return state_machine.Conflict(block.number, why)
                    done = None
                case state_machine.SearchFork() | state_machine.ReplaceFork() | state_machine.SetEndpointsAside():
                    return await self.fork_handler.handle(step, view.final, action)
                case _:
                    done = await self._commit(step, view, action)
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
        return None

    async def _commit(self, step: Step, view: HeadView, action: state_machine.Action) -> StepResult | None:
        """Execute an action that writes rows. Return the step to report; None if there is none of this loop's own."""
        match action:
            case state_machine.Project() | state_machine.Ingest() if self._far_behind(step.state, view):
                await self._catch_up(step, view)
            case state_machine.Project(last):
                return await self.writer.commit_stored(step, last, self.observer.final_up_to)
            case state_machine.Reproject(last):
                await project_again(self.rewriter, step, last)
            case state_machine.Ingest(contract_range):
                return await self._ingest(step, contract_range, view.final)
            case state_machine.HealHead(first):
                # Whatever comes of it, the prover looks again and reports what is still wrong.
                self.observer.forget_wrong_logs()
                return await self.head_healer.heal(step, first)
            case _:
                raise TypeError(f"{action} writes no rows")
        return None

    async def _ingest(self, step: Step, contract_range: ContractRange, final: FinalBlock) -> StepResult:
        """Fetch the first blocks of a contract range, confirm them and commit them."""
        before = await stored_hash(step.conn, contract_range.first - 1)

        async def read(reader: Reader) -> ProvenBatch:
            batch = await fetch_batch(reader, contract_range, final, before, self._time_fields)
            # What cannot be proven of this endpoint's answer may be proven of another's: a wrong transaction hash.
            return await prove_batch(self.pool, batch) if self.strict else (batch, None)

        batch, proof = await self.pool.with_failover(read)
        done = await self.writer.commit_batch(step, batch, batch.final, proof)
        self.reporter.report_faults(proof.faults if proof else ())
        self.on_head_commit(batch.blocks, batch.sources[0].endpoint)
        return done

    def _far_behind(self, state: IndexState, view: HeadView) -> bool:
        """Return whether much is left to do below finalized, where nothing can be reorged away.

        In strict mode, each batch is proven by the loop instead.
        """
        if self.strict:
            return False
        unprojected = min(state.contiguous_end, view.finality.finalized) - state.next_block + 1
        return max(count_blocks(self._missing_below(state, view)), unprojected) >= MIN_CATCH_UP_BLOCKS

    def _missing_below(self, state: IndexState, view: HeadView) -> list[ContractRange]:
        """Return what to ingest up to finalized."""
        finalized = view.finality.finalized
        ranges = self.observer.ranges_to_ingest(state, view)
        return [r._replace(last=min(r.last, finalized)) for r in ranges if r.first <= finalized]

    async def _catch_up(self, step: Step, view: HeadView) -> None:
        state, finalized, p = step.state, view.finality.finalized, self.reporter.progress
        below = self._missing_below(state, view)
        p.to_ingest, p.bulk_from = p.blocks + count_blocks(below), state.next_block - 1
        await self.lease_keeper.publish(step.conn, state_machine.Mode.FOLLOWING.value)
        if step.token is not None:
            await confirm_stored(self.pool, step.conn, state, finalized, view.final)
        await self.catch_up.run(step, below, view.final, finalized)

    def _committed(self, done: StepResult) -> None:
        """Report a commit made while catching up."""
        self._conflicts = 0
        if done.projected:
            self.lease_keeper.extended_at = time.monotonic()
        self.reporter.report_bulk(done, self.catch_up.contiguous_end)

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
