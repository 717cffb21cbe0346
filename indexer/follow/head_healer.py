"""Heals blocks above the rollback floor whose logs are proven to be wrong, in one commit, while the head is followed.

The blocks keep their hashes: only their logs, and the rows made from them, are replaced, as a reorg would do it. Below
the floor `reorg/heal.py` heals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import structlog

from indexer.chain.batch import LogBatch
from indexer.chain.log_set import LogFault, diff_logs
from indexer.chain.types import BlockRef, Header, Log, address_bytes
from indexer.db.connection import Connection
from indexer.follow.step_report import StepReporter
from indexer.ingest.block_proof import BlockProofs, prove_blocks
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step, StepResult
from indexer.rpc.pool import Pool
from indexer.store import coverage, head_proofs, provenance, raw_logs, staging
from indexer.store.index_state import block_refs_between
from indexer.store.reorg_journal import Reorg

log = structlog.get_logger()


class HeadHealer:
    """Replaces wrong logs of blocks that may still be reorged away.

    Args:
        pool: The endpoints to prove with; those at fault are set aside.
        rewriter: Applies the replacement.
        reporter: Reports the faults.
    """

    def __init__(self, pool: Pool, rewriter: Rewriter, reporter: StepReporter) -> None:
        self.pool, self.rewriter, self.reporter = pool, rewriter, reporter

    async def heal(self, step: Step, first: int) -> StepResult | None:
        """Prove the stored blocks from `first` on, and replace them in one commit if their logs are wrong.

        A block that cannot be proven now keeps its logs: nothing is deleted without a replacement. Returns None if
        nothing is wrong any more. Raises RpcError if no endpoint answers, and LeaseLostError.

        `first`: the first block that is wrong; it must be above the rollback floor.
        """
        conn, state, tip = step.conn, step.state, step.state.tip
        if tip is None or tip.number < first or state.contiguous_end < tip.number:
            return None  # The blocks are gone since, or logs of a new contract are still to be ingested.
        refs = await block_refs_between(conn, first - 1, tip.number)
        if len(refs) != tip.number - first + 2 or refs[0].number != first - 1:
            return None  # They are not all stored any more: a rollback came first.
        addresses = state.contracts_covered_above(first - 1)
        watched = {address_bytes(a) for a in addresses}
        stored = (await raw_logs.read(conn, first, tip.number, 10**9)).logs
        stored = [g for g in stored if g.address in watched]
        headers = [Header(block.number, block.hash, parent.hash, block.timestamp) for parent, block in pairwise(refs)]
        proofs = await self._prove(conn, headers, stored, addresses)
        wrong = diff_logs(stored, proofs.logs)
        if not wrong:
            return None
        return await self._replace(step, refs, headers, stored, proofs, wrong)

    async def _prove(
        self, conn: Connection, headers: Sequence[Header], stored: Sequence[Log], addresses: Sequence[str]
    ) -> BlockProofs:
        """Prove what is not proven yet: the wrong block may be deep, and the blocks above it have their proofs.

        The logs of all other blocks are the stored ones.
        """
        known = await head_proofs.provers(conn, headers[0].number, headers[-1].number, addresses)
        open_ = [h for h in headers if h.number not in known]
        proofs = await prove_blocks(
            self.pool.ordered(), open_, [g for g in stored if g.block_number not in known], addresses
        )
        kept = (g for g in stored if g.block_number not in proofs.proven_by)
        proofs.logs = sorted([*proofs.logs, *kept], key=lambda g: g.identity)
        proofs.proven_by |= known
        return proofs

    async def _replace(
        self, step: Step, refs: Sequence[BlockRef], headers: Sequence[Header], stored: Sequence[Log],
        proofs: BlockProofs, wrong: Sequence[LogFault],
    ) -> StepResult:  # fmt: skip
        conn, addresses, tip = step.conn, step.state.contracts_covered_above(refs[0].number), headers[-1].ref()
        faults = await provenance.faults_of_servers(conn, wrong, [*stored, *proofs.logs], proofs.proven_by)
        prover = proofs.proven_by[wrong[0].block]
        batch = LogBatch(headers[0].number, tip.number, addresses, proofs.logs, list(headers))
        await staging.clear(conn, step.held_token)
        await staging.add(conn, batch, step.held_token)
        cause = f"attestation: {', '.join(sorted({f.endpoint for f in faults}))} was wrong"
        proven = {h.number: (h.hash, proofs.proven_by[h.number]) for h in headers if h.number in proofs.proven_by}
        contracts = await coverage.contract_ids(conn, addresses)
        kept = [
            source
            for h in headers
            if h.number not in proofs.proven_by
            for source in (await provenance.serving_endpoints(conn, contracts, h.number, h.number))[-1:]
        ]
        reorg = Reorg(refs[0], refs[-1], tip, addresses, prover, cause, proven, faults, kept)
        done = await self.rewriter.apply_reorg(step, reorg, -1)
        log.warning("healed", first=reorg.fork.number + 1, last=tip.number, differences=len(wrong), cause=cause)
        self.reporter.progress.head_proof.healed += 1
        self.reporter.report_faults(faults)
        return replace(done, kind="heal")
