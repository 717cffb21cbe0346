"""The committed steps: each function is one transaction (rule 1), and the only places where public rows change."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

from indexer.chain.types import Anchor, Header, Log
from indexer.config import Deployment
from indexer.decode.events import events_of
from indexer.decode.registry import Registry
from indexer.errors import IndexerError
from indexer.failpoints import hit
from indexer.ingest.planner import Span
from indexer.ingest.units import Unit
from indexer.projections import project, state_keys
from indexer.projections.base import Ledger
from indexer.store import coverage, journal, lease, rawlogs, rollback, staging
from indexer.store.database import Connection
from indexer.store.journal import Reorg
from indexer.store.ledger_io import load_state, write
from indexer.store.standing import Standing
from indexer.store.tables import COLUMNS

CHUNK_LOGS = 20_000  # logs projected in one transaction: bounds memory and the time readers wait for a lock


class EpochMoved(IndexerError):
    """A reorg was handled since this step was planned; nothing was written. Plan again."""

    def __init__(self) -> None:
        super().__init__("a rollback came in between")


@dataclass(frozen=True, slots=True)
class Done:
    """What one step committed. `rows` by table, public and state; `logs` read or stored."""

    kind: str
    first: int
    last: int
    logs: int
    rows: dict[str, int] = field(default_factory=dict)
    projected: bool = False


class Writer:
    """Writes steps for one deployment. Holds no state that a restart would need."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.registry = Registry(deployment.contracts)
        self.digest = deployment.digest
        self._tokens = {t.address: (t.name, t.symbol) for t in deployment.tokens}
        self._rusd = next((c.address for c in deployment.contracts if c.name == "rusd"), None)

    def projectable(self, standing: Standing) -> bool:
        """Whether the public tables were projected with today's contracts and ABIs, from today's origin."""
        made_with = (standing.digest, standing.projected_origin)
        return standing.checkpoint is None or made_with == (self.digest, standing.binding.origin)

    def joins(self, standing: Standing, unit: Unit) -> bool:
        """Whether a unit continues both coverage of every contract and the projection: one transaction for both."""
        complete = set(unit.addresses) == set(standing.coverage)
        return complete and self.projectable(standing) and standing.front + 1 == standing.next_block == unit.first

    async def ingest(self, conn: Connection, standing: Standing, unit: Unit, finalized: int, token: int | None) -> Done:
        """Stores a confirmed unit; with the lease, projects it too when it joins.

        Raises HashConflict, EpochMoved, LeaseLost or asyncpg.ExclusionViolationError; then nothing was written.
        """
        await rawlogs.ensure_partitions(conn, unit.first, unit.last)
        projected = token is not None and self.joins(standing, unit)
        rows: dict[str, int] = {}
        async with conn.transaction():
            hit("ingest.begun")
            if projected and token is not None:
                await lease.hold(conn, token)
            epoch = await conn.fetchval("SELECT value FROM indexer.epoch FOR SHARE")
            if epoch != standing.epoch:
                raise EpochMoved
            # Coverage first: of two processes with one range, the second waits here and is refused by its constraint.
            await coverage.add(conn, unit.addresses, unit.first, unit.last)
            await rawlogs.store(conn, unit.logs, unit.blocks)
            hit("ingest.stored")
            if projected:
                anchor = _anchor(unit.blocks[-1])
                rows = await self._project(conn, standing, unit.first, anchor, unit.logs, unit.times, finalized)
            hit("ingest.before_commit")
        hit("ingest.committed")
        return Done("forward" if projected else "ingest", unit.first, unit.last, len(unit.logs), rows, projected)

    async def project_stored(
        self, conn: Connection, standing: Standing, last: int, finalized: int, token: int, limit: int = CHUNK_LOGS
    ) -> Done:
        """Projects stored raw logs after the checkpoint, about `limit` of them, no further than block `last`."""
        async with conn.transaction():
            await lease.hold(conn, token)
            if await conn.fetchval("SELECT value FROM indexer.epoch FOR SHARE") != standing.epoch:
                raise EpochMoved
            chunk = await rawlogs.read(conn, standing.next_block, last, limit)
            anchor = await _stored_anchor(conn, chunk.last)
            hit("project.read")
            rows = await self._project(conn, standing, chunk.first, anchor, chunk.logs, chunk.times, finalized)
            hit("project.before_commit")
        return Done("project", chunk.first, chunk.last, len(chunk.logs), rows, True)

    async def reset(self, conn: Connection, standing: Standing, token: int) -> None:
        """Forgets what was projected, to project it again from the stored raw logs with today's ABIs (rule 9)."""
        async with conn.transaction():
            await lease.hold(conn, token)
            await rollback.reset_projections(conn)
            last = standing.checkpoint.number if standing.checkpoint else standing.binding.origin - 1
            await _log_commit(conn, "reproject", standing.binding.origin, last, 0)
            hit("reset.before_commit")

    async def replace(
        self, conn: Connection, standing: Standing, reorg: Reorg, finalized: int, token: int
    ) -> Done:  # fmt: skip
        """A reorg's swap: everything above the fork point goes, what is staged comes, in one commit (rule 6)."""
        started = time.monotonic()
        fork, last = reorg.fork, reorg.new_tip.number
        await rawlogs.ensure_partitions(conn, fork.number + 1, last)
        async with conn.transaction():
            await lease.hold(conn, token)
            if await conn.fetchval("SELECT value FROM indexer.epoch FOR UPDATE") != standing.epoch:
                raise EpochMoved
            await conn.execute("UPDATE indexer.epoch SET value = value + 1")
            number: int = await conn.fetchval("SELECT nextval(pg_get_serial_sequence('indexer.reorg_journal', 'id'))")
            removed = await rollback.undo_above(conn, fork.number, number)
            hit("replace.undone")
            await _log_commit(conn, "rollback", fork.number + 1, reorg.old_tip.number, sum(removed.values()))
            await coverage.add(conn, reorg.addresses, fork.number + 1, last)
            logs = await staging.take_over(conn)
            hit("replace.moved")
            rows = await self._project_replacement(conn, _cut(standing, fork), reorg, finalized)
            await journal.write(conn, number, standing.epoch + 1, reorg, removed, rows, time.monotonic() - started)
            hit("replace.before_commit")
        hit("replace.committed")
        return Done("rollback", fork.number + 1, last, logs, rows, bool(rows))

    async def _project_replacement(
        self, conn: Connection, standing: Standing, reorg: Reorg, finalized: int
    ) -> dict[str, int]:  # fmt: skip
        """Projects the replacement in chunks, when the projection reached the fork point; rows by table."""
        total: Counter[str] = Counter()
        complete = set(reorg.addresses) == set(standing.coverage)
        joins = complete and standing.front + 1 == standing.next_block == reorg.fork.number + 1
        while joins and self.projectable(standing) and standing.next_block <= reorg.new_tip.number:
            chunk = await rawlogs.read(conn, standing.next_block, reorg.new_tip.number, CHUNK_LOGS)
            anchor = await _stored_anchor(conn, chunk.last)
            total.update(await self._project(conn, standing, chunk.first, anchor, chunk.logs, chunk.times, finalized))
            floor = max(standing.floor, min(finalized, anchor.number))
            standing = replace(standing, checkpoint=anchor, floor=floor)
        return dict(total)

    async def _project(
        self, conn: Connection, standing: Standing, first: int, anchor: Anchor, logs: list[Log],
        times: dict[int, int], finalized: int,
    ) -> dict[str, int]:  # fmt: skip
        """Public rows, before-images, checkpoint, commit log of blocks first..anchor; in the caller's transaction."""
        # Before-images exist exactly above the floor: below it nobody rewinds, above it a missing one corrupts a reorg.
        floor = max(standing.floor, min(finalized, anchor.number))
        events = events_of(self.registry, logs, times)
        state = await load_state(conn, state_keys(events))
        ledger = Ledger(COLUMNS, state, lambda number: number > floor, self._tokens, self._rusd)
        project(ledger, events)
        rows = await write(conn, ledger)
        hit("project.written")
        await conn.execute(
            "UPDATE indexer.checkpoint SET number = $1, hash = $2, timestamp = $3, origin = $4, digest = $5,"
            " rollback_floor = $6, updated_at = clock_timestamp()",
            anchor.number, anchor.hash, anchor.timestamp, standing.binding.origin, self.digest, floor,
        )  # fmt: skip
        if floor > standing.floor:
            await _prune(conn, standing.floor, floor, headers=anchor.number > finalized)
        await _log_commit(conn, "forward", first, anchor.number, sum(rows.values()))
        return rows


async def _prune(conn: Connection, old_floor: int, floor: int, *, headers: bool) -> None:
    """Forgets what only a rollback below the new floor would need."""
    await conn.execute("DELETE FROM indexer.before_image WHERE block_number <= $1", floor)
    if headers:
        # Kept: blocks with logs, every thousandth as an anchor, and ends of coverage, which seams are compared with.
        await conn.execute(
            "DELETE FROM indexer.block b WHERE number >= $1 AND number < $2 AND number % 1000 <> 0"
            " AND NOT EXISTS (SELECT FROM indexer.raw_log r WHERE r.block_number = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.coverage c WHERE upper(c.blocks) - 1 = b.number)"
            " AND NOT EXISTS (SELECT FROM indexer.deployment d WHERE d.bound_number = b.number)",
            max(old_floor, floor - 100_000),
            floor,
        )


async def _log_commit(conn: Connection, kind: str, first: int, last: int, rows: int) -> None:
    await conn.execute(
        "INSERT INTO indexer.commit_log (epoch, kind, from_block, to_block, rows)"
        " SELECT value, $1, $2, $3, $4 FROM indexer.epoch",
        kind,
        first,
        last,
        rows,
    )


async def _stored_anchor(conn: Connection, number: int) -> Anchor:
    row = await conn.fetchrow("SELECT number, hash, timestamp FROM indexer.block WHERE number = $1", number)
    assert row is not None, "ends of coverage and blocks with logs are stored"
    return Anchor(*row)


def _anchor(header: Header) -> Anchor:
    return Anchor(header.number, header.hash, header.timestamp)


def _cut(standing: Standing, fork: Anchor) -> Standing:
    """The standing after everything above the fork point was taken back."""
    kept = {
        address: [Span(s.first, min(s.last, fork.number)) for s in spans if s.first <= fork.number]
        for address, spans in standing.coverage.items()
    }
    above = standing.checkpoint is not None and standing.checkpoint.number > fork.number
    return Standing(
        standing.binding,
        fork if above else standing.checkpoint,
        standing.projected_origin,
        standing.digest,
        standing.floor,
        standing.epoch + 1,
        kept,
        fork,
    )
