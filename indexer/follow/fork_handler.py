"""What the daemon does about a fork: ask what the endpoints claim, set liars aside, apply the replacement."""

from __future__ import annotations

import time

import structlog

from indexer.chain.finality import FinalBlock
from indexer.chain.forks import ForkClaim
from indexer.db.connection import Connection
from indexer.errors import RpcError
from indexer.follow import state_machine
from indexer.follow.step_report import StepReporter
from indexer.projector.writer import Writer
from indexer.reorg.claims import collect_claims
from indexer.reorg.replacement import stage_replacement
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress
from indexer.store.index_state import IndexState

log = structlog.get_logger()


class ForkHandler:
    """Executes the state machine's actions about forks.

    Args:
        pool: The endpoints.
        writer: Applies the replacement.
        progress: Where reorgs are counted.
        reporter: Reports the committed step.
    """

    def __init__(self, pool: Pool, writer: Writer, progress: DaemonProgress, reporter: StepReporter) -> None:
        self.pool, self.writer, self.progress, self.reporter = pool, writer, progress, reporter

    async def handle(
        self, conn: Connection, state: IndexState, final: FinalBlock, action: state_machine.Action, token: int | None
    ) -> state_machine.Observation:
        """Execute one action, and return what was observed. Raises RpcError and LeaseLostError.

        Args:
            conn: The daemon's connection.
            state: What is stored now.
            final: The block that everything final must join.
            action: A search, a replacement, or endpoints to set aside.
            token: The lease; only its holder replaces blocks.
        """
        match action:
            case state_machine.SearchFork(everyone, _):
                claims = await collect_claims(self.pool, conn, state, final, everyone=everyone)
                return state_machine.Claims(claims, everyone)
            case state_machine.ReplaceFork(claim, cause):
                assert token is not None, "the state machine lets only the holder replace blocks"
                return await self._replace(conn, state, claim, cause, final, token)
            case state_machine.SetEndpointsAside(endpoints, reason):
                for name in endpoints:
                    self.pool.set_aside(name, reason)
        return state_machine.StateChanged()

    async def _replace(
        self, conn: Connection, state: IndexState, claim: ForkClaim, cause: str, final: FinalBlock, token: int
    ) -> state_machine.Observation:
        """Stage the replacement from the endpoint that claimed it, or from another that claims a fork, and apply it."""
        started, asked, tip = time.monotonic(), self.pool.requests, state.tip
        assert tip is not None
        try:
            reorg, up_to = await stage_replacement(
                self.pool, conn, state, claim, cause, final, token, strict=self.writer.deployment.attest.before_commit
            )
        except RpcError as error:
            assert claim.fork is not None
            return state_machine.ReplacementUnavailable(claim.fork.number + 1, tip.number, error.message)
        done = await self.writer.apply_reorg(conn, state, reorg, up_to, token)
        self.reporter.report_faults(reorg.faults)
        self.progress.reorgs += 1
        self.progress.reorg_depth.observe(reorg.depth)
        old, new = tip.number, reorg.new_tip.number
        log.warning("reorg", fork_point=reorg.fork.number, depth=reorg.depth, old_tip=old, new_tip=new, cause=cause)
        self.reporter.report(done, time.monotonic() - started, self.pool.requests - asked)
        return state_machine.StateChanged()
