"""Recovery by hand: the forecast of a plan, its execution while the daemon pauses, and the healing of single ranges."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import structlog

from indexer.chain.batch import LogBatch
from indexer.chain.finality import FinalBlock, FinalityStatus, FinalityTracker
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import RefusedError, ReplacementUnavailableError, RpcError
from indexer.projector.impact import DependencyGroups
from indexer.projector.preview import ChangePreview
from indexer.projector.replay import HistoryPart, ReplayScope, keys_of, plan_replay
from indexer.projector.writer import StepResult, Writer, stored_block_ref
from indexer.reorg import replacement
from indexer.reorg.claims import final_upto
from indexer.reorg.plan import Plan, make_plan, still_holds
from indexer.reorg.replacement import read_replacement
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import lease, raw_logs, staging
from indexer.store.index_state import IndexState, binding, load_index_state, stored_hash
from indexer.store.lease import exclusive_lease, holder_name
from indexer.store.provenance import EndpointFault
from indexer.store.reorg_journal import Reorg

log = structlog.get_logger()


class Recovery:
    """One command's work on one database, or the healing of a daemon's auditor.

    `finality` is the process's own, where it has one: the evidence against a lying tag was gathered there, and a fresh
    one would believe the tag again and let the floor rise to the head.
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, conn: Connection, finality: FinalityTracker | None = None
    ) -> None:  # fmt: skip
        self.deployment, self.pool, self.conn = deployment, pool, conn
        self.finality, self._looks = finality or FinalityTracker(deployment.finality_depth), finality is None
        self.writer = Writer(deployment)
        self.addresses = tuple(sorted(c.address for c in deployment.contracts))
        self.holder = holder_name("reorg recovery")

    async def state(self) -> IndexState:
        """Raises RefusedError when nothing is stored."""
        state = await load_index_state(self.conn, self.addresses) if await binding(self.conn) is not None else None
        if state is None or state.tip is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        return state

    async def plan(self, to_block: int | None) -> Plan:
        """Raises ReplacementUnavailableError, RefusedError, RpcError."""
        return await make_plan(self.deployment, self.pool, self.conn, await self.state(), to_block)

    async def count_changes(self, made: Plan) -> tuple[dict[str, dict[str, int]], bool]:
        """By table: rows removed (or put back), rows inserted and the difference; and whether the counts are exact.

        Reads the whole replacement. Raises ReplacementUnavailableError when no endpoint serves it.
        """
        if made.empty:
            return {}, True
        state = await self.state()

        async def forecast(reader: Reader) -> ChangePreview:
            fresh = ChangePreview(self.conn, self.writer, state, made.keep.number)
            fresh.rows_removed = await fresh.removed()
            addresses = state.contracts_covered_above(made.keep.number)
            await read_replacement(reader, made.keep, made.upto, addresses, fresh.add)
            return fresh

        done = await self._served(forecast, made)
        gone, come = done.gone, done.inserted()
        tables = {
            table: {
                "removed": gone.get(table, 0),
                "inserted": come.get(table, 0),
                "difference": come.get(table, 0) - gone.get(table, 0),
            }
            for table in sorted({*gone, *come})
        }
        return tables, done.exact

    async def _served(self, work: Any, made: Plan) -> Any:
        try:
            return await self.pool.with_failover(work, prefer=made.endpoint)
        except RpcError as error:
            raise ReplacementUnavailableError(
                f"no endpoint serves blocks {made.keep.number + 1} to {made.upto}: {error.message}",
                "Nothing was changed. Give an endpoint that has the logs and receipts of these blocks with --rpc-url",
            ) from error

    async def recover(self, to_block: int | None, confirmed: str) -> tuple[Plan, StepResult | None]:
        """Executes the confirmed plan: above the floor by before-images, below it by replay. None: nothing to do.

        Raises RefusedError when the plan is not the confirmed one, ReplacementUnavailableError when no endpoint
        serves the replacement.
        """
        async with exclusive_lease(self.conn, self.holder) as token:
            made = await self.check(to_block, confirmed)
            if made.empty:
                return made, None
            state, final = await self.state(), await self._final()
            reorg = await self._stage(state, made, token)
            scope = await self._replay_scope_above(state, reorg, token)
            upto = await self._final_upto(reorg.new_tip, final, reorg.endpoint)
            done = await self.writer.apply_reorg(self.conn, state, reorg, upto, token, scope)
            await self._project(final, token)
            return made, done

    async def check(self, to_block: int | None, confirmed: str) -> Plan:
        """The plan as it is now, when the hash confirms it or its state with fewer blocks. Raises RefusedError."""
        made = await self.plan(to_block)
        if not await still_holds(self.deployment, self.conn, await self.state(), made.keep, confirmed):
            raise RefusedError(
                f"{confirmed} is not the hash of the plan to keep block {made.keep.number} now",
                "Nothing was changed. The chain, the database or the flags differ: run `reya-indexer reorg plan` again",
            )
        return made

    async def look(self) -> FinalityStatus:
        """What is final, by a look at the head. Raises RpcError."""
        return self.finality.observe(await self.pool.with_failover(lambda reader: reader.heads()))

    async def _final(self) -> FinalBlock:
        if self._looks:
            await self.look()
        return self.finality.final

    async def _final_upto(self, end: BlockRef, final: FinalBlock, prefer: str = "") -> int:
        """Up to which block the chain that ends on `end` is final; -1 where no endpoint shows it: nothing becomes final
        then."""
        try:
            upto = await self.pool.with_failover(lambda reader: final_upto(reader, end, final), prefer=prefer)
        except RpcError:
            return -1
        return -1 if upto is None else upto

    async def _stage(self, state: IndexState, made: Plan, token: int) -> Reorg:
        async def stage(reader: Reader) -> Reorg:
            cause = f"reorg recover, kept block {made.keep.number}"
            return await replacement.stage_replacement_from(
                reader, self.conn, state, made.keep, made.upto, cause, token
            )

        reorg: Reorg = await self._served(stage, made)
        return reorg

    async def _replay_scope_above(self, state: IndexState, reorg: Reorg, token: int) -> ReplayScope | None:
        """What to replay to have the state at the fork point, where no before-images are."""
        fork = reorg.fork.number
        if not state.predates_before_images(fork) or not self.writer.projection_is_current(state):
            return None
        gone: set[Any] = set()
        first, last = fork + 1, state.next_block - 1
        while first <= last:
            chunk = await raw_logs.read(self.conn, first, last, 20_000)
            gone |= keys_of(self.writer.registry, chunk)
            first = chunk.last + 1
        parts = [HistoryPart(state.binding.origin, fork, False)]
        return await plan_replay(
            self.conn,
            self.writer.registry,
            parts,
            frozenset(),
            gone,
            fork + 1,
            lambda: lease.lock_and_renew(self.conn, token),
        )

    async def _project(self, final: FinalBlock, token: int) -> None:
        """What a heal of everything left to project."""
        state, finalized = await self.state(), -1
        if self.writer.projection_is_current(state) and state.next_block <= state.contiguous_end:
            finalized = await self._final_upto(await stored_block_ref(self.conn, state.contiguous_end), final)
        while self.writer.projection_is_current(state) and state.next_block <= state.contiguous_end:
            done = await self.writer.project_stored(self.conn, state, state.contiguous_end, finalized, token)
            log.info(
                "projected",
                first=done.first,
                last=done.last,
                front=state.contiguous_end,
                rows=sum(done.rows.values()),
            )
            state = await self.state()

    async def heal(
        self, segment: ContractRange, cause: str, unit: LogBatch | None = None, blames: Sequence[EndpointFault] = ()
    ) -> StepResult:  # fmt: skip
        """Makes a covered range of final blocks equal to the chain, rows and all. Raises RefusedError,
        ReplacementUnavailableError.

        `unit`: every header and log of the segment, proven; without it they are read from an endpoint and believed.
        `blames` are stored with the heal.
        """
        async with exclusive_lease(self.conn, self.holder) as token:
            state, final = await self.state(), await self._final()
            if unit is None:
                healing = await self._stage_range(segment, cause, token)
            else:
                healing = await self._stage_unit(unit, cause, token)
            scope = await self._replay_scope_within(state, segment, token)
            done = await self.writer.apply_heal(self.conn, state, healing, scope, token, blames)
            await self._project(final, token)
            return done

    async def _stage_unit(self, unit: LogBatch, cause: str, token: int) -> Reorg:
        await staging.clear(self.conn, token)
        await staging.add(self.conn, unit, token)
        below, tip = unit.blocks[0], unit.blocks[-1]
        fork = BlockRef(below.number - 1, below.parent_hash, below.timestamp)
        new = BlockRef(tip.number, tip.hash, tip.timestamp)
        old = await stored_hash(self.conn, tip.number)
        return Reorg(fork, new._replace(hash=old or new.hash), new, unit.addresses, unit.sources[0].endpoint, cause)

    async def _stage_range(self, segment: ContractRange, cause: str, token: int) -> Reorg:
        async def stage(reader: Reader) -> Reorg:
            first = segment.first
            before = (
                (await reader.headers([first - 1]))[0]
                if first
                else (await reader.headers([0]))[0]._replace(number=-1, hash=b"\0" * 32)
            )
            fork = BlockRef(before.number, before.hash, before.timestamp)
            await staging.clear(self.conn, token)
            keep = functools.partial(staging.add, self.conn, token=token)
            tip = await read_replacement(reader, fork, segment.last, segment.addresses, keep)
            old = await stored_hash(self.conn, segment.last)
            return Reorg(fork, tip._replace(hash=old or tip.hash), tip, segment.addresses, reader.name, cause)

        try:
            return await self.pool.with_failover(stage)
        except RpcError as error:
            raise ReplacementUnavailableError(
                f"no endpoint serves blocks {segment.first} to {segment.last}: {error.message}",
                "Nothing was changed. Give an endpoint that has the logs and receipts of these blocks with --rpc-url",
            ) from error

    async def _replay_scope_within(self, state: IndexState, segment: ContractRange, token: int) -> ReplayScope | None:
        numbers = await staging.changed_blocks(self.conn, segment.first, segment.last, segment.addresses)
        projected = state.next_block - 1
        if not self.writer.projection_is_current(state):
            return None
        changed = frozenset(n for n in numbers if n <= projected)
        if not changed:
            return ReplayScope(DependencyGroups(), frozenset(), changed, [], segment.first)
        chunk = await raw_logs.read_blocks(self.conn, sorted(changed), strict=False)
        parts = [
            HistoryPart(state.binding.origin, segment.first - 1, False),
            HistoryPart(segment.first, min(segment.last, projected), True),
            HistoryPart(segment.last + 1, projected, False),
        ]
        return await plan_replay(
            self.conn, self.writer.registry, parts, changed, keys_of(self.writer.registry, chunk), min(changed),
            lambda: lease.lock_and_renew(self.conn, token),
        )  # fmt: skip
