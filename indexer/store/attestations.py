"""What was attested, and of that what still holds. Rows are only ever inserted (a trigger refuses anything else): what
a rollback or a heal makes void, a later row of grade 'void' says, committed with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from indexer.chain.ranges import BlockRange, contiguous_end, covered_ranges, merge_ranges
from indexer.db.connection import Connection
from indexer.store import coverage

Grade = Literal["cross-checked", "proven"]

PROVEN: tuple[Grade, ...] = ("proven",)
ANY: tuple[Grade, ...] = ("cross-checked", "proven")  # what is proven needs no second endpoint


class Attestation(NamedTuple):
    """Blocks first..last hold exactly `logs` logs of `addresses`, with this digest. The hashes are those of the ends,
    None for one that is not stored. `endpoints` were asked; `method` says how."""

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


class Attested(NamedTuple):
    """`up_to`: without a gap from the origin on, for every watched contract; below the origin when nothing is.
    `newest`: the highest attested range; `blocks`: how many in all."""

    up_to: int
    newest: BlockRange | None
    blocks: int


async def add(conn: Connection, one: Attestation) -> None:
    contracts = sorted((await coverage.contract_ids(conn, one.addresses)).values())
    await conn.execute(
        "INSERT INTO indexer.attestation (first_block, last_block, contracts, grade, method, first_hash, last_hash,"
        " logs, digest, endpoints) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        one.first, one.last, contracts, one.grade, one.method, one.first_hash, one.last_hash, one.logs, one.digest,
        list(one.endpoints),
    )  # fmt: skip


async def void(conn: Connection, spans: Sequence[BlockRange], contracts: Sequence[int] | None, why: str) -> None:
    """Takes back what is attested of these blocks, for these contracts (ids; None: all), in the transaction that
    changes their logs. Spans of which nothing was attested leave no row."""
    await conn.execute(
        "INSERT INTO indexer.attestation (first_block, last_block, contracts, grade, method, endpoints)"
        " SELECT f, LEAST(l, max(a.last_block)),"
        " COALESCE($3::int[], (SELECT array_agg(id ORDER BY id) FROM indexer.contract)), 'void', $4, '{}'"
        " FROM unnest($1::bigint[], $2::bigint[]) AS s(f, l) JOIN indexer.attestation a"
        " ON a.grade IN ('cross-checked', 'proven') AND a.last_block >= f AND a.first_block <= l"
        " AND ($3::int[] IS NULL OR a.contracts && $3::int[]) GROUP BY f, l",
        [s.first for s in spans],
        [s.last for s in spans],
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
    """Blocks attested with one of the grades, by contract; sorted, those that touch joined. Attestations that end
    below block `above` are left out."""
    known = await conn.fetch(
        "SELECT id, address FROM indexer.contract WHERE address = ANY($1::bytea[])",
        [bytes.fromhex(a[2:]) for a in addresses],
    )
    rows = await conn.fetch(_HOLDING, list(grades), above)
    of_set: dict[tuple[int, ...], list[BlockRange]] = defaultdict(list)
    for contracts, first, last in rows:
        of_set[tuple(contracts)].append(BlockRange(first, last))
    made: dict[tuple[tuple[int, ...], ...], list[BlockRange]] = {}  # mostly one for all contracts
    held: dict[str, list[BlockRange]] = {}
    for id_, address in known:
        sets = tuple(contracts for contracts in of_set if id_ in contracts)
        if sets not in made:
            made[sets] = merge_ranges(span for contracts in sets for span in of_set[contracts])
        held["0x" + address.hex()] = made[sets]
    return {address: held.get(address, []) for address in addresses}


def summary(held: Mapping[str, Sequence[BlockRange]], origin: int) -> Attested:
    """Of what `load` told, for all its contracts together."""
    last = max((s.last for spans in held.values() for s in spans), default=origin - 1)
    whole = merge_ranges(
        BlockRange(s.first, s.last) for s in covered_ranges(held, origin, last) if len(s.addresses) == len(held)
    )
    blocks = sum(s.last - s.first + 1 for s in whole)
    return Attested(contiguous_end(held, origin), whole[-1] if whole else None, blocks)


async def summaries(conn: Connection, addresses: Sequence[str], origin: int) -> dict[Grade, Attested]:
    """How far each grade reaches; what is proven counts as cross-checked too."""
    return {
        "cross-checked": summary(await load(conn, addresses, ANY), origin),
        "proven": summary(await load(conn, addresses, PROVEN), origin),
    }
