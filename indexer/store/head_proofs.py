"""Proofs of blocks above finalized: one row a block, which goes when the block's row goes.

A rollback or a heal that removes a block thus voids its grade in the same transaction. Once blocks are final, their
rows become one attestation (`attest/attester.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from indexer.chain.batch import LogBatch
from indexer.chain.ranges import BlockRange, ContractRange, contiguous_end
from indexer.db.connection import Connection
from indexer.store import attestations, coverage, provenance
from indexer.store.attestations import PROVEN, Attestation
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault


class ProofRecord(NamedTuple):
    """What is stored about a batch that was proven before its commit.

    `proven_by`: the endpoint that proved a block, for every block of the batch. `faults`: the logs that its server had
    wrong, none of which are in the batch any more.
    """

    proven_by: Mapping[int, str]
    faults: tuple[EndpointFault, ...]


async def record(conn: Connection, batch: LogBatch, proof: ProofRecord) -> None:
    """Record that a batch is proven, in the transaction that commits it: as an attestation if all of it is final."""
    await provenance.record_faults(conn, proof.faults)
    if batch.last > batch.final:
        await add(conn, {b.number: (b.hash, proof.proven_by[b.number]) for b in batch.blocks}, batch.addresses)
        return
    blocks, hashes = ContractRange(batch.first, batch.last, batch.addresses), {b.number: b.hash for b in batch.blocks}
    endpoints = sorted(set(proof.proven_by.values()))
    await attestations.add(conn, Attestation.of(blocks, "proven", hashes, batch.logs, endpoints))


async def add(conn: Connection, proven: Mapping[int, tuple[bytes, str]], addresses: Sequence[str]) -> None:
    """Record that the stored logs of blocks are proven, inside a transaction that holds the epoch.

    `proven`: hash of a block, and the endpoint that proved it, by number; a block that is not stored, or with another
    hash, is left out. `addresses`: contracts whose logs are proven (lower-case 0x).
    """
    contracts = await coverage.contract_ids(conn, addresses)
    await conn.execute(
        "INSERT INTO indexer.head_proof (block_number, contracts, endpoint)"
        " SELECT b.number, $1, p.endpoint FROM unnest($2::bigint[], $3::bytea[], $4::text[]) p(number, hash, endpoint)"
        " JOIN indexer.block b ON b.number = p.number AND b.hash = p.hash"
        # The row goes with the block's, so what is there was proven of the same block, with other contracts.
        " ON CONFLICT (block_number) DO UPDATE SET endpoint = EXCLUDED.endpoint, contracts ="
        " (SELECT array_agg(DISTINCT id ORDER BY id) FROM unnest(head_proof.contracts || EXCLUDED.contracts) id)",
        contracts,
        list(proven),
        [hash_ for hash_, _ in proven.values()],
        [endpoint for _, endpoint in proven.values()],
    )


async def unproven(conn: Connection, first: int, last: int, addresses: Sequence[str]) -> list[int]:
    """Return the stored blocks in first..last that are not proven for all of these contracts, ascending.

    Args:
        conn: connection.
        first: first block to look at.
        last: last block to look at, included.
        addresses: contracts that must be proven (lower-case 0x).
    """
    contracts = await coverage.contract_ids(conn, addresses)
    rows = await conn.fetch(
        "SELECT number FROM indexer.block b WHERE number BETWEEN $1 AND $2 AND NOT EXISTS"
        " (SELECT FROM indexer.head_proof p WHERE p.block_number = b.number AND p.contracts @> $3::int[]) ORDER BY 1",
        first,
        last,
        contracts,
    )
    return [row["number"] for row in rows]


async def provers(conn: Connection, first: int, last: int, addresses: Sequence[str]) -> dict[int, str]:
    """Return who proved each block of first..last that is proven for all of these contracts, by number.

    Args:
        conn: connection.
        first: first block to look at.
        last: last block to look at, included.
        addresses: contracts that must be proven (lower-case 0x).
    """
    contracts = await coverage.contract_ids(conn, addresses)
    rows = await conn.fetch(
        "SELECT block_number, endpoint FROM indexer.head_proof"
        " WHERE block_number BETWEEN $1 AND $2 AND contracts @> $3::int[]",
        first,
        last,
        contracts,
    )
    return dict(map(tuple, rows))


async def newest(conn: Connection) -> int:
    """Return the highest proven block; -1 if there is none."""
    value: int = await conn.fetchval("SELECT COALESCE(max(block_number), -1) FROM indexer.head_proof")
    return value


async def count_unproven(conn: Connection, floor: int, checkpoint: int) -> int:
    """Return how many blocks above the floor, up to the checkpoint, lack a proof."""
    value: int = await conn.fetchval(
        "SELECT (SELECT count(*) FROM indexer.block WHERE number > $1 AND number <= $2)"
        " - (SELECT count(*) FROM indexer.head_proof WHERE block_number > $1 AND block_number <= $2)",
        floor,
        checkpoint,
    )
    return value


async def first_run(
    conn: Connection, first: int, last: int, addresses: Sequence[str]
) -> tuple[BlockRange, list[str]] | None:  # fmt: skip
    """Return the lowest run of blocks within first..last that are proven for these contracts, and who proved them.

    Args:
        conn: connection.
        first: first block to look at.
        last: last block to look at, included.
        addresses: contracts that must be proven (lower-case 0x).
    """
    contracts = await coverage.contract_ids(conn, addresses)
    row = await conn.fetchrow(
        "SELECT min(block_number) AS first, max(block_number) AS last, array_agg(DISTINCT endpoint) AS endpoints FROM ("
        " SELECT block_number, endpoint, block_number - row_number() OVER (ORDER BY block_number) AS run"
        " FROM indexer.head_proof WHERE block_number BETWEEN $1 AND $2 AND contracts @> $3::int[]) proven"
        " GROUP BY run ORDER BY run LIMIT 1",
        first,
        last,
        contracts,
    )
    return None if row is None else (BlockRange(row["first"], row["last"]), row["endpoints"])


async def contiguous_proof_end(conn: Connection, first: int, last: int, addresses: Sequence[str]) -> int:
    """Return the block up to which all of first..last is proven for these contracts; first - 1 if `first` is not.

    Args:
        conn: connection.
        first: first block to look at.
        last: last block to look at, included.
        addresses: contracts that must be proven (lower-case 0x).
    """
    attested = await attestations.load(conn, addresses, PROVEN, first)
    end = min(contiguous_end(attested, first), last)
    run = await first_run(conn, end + 1, last, addresses) if end < last else None
    end = run[0].last if run is not None and run[0].first == end + 1 else end
    # A proof may end anywhere, a step only on a stored block.
    stored: int | None = await conn.fetchval(
        "SELECT max(number) FROM indexer.block WHERE number BETWEEN $1 AND $2", first, end
    )
    return first - 1 if stored is None else stored


async def projectable_end(conn: Connection, state: IndexState, addresses: Sequence[str], *, strict: bool) -> int:
    """Return the block up to which stored blocks may become rows: in strict mode, only what is proven.

    Args:
        conn: connection.
        state: what is stored.
        addresses: contracts that must be proven (lower-case 0x).
        strict: whether rows are proven before they become visible.
    """
    if not strict or state.contiguous_end < state.next_block:
        return state.contiguous_end
    return await contiguous_proof_end(conn, state.next_block, state.contiguous_end, addresses)


async def forget(conn: Connection, first: int, last: int) -> None:
    """Remove the proofs of blocks first..last, in the transaction that records their attestation."""
    await conn.execute("DELETE FROM indexer.head_proof WHERE block_number BETWEEN $1 AND $2", first, last)
