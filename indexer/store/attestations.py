"""Attestations: what was attested, and how much of it still holds.

Rows are only ever inserted; a trigger refuses anything else. When a rollback or a heal voids an attestation, it commits
a later row of grade 'void' in the same transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from indexer.chain.log_set import digest
from indexer.chain.ranges import (
    BlockRange,
    ContractRange,
    contiguous_end,
    count_blocks,
    covered_ranges,
    merge_ranges,
)
from indexer.chain.types import Log, address_bytes
from indexer.db.connection import Connection
from indexer.store import coverage

Grade = Literal["cross-checked", "proven"]

PROVEN: tuple[Grade, ...] = ("proven",)
METHODS: dict[Grade, str] = {"proven": "header, bloom and receipts", "cross-checked": "second endpoint"}
ANY: tuple[Grade, ...] = ("cross-checked", "proven")  # A proven range needs no second endpoint.


class Attestation(NamedTuple):
    """A statement that blocks first..last hold exactly `logs` logs of `addresses`, with this digest.

    `first_hash`, `last_hash`: hashes of the end blocks; None for a block that is not stored. `endpoints`: who was
    asked. `method`: how it was checked.
    """

    first: int
    last: int
    addresses: tuple[str, ...]
    grade: Grade
    method: str
    first_hash: bytes | None
    last_hash: bytes | None
    logs: int
    digest: bytes
    endpoints: tuple[str, ...]

    @classmethod
    def of(
        cls, blocks: ContractRange, grade: Grade, hashes: Mapping[int, bytes], logs: Sequence[Log],
        endpoints: Iterable[str],
    ) -> Attestation:  # fmt: skip
        """Return the attestation of a contract range with exactly these logs.

        Args:
            blocks: The block range and its contracts.
            grade: The grade, whose method is the one that the program has.
            hashes: Hashes of blocks by number; that of an end of the range may lack.
            logs: All logs of the contracts in the blocks, in chain order.
            endpoints: Who was asked, in order; repeats are dropped.
        """
        return cls(
            *blocks, grade, METHODS[grade], hashes.get(blocks.first), hashes.get(blocks.last), len(logs), digest(logs),
            tuple(dict.fromkeys(endpoints)),
        )  # fmt: skip


class Attested(NamedTuple):
    """How far attestation reaches for all watched contracts together.

    `up_to`: last block attested without a gap from the origin, for every watched contract; below the origin when there
    is none. `newest`: the highest attested range. `blocks`: how many blocks in total.
    """

    up_to: int
    newest: BlockRange | None
    blocks: int


async def add(conn: Connection, attestation: Attestation) -> None:
    """Insert an attestation."""
    contracts = await coverage.contract_ids(conn, attestation.addresses)
    await conn.execute(
        "INSERT INTO indexer.attestation (first_block, last_block, contracts, grade, method, first_hash, last_hash,"
        " logs, digest, endpoints) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        attestation.first, attestation.last, contracts, attestation.grade, attestation.method, attestation.first_hash,
        attestation.last_hash, attestation.logs, attestation.digest, list(attestation.endpoints),
    )  # fmt: skip


async def newest_void(conn: Connection) -> int:
    """Return the id of the newest row that voids attestations; 0 if there is none."""
    value: int = await conn.fetchval("SELECT COALESCE(max(id), 0) FROM indexer.attestation WHERE grade = 'void'")
    return value


async def void(conn: Connection, ranges: Sequence[BlockRange], contracts: Sequence[int] | None, why: str) -> None:
    """Void the attestations of these block ranges, in the transaction that changes their logs.

    Ranges in which nothing was attested leave no row.

    Args:
        conn: connection, inside the caller's transaction.
        ranges: block ranges whose logs change.
        contracts: contract ids; None: all.
        why: what made them void, "rollback" or "heal".
    """
    await conn.execute(
        "INSERT INTO indexer.attestation (first_block, last_block, contracts, grade, method, endpoints)"
        " SELECT f, LEAST(l, max(a.last_block)),"
        " COALESCE($3::int[], (SELECT array_agg(id ORDER BY id) FROM indexer.contract)), 'void', $4, '{}'"
        " FROM unnest($1::bigint[], $2::bigint[]) AS s(f, l) JOIN indexer.attestation a"
        " ON a.grade IN ('cross-checked', 'proven') AND a.last_block >= f AND a.first_block <= l"
        " AND ($3::int[] IS NULL OR a.contracts && $3::int[]) GROUP BY f, l",
        [r.first for r in ranges],
        [r.last for r in ranges],
        None if contracts is None else list(contracts),
        why,
    )


_HOLDING = """
SELECT contracts, lower(span) AS first, upper(span) - 1 AS last FROM (
  SELECT a.contracts, unnest(range_agg(part.span)) AS span
  FROM indexer.attestation a, LATERAL unnest(
    int8multirange(int8range(a.first_block, a.last_block, '[]')) - COALESCE((
      SELECT range_agg(int8range(w.first_block, w.last_block, '[]')) FROM indexer.attestation w
      WHERE w.grade = 'void' AND w.last_block >= a.first_block AND w.first_block <= a.last_block AND w.id > a.id
        AND w.contracts && a.contracts
    ), '{}')
  ) AS part(span)
  WHERE a.grade = ANY($1::text[]) AND a.last_block >= $2
    AND NOT EXISTS (SELECT FROM indexer.block b WHERE b.number = a.last_block AND b.hash <> a.last_hash)
  GROUP BY a.contracts
) holding"""


async def load(
    conn: Connection, addresses: Sequence[str], grades: Sequence[Grade], above: int = -1
) -> dict[str, list[BlockRange]]:  # fmt: skip
    """Return the attested block ranges of each contract, sorted, with adjacent ranges merged.

    Args:
        conn: connection.
        addresses: contracts to look up.
        grades: grades that count.
        above: leave out attestations that end below this block.
    """
    known = await conn.fetch(
        "SELECT id, address FROM indexer.contract WHERE address = ANY($1::bytea[])",
        [address_bytes(a) for a in addresses],
    )
    rows = await conn.fetch(_HOLDING, list(grades), above)
    by_contracts: dict[tuple[int, ...], list[BlockRange]] = defaultdict(list)
    for contracts, first, last in rows:
        by_contracts[tuple(contracts)].append(BlockRange(first, last))
    # Usually all contracts share one list of ranges: each combination is merged once.
    merged: dict[tuple[tuple[int, ...], ...], list[BlockRange]] = {}
    attested: dict[str, list[BlockRange]] = {}
    for id_, address in known:
        sets = tuple(contracts for contracts in by_contracts if id_ in contracts)
        if sets not in merged:
            merged[sets] = merge_ranges(r for contracts in sets for r in by_contracts[contracts])
        attested["0x" + address.hex()] = merged[sets]
    return {address: attested.get(address, []) for address in addresses}


def summary(attested: Mapping[str, Sequence[BlockRange]], origin: int) -> Attested:
    """Summarize the answer of `load` for all its contracts together."""
    last = max((r.last for ranges in attested.values() for r in ranges), default=origin - 1)
    complete = merge_ranges(
        BlockRange(r.first, r.last) for r in covered_ranges(attested, origin, last) if len(r.addresses) == len(attested)
    )
    blocks = count_blocks(complete)
    return Attested(contiguous_end(attested, origin), complete[-1] if complete else None, blocks)


async def summaries(conn: Connection, addresses: Sequence[str], origin: int) -> dict[Grade, Attested]:
    """Return how far each grade reaches; proven blocks count as cross-checked too."""
    return {
        "cross-checked": summary(await load(conn, addresses, ANY), origin),
        "proven": summary(await load(conn, addresses, PROVEN), origin),
    }
