"""Proof of a log batch before its commit: in strict mode, no row becomes visible before its block is proven."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from indexer.chain.batch import LogBatch
from indexer.chain.log_set import diff_logs
from indexer.chain.types import Header
from indexer.errors import InconsistentResponseError, RpcError, TransientRpcError
from indexer.ingest.block_proof import HEADERS, prove_blocks
from indexer.ingest.proof_rules import hashes_to_itself
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.head_proofs import ProofRecord
from indexer.store.provenance import EndpointFault

ProvenBatch = tuple[LogBatch, ProofRecord | None]  # No proof: it was not asked for.


async def prove_batch(pool: Pool, batch: LogBatch) -> tuple[LogBatch, ProofRecord]:
    """Prove every block of a batch, and return it with its true logs and what is to be stored about the proof.

    Logs that the batch has wrong are corrected here, and the endpoint that served them is at fault.

    Raises:
        TransientRpcError: No endpoint proves a block of the batch, or none answered.
    """
    headers = batch.blocks
    if len(headers) <= batch.last - batch.first or not all(h.receipts_root for h in headers):
        headers = await pool.with_failover(lambda reader: _chained_headers(reader, batch))
    proofs = await prove_blocks(pool.ordered(), headers, batch.logs, batch.addresses)
    for header in headers:
        if header.number not in proofs.proven_by:
            reasons = "; ".join(f"{f.endpoint}: {f.detail}" for f in proofs.failures if f.block == header.number)
            raise _unproven(header.number, reasons)
    server = batch.sources[0].endpoint if batch.sources else "the server of the batch"
    proven_by = {number: endpoint or server for number, endpoint in proofs.proven_by.items()}
    faults = [
        EndpointFault(server, "served", block, index, what, proven_by[block])
        for block, index, what in diff_logs(batch.logs, proofs.logs)
    ]
    kept = {b.number for b in batch.blocks} | {g.block_number for g in proofs.logs}
    corrected = replace(batch, logs=proofs.logs, blocks=[h for h in headers if h.number in kept])
    return corrected, ProofRecord(proven_by, tuple(faults))


async def _chained_headers(reader: Reader, batch: LogBatch) -> list[Header]:
    """Return the header of every block, hashed from its fields; they must form one chain with those of the batch."""
    headers: list[Header] = []
    for at in range(batch.first, batch.last + 1, HEADERS):
        found = await reader.sealed_headers(range(at, min(at + HEADERS, batch.last + 1)))
        headers += [s.header for s in found if not isinstance(s, RpcError) and hashes_to_itself(s)]
    known = {b.number: b.hash for b in batch.blocks}
    if [h.number for h in headers] != list(range(batch.first, batch.last + 1)):
        lacking = sorted(set(range(batch.first, batch.last + 1)) - {h.number for h in headers})
        raise _unproven(lacking[0], f"{reader.name}: serves no header whose fields have its hash")
    joined = all(child.parent_hash == parent.hash for parent, child in pairwise(headers))
    if not joined or any(known.get(h.number, h.hash) != h.hash for h in headers):
        raise InconsistentResponseError(
            f"blocks {batch.first} to {batch.last} changed while they were proven", reader.name
        )
    return headers


def _unproven(number: int, reasons: str) -> TransientRpcError:
    return TransientRpcError(
        f"block {number} is not proven, and before_commit = true in [attest] waits for its proof: {reasons}"
    )
