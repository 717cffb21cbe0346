"""Projecting stored blocks at speed: while the server writes one step, the next is read, decoded and computed.

Only at or below finalized, where no before-images are kept and nothing is rolled back. State rows are carried from step
to step instead of being read again; that is sound because all who change them (a rollback, a heal, another projector)
move the epoch or the lease, and then the step is refused and everything carried is thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import WHOLE_TABLES, state_keys
from indexer.projections.write_set import StateRow
from indexer.projector.rows import PreparedRows, empty_tables, load_state, project_and_prepare
from indexer.projector.writer import StepResult, Writer, stored_block_ref
from indexer.runtime.tasks import background_task
from indexer.store import raw_logs
from indexer.store.index_state import IndexState
from indexer.store.raw_logs import StoredLogs

STEP_LOGS = 5_000  # logs of one step
CACHE_ROWS = 20_000  # state rows of each of the two generations kept in memory


class AbsentKeyFilter:
    """State rows that cannot be there: of tables that were empty when this began, those that were not written since.

    One byte a slot, whatever is loaded: two rows that share a slot cost a look into the database, nothing else.
    """

    SLOTS = 1 << 22

    def __init__(self, empty: frozenset[str] = frozenset()) -> None:
        self._empty, self._written = empty, bytearray(self.SLOTS if empty else 0)

    def absent(self, keys: Iterable[StateKey]) -> list[StateKey]:
        empty, written, slots = self._empty, self._written, self.SLOTS
        return [key for key in keys if key[0] in empty and not written[hash(key) % slots]]

    def mark_written(self, keys: Iterable[StateKey]) -> None:
        written, slots = self._written, self.SLOTS
        for key in keys if self._empty else ():
            written[hash(key) % slots] = 1


class StateCache:
    """State rows kept from step to step, the ones used last. `rows` has those of the step at hand.

    Two generations: when the younger is full it becomes the older one, and what is used from there comes back. The
    step before the one at hand may not be committed yet, and what it changed is known only here; it used all of that,
    so that it outlives the first generation that is dropped after it.
    """

    def __init__(self) -> None:
        self.rows: dict[StateKey, StateRow] = {}
        self._older: dict[StateKey, StateRow] = {}

    def missing(self, keys: set[StateKey]) -> set[StateKey]:
        """Those of the keys of a step whose rows are not here; all others are in `rows` then."""
        if len(self.rows) > CACHE_ROWS:
            self._older = self.rows
            self.rows = {key: row for key, row in self._older.items() if key[0] in WHOLE_TABLES}
        lacking = keys.difference(self.rows)
        if self._older:
            back = lacking & self._older.keys()
            self.rows.update((key, self._older.pop(key)) for key in back)
            lacking -= back
        return lacking


class EndedLogs(NamedTuple):
    """Stored blocks to be projected next, and the anchor they end on."""

    chunk: StoredLogs
    anchor: BlockRef


class BatchSource(Protocol):
    async def next(self, first: int) -> EndedLogs | None:
        """The stored blocks from `first` on, of about STEP_LOGS logs. Waits for them; None when no more will come."""


class DatabaseSource:
    """Reads them from the database, up to block `last`."""

    def __init__(self, conn: Connection, last: int) -> None:
        self.conn, self.last = conn, last

    async def next(self, first: int) -> EndedLogs | None:
        if first > self.last:
            return None
        chunk = await raw_logs.read(self.conn, first, self.last, STEP_LOGS)
        return EndedLogs(chunk, await stored_block_ref(self.conn, chunk.last))


@dataclass(frozen=True, slots=True)
class _Step:
    stretch: EndedLogs
    output: PreparedRows


class ProjectionPipeline:
    """`side` is a second connection, for reading beside the writing one."""

    def __init__(self, writer: Writer, conn: Connection, side: Connection, state: IndexState, token: int) -> None:
        self.writer, self.conn, self.side, self.state, self.token = writer, conn, side, state, token
        self._cache = StateCache()
        self._whole: set[str] = set()
        self._absent = AbsentKeyFilter()

    async def run(self, source: BatchSource, committed: Callable[[StepResult], None]) -> None:
        """Projects all that the source has, a transaction a step; tells of each once it is committed.

        Raises EpochChangedError, LeaseLostError; what was told of stays.
        """
        self._absent = AbsentKeyFilter(await empty_tables(self.side))
        step = await self._prepare(source, self.state.next_block)
        while step is not None:
            chunk, anchor = step.stretch
            # What is prepared beside a commit that then fails is dropped with this stream.
            async with background_task(self._prepare(source, anchor.number + 1)) as following:
                done = await self.writer.commit_prepared(self.conn, self.state, chunk, anchor, step.output, self.token)
                self.state = self.state.after_projection(
                    anchor, max(self.state.floor, anchor.number), self.writer.digest
                )
                committed(done)
                step = await following

    async def _prepare(self, source: BatchSource, first: int) -> _Step | None:
        stretch = await source.next(first)
        if stretch is None:
            return None
        events, keys = await asyncio.to_thread(self._decode, stretch.chunk)
        await self._load(keys)
        ledger = self.writer.ledger(self._cache.rows, stretch.anchor.number)
        output = await project_and_prepare(ledger, events)
        self._absent.mark_written(ledger.changed)
        return _Step(stretch, output)

    def _decode(self, chunk: StoredLogs) -> tuple[list[Event], set[StateKey]]:
        events = events_of(self.writer.registry, chunk.logs, chunk.times)
        return events, state_keys(events)

    async def _load(self, keys: set[StateKey]) -> None:
        lacking = self._cache.missing(keys)
        absent = self._absent.absent(lacking)
        self._cache.rows.update(dict.fromkeys(absent))
        lacking.difference_update(absent)
        whole = [table for table in WHOLE_TABLES if table not in self._whole]
        if lacking or whole:
            self._cache.rows.update(await load_state(self.side, lacking, whole))
            self._whole.update(whole)
