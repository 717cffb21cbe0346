"""Projects stored raw logs again without asking the chain, for a corrected projection or to be sure.

This is what they are stored for (raw logs are kept).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import structlog

from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import RefusedError
from indexer.projector.pipeline import DatabaseSource, ProjectionPipeline
from indexer.projector.replay import MAX_REPLAYED, HistoryPart, ReplayScope, plan_replay, plan_replay_below_start
from indexer.projector.rewriter import Rewriter
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import Writer
from indexer.store import change_log, checkpoint
from indexer.store.index_state import binding, load_index_state
from indexer.store.lease import exclusive_lease, holder_name

log = structlog.get_logger()


class ReprojectResult(NamedTuple):
    """The result of a reprojection, up to block `last`.

    `whole`: all tables were emptied and projected again; otherwise `events` were replayed. `resumed`: an interrupted
    reprojection was continued.
    """

    whole: bool
    resumed: bool
    events: int
    rows: int
    last: int


class Reprojection:
    """The work of one `reproject` command.

    Args:
        deployment: the deployment that the database belongs to.
        conn: connection that writes.
        reading_conn: second connection, for reading.
        report: called with each committed step.
    """

    def __init__(
        self, deployment: Deployment, conn: Connection, reading_conn: Connection, report: Callable[[StepResult], None]
    ) -> None:
        self.conn, self.reading_conn, self._report = conn, reading_conn, report
        self.writer = Writer(deployment)
        self.rewriter = Rewriter(self.writer)
        self.deployment = deployment
        self.addresses = deployment.addresses
        self._events = self._rows = 0

    async def run(self, first: int | None, names: Iterable[str]) -> ReprojectResult:
        """Project everything again; or the events of these names from block `first` on, and all that they affect.

        Where that is more than one transaction should hold, everything is projected again. Raises RefusedError when
        nothing was projected yet or another recovery is at work, LeaseLostError.
        """
        if await binding(self.conn) is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        topics = self._topics(names)
        async with exclusive_lease(self.conn, holder_name("reprojection")) as token:
            step = Step(self.conn, await load_index_state(self.conn, self.addresses), token)
            state = step.state
            if await checkpoint.is_reprojecting(self.conn):
                log.info("resumed", projected=state.next_block - 1)
                return await self._project_remaining(step, resumed=True)
            if first is not None and first >= state.next_block:
                raise RefusedError(
                    f"nothing is projected from block {first} on: the last one is {state.next_block - 1}", "Begin lower"
                )
            if state.checkpoint is None:
                raise RefusedError("nothing was projected yet", "Start `reya-indexer run` or `backfill` first")
            if (topics or first is not None) and self.writer.projection_is_current(state):
                scope = await self._scope(step, first or 0, topics)
                if scope is not None:
                    rows = await self.rewriter.commit_replay(step, scope)
                    events = scope.touched.events()
                    return ReprojectResult(False, False, events, sum(rows.values()), state.checkpoint.number)
                log.warning("project_again", reason="too much is touched to be replayed in one transaction")
            await self.rewriter.reset_projection(step, manual=True)
            return await self._project_remaining(await self._next(step), resumed=False)

    async def _next(self, step: Step) -> Step:
        return replace(step, state=await load_index_state(self.conn, self.addresses))

    def _topics(self, names: Iterable[str]) -> frozenset[bytes]:
        known: dict[str, set[bytes]] = {}
        for contract in self.deployment.contracts:
            for event in contract.events:
                known.setdefault(event.name, set()).add(event.topic0)
        for name in (names := tuple(names)):
            if name not in known:
                raise RefusedError(f"no watched contract has an event {name!r}", f"Known: {', '.join(sorted(known))}")
        return frozenset(topic for name in names for topic in known[name])

    async def _scope(self, step: Step, first: int, topics: frozenset[bytes]) -> ReplayScope | None:
        """Return what the events affect; None when it is more than one transaction should hold."""
        blocks = await self.reading_conn.fetch(
            "SELECT DISTINCT block_number FROM indexer.raw_log WHERE block_number BETWEEN $1 AND $2"
            " AND ($3::bytea[] = '{}' OR substr(topics, 1, 32) = ANY($3::bytea[])) LIMIT $4",
            max(first, step.state.binding.origin),
            step.state.next_block - 1,
            list(topics),
            MAX_REPLAYED + 1,
        )
        if len(blocks) > MAX_REPLAYED:
            return None
        changed = frozenset(row["block_number"] for row in blocks)
        history = [HistoryPart(step.state.binding.origin, step.state.next_block - 1, False)]
        reading = replace(step, conn=self.reading_conn)
        return await plan_replay(reading, self.writer.registry, history, changed, (), min(changed, default=0))

    async def _project_remaining(self, step: Step, *, resumed: bool) -> ReprojectResult:
        """Project stored logs up to the contiguous end: at speed below the floor, with before-images above it."""
        floor = step.state.floor

        def report(result: StepResult) -> None:
            self._events += result.logs
            self._rows += sum(result.rows.values())
            self._report(result)

        pipeline = ProjectionPipeline(self.writer, step, self.reading_conn)
        await pipeline.run(DatabaseSource(self.reading_conn, min(step.state.contiguous_end, floor)), report)
        step = await self._next(step)
        if step.state.capturing:  # The steps up to the floor may have come to the end of the partitions.
            await change_log.ensure_partitions(self.conn)
        while step.state.next_block <= step.state.contiguous_end:
            report(await self.writer.commit_stored(step, step.state.contiguous_end, floor))
            step = await self._next(step)
        # A reprojection that ends below where it began has less coverage now: there is nothing left to resume.
        await checkpoint.end_reprojection(self.conn)
        return ReprojectResult(True, resumed, self._events, self._rows, step.state.next_block - 1)


async def project_again(rewriter: Rewriter, step: Step, last: int) -> None:
    """Project again from the origin. A lowered origin replays only its events and the rows that they touch.

    Other contracts or ABIs may change any row, so for these everything is projected again. `last`: the block that the
    checkpoint is at (reported only).
    """
    reason, scope = "contracts or ABIs changed since the public tables were written", None
    if step.state.digest == rewriter.writer.digest:
        reason = "the origin was lowered"
        scope = await plan_replay_below_start(step, rewriter.writer.registry)
    log.warning("project_again", reason=reason, first=step.state.binding.origin, last=last, whole=scope is None)
    if scope is None:
        await rewriter.reset_projection(step)
    else:
        await rewriter.commit_replay(step, scope)
