"""The loop: look at the head, ingest what coverage lacks, project what is gapless, swap what was reorged away.

`run` and `backfill` are this engine with and without an end. Everything it decides on is read from the database anew
for each step, so a kill at any point, or another process ingesting beside it, changes nothing but who does the work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import asyncpg
import structlog

from indexer.chain.finality import Finality, Verdict
from indexer.chain.types import Anchor, Heads
from indexer.config import Deployment
from indexer.errors import Inconsistent, RangeTooLarge, ReorgTooDeep
from indexer.follow.fork import find_fork, stage_replacement
from indexer.follow.progress import STARTING, Progress
from indexer.follow.relation import Relation, relate
from indexer.ingest.fetch import fetch_chained, fetch_plain
from indexer.ingest.planner import Segment, plan
from indexer.ingest.units import SeamBroken, Unit
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import lease
from indexer.store.database import Connection
from indexer.store.journal import Reorg
from indexer.store.rawlogs import HashConflict
from indexer.store.standing import Standing, load, stored_hash
from indexer.store.steps import Done, EpochMoved, Writer

CHAINED_BLOCKS = 200  # blocks above finalized per unit: every header is read, so answers stay small
MOST_BEATEN = 20  # conflicts in a row with other ingesting processes before it is an error
LOOK_EVERY = 5.0  # seconds between looks at the head while there is known work

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class View:
    """One endpoint's head and what finality it gives."""

    heads: Heads
    verdict: Verdict
    endpoint: str


class Engine:
    """`first`: where ingesting starts (None: the origin). `last`: where it ends (None: it follows the head)."""

    def __init__(
        self, deployment: Deployment, pool: Pool, progress: Progress, holder: str,
        *, first: int | None = None, last: int | None = None,
    ) -> None:  # fmt: skip
        self.deployment, self.pool, self.progress, self.holder = deployment, pool, progress, holder
        self.first, self.last = first, last
        self.addresses = tuple(sorted(c.address for c in deployment.contracts))
        self.finality = Finality(deployment.finality_depth)
        self.writer = Writer(deployment)
        self.token: int | None = None
        self._beaten = 0
        self._extended_at = 0.0

    async def look(self) -> View:
        """Reads the head. Raises RpcError when no endpoint answers."""

        async def ask(reader: Reader) -> tuple[Heads, str]:
            return await reader.heads(), reader.name

        heads, endpoint = await self.pool.run(ask)
        verdict = self.finality.observe(heads)
        p = self.progress
        if p.waiting == STARTING:
            p.wait("")
        p.head, p.head_time = heads.latest.number, heads.latest.timestamp
        p.safe, p.finalized, p.finality_source = verdict.safe, verdict.finalized, verdict.reason or verdict.source
        return View(heads, verdict, endpoint)

    async def cycle(self, conn: Connection) -> bool:
        """Looks at the head and works for a few seconds. False when there is nothing left to do now.

        Raises RpcError, connection errors of asyncpg, LeaseLost; ReorgTooDeep when the fork lies below the floor.
        """
        await self.take_lease(conn)
        standing = await self.standing(conn)
        view = await self.look()
        at_head = await stored_hash(conn, view.heads.latest.number)
        relation = relate(standing.tip, view.heads.latest, at_head)
        if relation is Relation.FORK:
            return await self.handle_fork(conn, standing, view, "the head is not on the stored chain")
        if relation is Relation.BEHIND:
            assert standing.tip is not None
            behind = standing.tip.number - view.heads.latest.number
            log.debug("lagging_head", endpoint=view.endpoint, blocks_behind=behind)
        worked = False
        until = time.monotonic() + LOOK_EVERY
        while time.monotonic() < until and await self.step(conn, standing, view):
            worked = True
            standing = await self.standing(conn)
        return worked

    async def standing(self, conn: Connection) -> Standing:
        standing = await load(conn, self.addresses)
        p = self.progress
        p.origin, p.ingested, p.holder = standing.binding.origin, standing.front, self.token is not None
        p.projected = standing.checkpoint.number if standing.checkpoint else standing.binding.origin - 1
        p.projected_time = standing.checkpoint.timestamp if standing.checkpoint else 0
        return standing

    async def take_lease(self, conn: Connection) -> None:
        """Takes the lease when it is free; extends ours, so that it does not expire while the chain is silent."""
        if self.token is None:
            self.token = await lease.acquire(conn, self.holder)
            if self.token is not None:
                self._extended_at = time.monotonic()
                log.info("lease_taken", holder=self.holder, token=self.token)
        elif time.monotonic() - self._extended_at > lease.TTL / 3:
            await lease.hold(conn, self.token)
            self._extended_at = time.monotonic()

    async def step(self, conn: Connection, standing: Standing, view: View) -> bool:
        """One committed step: projects what is stored and gapless, else ingests the next unit. False: nothing to do."""
        started, asked = time.monotonic(), self.pool.requests
        try:
            done = await self._project(conn, standing, view) or await self._ingest(conn, standing, view)
        except (SeamBroken, HashConflict) as conflict:
            # A reorg between our looks, or a node that contradicts itself: the fork search tells which.
            log.info("seam_broken", block=conflict.number)
            return await self.handle_fork(conn, standing, await self.look(), conflict.message)
        except (EpochMoved, asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError) as conflict:
            self._beaten_by_another(conflict)
            return True
        self._beaten = 0
        if done is None:
            return False
        self._count(done, time.monotonic() - started, self.pool.requests - asked)
        return True

    def _beaten_by_another(self, conflict: Exception) -> None:
        """Another process committed the same range, or a block row of it, first: nothing of ours was written, and the
        next plan leaves it out. Raises the conflict when it comes again and again: then it is none of those."""
        self._beaten += 1
        public = isinstance(conflict, asyncpg.UniqueViolationError) and conflict.schema_name != "indexer"
        if public or self._beaten > MOST_BEATEN:
            raise conflict
        log.debug("beaten", conflict=" ".join(str(conflict).split()))

    async def _project(self, conn: Connection, standing: Standing, view: View) -> Done | None:
        if self.token is None:
            return None
        if not self.writer.projectable(standing):
            # What was projected before stays readable until the past of a new contract is there.
            assert standing.checkpoint is not None
            if standing.front < standing.checkpoint.number:
                return None
            log.warning(
                "project_again",
                reason="contracts, ABIs or the origin changed since the public tables were written",
                first=standing.binding.origin,
                last=standing.front,
            )
            await self.writer.reset(conn, standing, self.token)
            standing = await self.standing(conn)
        if standing.next_block > standing.front:
            return None
        return await self.writer.project_stored(conn, standing, standing.front, view.verdict.finalized, self.token)

    def segments(self, standing: Standing, view: View) -> list[Segment]:
        """What is to be ingested now. Without the lease only up to finalized: a fork above needs the projector."""
        goal = view.heads.latest.number if self.last is None else min(self.last, view.heads.latest.number)
        if self.token is None:
            goal = min(goal, view.verdict.finalized)
        return plan(standing.coverage, standing.binding.origin if self.first is None else self.first, goal)

    async def _ingest(self, conn: Connection, standing: Standing, view: View) -> Done | None:
        segments = self.segments(standing, view)
        if not segments:
            return None
        segment, finalized = segments[0], view.verdict.finalized
        before = await stored_hash(conn, segment.first - 1)
        unit = await self.pool.run(lambda reader: fetch_unit(reader, segment, finalized, before))
        return await self.writer.ingest(conn, standing, unit, finalized, self.token)

    async def handle_fork(self, conn: Connection, standing: Standing, view: View, cause: str) -> bool:
        """Finds the fork point, fetches and validates the replacement, swaps. True when rows changed."""
        if self.token is None or standing.tip is None:
            return False
        started, asked = time.monotonic(), self.pool.requests
        tip, head = standing.tip, view.heads.latest

        async def search(reader: Reader) -> tuple[Anchor | None, Reorg | None]:
            fork = await find_fork(reader, conn, min(tip.number, head.number), standing.floor)
            if fork is None or fork.number in (tip.number, head.number):
                return fork, None
            above = tuple(a for a, spans in standing.coverage.items() if any(s.last > fork.number for s in spans))
            addresses = above or self.addresses
            last = min(head.number, max(tip.number, fork.number + 1))
            new_tip = await stage_replacement(reader, conn, fork, last, addresses)
            return fork, Reorg(fork, tip, new_tip, addresses, reader.name, cause)

        fork, reorg = await self.pool.run(search)
        if fork is None:
            raise ReorgTooDeep(
                f"{view.endpoint} serves another chain than the stored one, from block {max(standing.floor, 0)} down",
                "Nothing was deleted. Compare the endpoint with another; if the chain really changed below finalized,"
                " index into a new database",
            )
        if reorg is None:
            raise Inconsistent(f"contradicts itself around block {fork.number}", view.endpoint)
        done = await self.writer.replace(conn, standing, reorg, view.verdict.finalized, self.token)
        self.progress.reorgs += 1
        old, new = tip.number, reorg.new_tip.number
        log.warning("reorg", fork_point=fork.number, depth=reorg.depth, old_tip=old, new_tip=new, cause=reorg.cause)
        self._count(done, time.monotonic() - started, self.pool.requests - asked)
        return True

    def _count(self, done: Done, elapsed: float, requests: int) -> None:
        p = self.progress
        p.steps[done.kind] += 1
        p.rows.update(done.rows)
        p.logs += done.logs
        p.last_step_at = p.clock()
        log.info(
            "step",
            kind=done.kind,
            first=done.first,
            last=done.last,
            logs=done.logs,
            rows=sum(done.rows.values()),
            requests=requests,
            elapsed_ms=round(elapsed * 1000, 1),
            lag_blocks=max(0, p.head - done.last),
        )


async def fetch_unit(reader: Reader, segment: Segment, finalized: int, before: bytes | None) -> Unit:
    """The first unit of a segment, as large as the endpoint serves. Raises RpcError, SeamBroken; RangeTooLarge only
    when even one block is too large."""
    while True:
        first, chained = segment.first, segment.first > finalized
        size = min(reader.ranges.size, CHAINED_BLOCKS) if chained else reader.ranges.size
        last = min(first + size - 1, segment.last if chained else min(segment.last, finalized))
        try:
            fetch = fetch_chained if chained else fetch_plain
            unit = await fetch(reader, first, last, segment.addresses, before)
        except RangeTooLarge as refusal:
            if first == last:
                raise
            reader.ranges.refused(last - first + 1, refusal.hint, results=refusal.results)
            continue
        reader.ranges.served(last - first + 1, len(unit.logs))
        return unit
