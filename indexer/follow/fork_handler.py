"""What the daemon does about a fork: ask what the endpoints claim, set liars aside, apply the replacement."""

from __future__ import annotations

import time

import structlog

from indexer.chain.finality import FinalBlock
from indexer.chain.forks import ForkClaim
from indexer.errors import RpcError
from indexer.follow import state_machine
from indexer.follow.step_report import StepReporter
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step
from indexer.reorg.claims import collect_claims
from indexer.reorg.replacement import stage_replacement
from indexer.rpc.pool import Pool

log = structlog.get_logger()


class ForkHandler:
    """Executes the state machine's actions about forks.

    Args:
        pool: The endpoints.
        rewriter: Applies the replacement.
        reporter: Reports the committed step, and counts reorgs.
    """

    def __init__(self, pool: Pool, rewriter: Rewriter, reporter: StepReporter) -> None:
        self.pool, self.rewriter, self.reporter = pool, rewriter, reporter
        self.progress = reporter.progress

    async def handle(self, step: Step, final: FinalBlock, action: state_machine.Action) -> state_machine.Observation:
        """Execute one action, and return what was observed. Raises RpcError and LeaseLostError.

        `final`: the block that everything final must join. `action`: a search, a replacement, or endpoints to set
        aside; the state machine lets only the holder of the lease replace blocks.
        """
        match action:
            case state_machine.SearchFork(everyone, _):
                claims = await collect_claims(self.pool, step.conn, step.state, final, everyone=everyone)
                return state_machine.Claims(claims, everyone)
            case state_machine.ReplaceFork(claim, cause):
                return await self._replace(step, claim, cause, final)
            case state_machine.SetEndpointsAside(endpoints, reason):
                for name in endpoints:
                    self.pool.set_aside(name, reason)
        return state_machine.StateChanged()

    async def _replace(self, step: Step, claim: ForkClaim, cause: str, final: FinalBlock) -> state_machine.Observation:
        """Stage the replacement from the endpoint that claimed it, or from another that claims a fork, and apply it."""
        started, asked, tip = time.monotonic(), self.pool.requests, step.state.tip
        assert tip is not None
        try:
            reorg, up_to = await stage_replacement(
                self.pool, step, claim, cause, final, strict=self.rewriter.writer.deployment.attest.before_commit
            )
        except RpcError as error:
            assert claim.fork is not None
            return state_machine.ReplacementUnavailable(claim.fork.number + 1, tip.number, error.message)
        done = await self.rewriter.apply_reorg(step, reorg, up_to)
        self.reporter.report_faults(reorg.faults)
        self.progress.reorgs += 1
        self.progress.reorg_depth.observe(reorg.depth)
        old, new = tip.number, reorg.new_tip.number
        log.warning("reorg", fork_point=reorg.fork.number, depth=reorg.depth, old_tip=old, new_tip=new, cause=cause)
        self.reporter.report(done, time.monotonic() - started, self.pool.requests - asked)
        return state_machine.StateChanged()
