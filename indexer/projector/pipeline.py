"""Projects stored blocks at speed: while the server writes one step, the next is read, decoded and computed.

Only at or below finalized, where no before-images are kept and nothing is rolled back. State rows are carried from step
to step instead of being read again. That is sound because everything that changes them (a rollback, a heal, another
projector) moves the epoch or the lease: the step is then refused, and everything carried is thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from indexer.chain.types import BlockRef
from indexer.db.connection import Connection
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import WHOLE_TABLES, state_keys
from indexer.projections.write_set import StateRow
from indexer.projector.prepare import PreparedRows, project_and_prepare
from indexer.projector.rows import empty_tables, load_state
from indexer.projector.step import Step, StepResult
from indexer.projector.writer import Writer
from indexer.runtime.tasks import background_task
from indexer.store import raw_logs
from indexer.store.index_state import stored_block_ref
from indexer.store.raw_logs import StoredLogs

STEP_LOGS = 5_000  # Logs of one step.
CACHE_ROWS = 20_000  # State rows in each of the two generations kept in memory.


class AbsentKeyFilter:
    """Finds state rows that cannot exist: their tables were empty at the start, and they were not written since.

    It takes one byte per slot, whatever is loaded. Two rows that share a slot cost a query, nothing else.
    """

    SLOTS = 1 << 22

    def __init__(self, empty: frozenset[str] = frozenset()) -> None:
        self._empty, self._written = empty, bytearray(self.SLOTS if empty else 0)

    def absent(self, keys: Iterable[StateKey]) -> list[StateKey]:
        """Return the keys whose rows cannot exist."""
        empty, written, slots = self._empty, self._written, self.SLOTS
        return [key for key in keys if key[0] in empty and not written[hash(key) % slots]]

    def mark_written(self, keys: Iterable[StateKey]) -> None:
        """Note that the rows of these keys may exist from now on."""
        written, slots = self._written, self.SLOTS
        for key in keys if self._empty else ():
            written[hash(key) % slots] = 1


class StateCache:
    """The most recently used state rows, kept from step to step. `rows` has those of the current step.

    There are two generations: when the younger is full it becomes the older one, and rows used from there return to
    the younger. The step before the current one may not be committed yet, and what it changed is known only here. It
    used all those rows, so they outlive the first generation that is dropped after it.
    """

    def __init__(self) -> None:
        self.rows: dict[StateKey, StateRow] = {}
        self._older: dict[StateKey, StateRow] = {}

    def missing(self, keys: set[StateKey]) -> set[StateKey]:
        """Return those keys of a step whose rows are not cached. All others are in `rows` then."""
        if len(self.rows) > CACHE_ROWS:
            self._older = self.rows
            self.rows = {key: row for key, row in self._older.items() if key[0] in WHOLE_TABLES}
        missing = keys.difference(self.rows)
        if self._older:
            reused = missing & self._older.keys()
            self.rows.update((key, self._older.pop(key)) for key in reused)
            missing -= reused
        return missing


class EndedLogs(NamedTuple):
    """Stored logs to be projected next, and the block ref of their last block."""

    chunk: StoredLogs
    anchor: BlockRef


class BatchSource(Protocol):
    """Supplies the stored logs of each step."""

    async def next(self, first: int) -> EndedLogs | None:
        """Return about STEP_LOGS stored logs from block `first` on. Waits for them; None when no more will come."""


class DatabaseSource:
    """Reads stored logs from the database, up to block `last`."""

    def __init__(self, conn: Connection, last: int) -> None:
        self.conn, self.last = conn, last

    async def next(self, first: int) -> EndedLogs | None:
        """Return about STEP_LOGS stored logs from block `first` on; None above `last`."""
        if first > self.last:
            return None
        stored = await raw_logs.read(self.conn, first, self.last, STEP_LOGS)
        return EndedLogs(stored, await stored_block_ref(self.conn, stored.last))


@dataclass(frozen=True, slots=True)
class _PreparedStep:
    ended_logs: EndedLogs
    output: PreparedRows


class ProjectionPipeline:
    """Projects what a source supplies, overlapping the commit of one step with the computation of the next.

    Args:
        writer: commits the steps.
        step: its index state is the one to start from.
        reading_conn: second connection, for reading while the step's connection writes.
    """

    def __init__(self, writer: Writer, step: Step, reading_conn: Connection) -> None:
        self.writer, self.step, self.reading_conn = writer, step, reading_conn
        self._cache = StateCache()
        self._whole: set[str] = set()
        self._absent = AbsentKeyFilter()

    async def run(self, source: BatchSource, on_commit: Callable[[StepResult], None]) -> None:
        """Project everything the source has, one transaction per step; report each step once it is committed.

        Raises EpochChangedError or LeaseLostError; the steps reported before stay committed.
        """
        self._absent = AbsentKeyFilter(await empty_tables(self.reading_conn))
        prepared = await self._prepare(source, self.step.state.next_block)
        while prepared is not None:
            stored, end = prepared.ended_logs
            # A step prepared during a commit that then fails is dropped with this pipeline.
            async with background_task(self._prepare(source, end.number + 1)) as following:
                result = await self.writer.commit_prepared(self.step, stored, end, prepared.output)
                state = self.step.state
                state = state.after_projection(end, max(state.floor, end.number), self.writer.digest)
                self.step = replace(self.step, state=state)
                on_commit(result)
                prepared = await following

    async def _prepare(self, source: BatchSource, first: int) -> _PreparedStep | None:
        ended_logs = await source.next(first)
        if ended_logs is None:
            return None
        events, keys = await asyncio.to_thread(self._decode, ended_logs.chunk)
        await self._load(keys)
        write_set = self.writer.new_write_set(self._cache.rows, ended_logs.anchor.number)
        output = await project_and_prepare(write_set, events)
        self._absent.mark_written(write_set.changed)
        return _PreparedStep(ended_logs, output)

    def _decode(self, stored: StoredLogs) -> tuple[list[Event], set[StateKey]]:
        events = events_of(self.writer.registry, stored.logs, stored.times)
        return events, state_keys(events)

    async def _load(self, keys: set[StateKey]) -> None:
        missing = self._cache.missing(keys)
        absent = self._absent.absent(missing)
        self._cache.rows.update(dict.fromkeys(absent))
        missing.difference_update(absent)
        whole = [table for table in WHOLE_TABLES if table not in self._whole]
        if missing or whole:
            self._cache.rows.update(await load_state(self.reading_conn, missing, whole))
            self._whole.update(whole)
