"""Index state: a snapshot of a database's binding, origin, checkpoint, epoch, coverage and tip.

Loaded again for every cycle, because other processes ingest into the same database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from indexer.chain.ranges import BlockRange, contiguous_end
from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.errors import WrongDeploymentError
from indexer.store import coverage
from indexer.store.stream_slots import CAPTURING


@dataclass(frozen=True, slots=True)
class DeploymentBinding:
    """The deployment that the database belongs to (one database, one deployment).

    `number`, `hash`: the final block that it was bound at. `origin`: the block from which coverage counts.
    """

    name: str
    chain_id: int
    number: int
    hash: bytes
    origin: int


@dataclass(frozen=True, slots=True)
class IndexState:
    """Everything that a cycle decides on.

    `checkpoint`: the block up to which the public tables are the projection, computed with `digest` from block
    `projected_origin`. `floor`: nothing below it can be rolled back; -1 when none is set. `tip`: the highest stored
    block. `capturing`: a consumer follows the change log, so steps above the floor are captured there.
    """

    binding: DeploymentBinding
    checkpoint: BlockRef | None
    projected_origin: int | None
    digest: str | None
    floor: int
    epoch: int
    coverage: dict[str, list[BlockRange]]
    tip: BlockRef | None
    capturing: bool

    @property
    def contiguous_end(self) -> int:
        """The last block up to which all watched contracts are covered without a gap, from the origin."""
        return contiguous_end(self.coverage, self.binding.origin)

    @property
    def next_block(self) -> int:
        """The first block that is not yet projected."""
        return self.checkpoint.number + 1 if self.checkpoint else self.binding.origin

    def contracts_covered_above(self, number: int) -> tuple[str, ...]:
        """Return the contracts with coverage above `number`; all contracts when none has any."""
        above = tuple(a for a, ranges in self.coverage.items() if any(r.last > number for r in ranges))
        return above or tuple(self.coverage)

    def predates_before_images(self, number: int) -> bool:
        """Tell whether public rows above `number` were written without before-images."""
        return self.checkpoint is not None and number < min(self.floor, self.checkpoint.number)

    def after_projection(self, checkpoint: BlockRef, floor: int, digest: str) -> IndexState:
        """Return the state after a step that ends on `checkpoint`."""
        return replace(self, checkpoint=checkpoint, projected_origin=self.binding.origin, digest=digest, floor=floor)

    def after_rollback(self, fork: BlockRef) -> IndexState:
        """Return the state after everything above the fork point was rolled back, in the next epoch."""
        return IndexState(
            self.binding,
            fork if self.checkpoint is not None and self.checkpoint.number > fork.number else self.checkpoint,
            self.projected_origin,
            self.digest,
            min(self.floor, fork.number),
            self.epoch + 1,
            {
                address: [BlockRange(r.first, min(r.last, fork.number)) for r in ranges if r.first <= fork.number]
                for address, ranges in self.coverage.items()
            },
            fork,
            self.capturing,
        )


async def binding(conn: Connection) -> DeploymentBinding | None:
    """Return the binding, or None before the first write."""
    row = await conn.fetchrow("SELECT name, chain_id, bound_number, bound_hash, origin FROM indexer.deployment")
    return DeploymentBinding(*row) if row else None


async def bind(conn: Connection, new: DeploymentBinding) -> DeploymentBinding:
    """Bind the database at its first write, and return its binding.

    Raises WrongDeploymentError when it belongs to another deployment.
    """
    await conn.execute(
        "INSERT INTO indexer.deployment (name, chain_id, bound_number, bound_hash, origin)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (single) DO NOTHING",
        new.name,
        new.chain_id,
        new.number,
        new.hash,
        new.origin,
    )
    bound = await binding(conn)
    assert bound is not None
    check_binding(bound, new.name, new.chain_id)
    return bound


def check_binding(bound: DeploymentBinding, name: str, chain_id: int) -> None:
    """Raise WrongDeploymentError unless the database is bound to this deployment and chain."""
    if (bound.name, bound.chain_id) != (name, chain_id):
        raise WrongDeploymentError(
            f"this database belongs to {bound.name} (chain {bound.chain_id}), not to {name} (chain {chain_id})",
            "Each database serves one deployment: set DATABASE_URL to another database, or use the right --chain",
        )


async def load_index_state(conn: Connection, addresses: Sequence[str]) -> IndexState:
    """Load the index state in one repeatable-read snapshot. The database must be bound."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        bound = await binding(conn)
        assert bound is not None, "bind() comes first"
        row = await conn.fetchrow(
            "SELECT c.number, c.hash, c.timestamp, c.origin, c.digest, c.rollback_floor, e.value,"
            f" {CAPTURING} FROM indexer.checkpoint c, indexer.epoch e"
        )
        tip = await conn.fetchrow("SELECT number, hash, timestamp FROM indexer.block ORDER BY number DESC LIMIT 1")
        covered = await coverage.load(conn, addresses)
    assert row is not None, "the migration made the row"
    number, hash_, timestamp, origin, digest, floor, epoch, capturing = row
    return IndexState(
        binding=bound,
        checkpoint=None if number is None else BlockRef(number, hash_, timestamp),
        projected_origin=origin,
        digest=digest,
        floor=-1 if floor is None else floor,
        epoch=epoch,
        coverage=covered,
        tip=BlockRef(*tip) if tip else None,
        capturing=capturing,
    )


async def stored_hash(conn: Connection, number: int) -> bytes | None:
    """Return the stored hash of a block, or None when the block is not stored."""
    value: bytes | None = await conn.fetchval("SELECT hash FROM indexer.block WHERE number = $1", number)
    return value


async def stored_block_ref(conn: Connection, number: int) -> BlockRef:
    """Return the block ref of a stored block: an end of coverage, or a block with logs."""
    row = await conn.fetchrow("SELECT number, hash, timestamp FROM indexer.block WHERE number = $1", number)
    assert row is not None, "ends of coverage and blocks with logs are stored"
    return BlockRef(*row)


async def block_refs_between(conn: Connection, first: int, last: int) -> list[BlockRef]:
    """Return the stored blocks in first..last, ascending."""
    rows = await conn.fetch(
        "SELECT number, hash, timestamp FROM indexer.block WHERE number BETWEEN $1 AND $2 ORDER BY 1", first, last
    )
    return [BlockRef(*row) for row in rows]


async def block_refs_below(conn: Connection, number: int, limit: int) -> list[BlockRef]:
    """Return the `limit` highest stored blocks below `number`, ascending."""
    rows = await conn.fetch(
        "SELECT number, hash, timestamp FROM indexer.block WHERE number < $1 ORDER BY 1 DESC LIMIT $2", number, limit
    )
    return [BlockRef(*row) for row in reversed(rows)]


async def chained_block_refs(conn: Connection, above: int) -> AsyncIterator[tuple[int, bytes, bool]]:
    """Yield (number, hash, whether it has logs) of every stored block above `above`, ascending, in flat memory."""
    async with conn.transaction(readonly=True):
        async for row in conn.cursor(
            "SELECT number, hash, EXISTS (SELECT FROM indexer.raw_log r WHERE r.block_number = b.number)"
            " FROM indexer.block b WHERE number > $1 ORDER BY 1",
            above,
            prefetch=5000,
        ):
            yield tuple(row)


async def lower_origin(conn: Connection, origin: int) -> None:
    """Lower the origin for a backfill below it; never raises it.

    What was projected from the old origin is projected again once the earlier blocks are ingested.
    """
    await conn.execute("UPDATE indexer.deployment SET origin = least(origin, $1)", origin)
