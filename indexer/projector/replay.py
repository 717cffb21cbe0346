"""Replay: after a change of the past, projects the affected state rows again from their first event.

Used for everything below finalized, where no before-images exist; its result equals a fresh index.

First `plan_replay`, outside any transaction, reads the history and finds which rows are affected; then `replay`, inside
the transaction that changes the raw logs, forgets those rows and projects their events again. When more events are
affected than one transaction should hold, everything is projected again, step by step, which the engine does anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

from indexer.chain.types import LOGS_PER_BLOCK
from indexer.db.catalog import sql_name
from indexer.db.connection import Connection
from indexer.decode.registry import Registry
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import WHOLE_TABLES, project, state_keys
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector.capture import Capture
from indexer.projector.impact import DependencyGroups
from indexer.projector.prepare import prepare
from indexer.projector.rollback import APPEND_TABLES
from indexer.projector.rows import delete_state, load_state, write_rows
from indexer.projector.step import Step
from indexer.projector.writer import Writer
from indexer.runtime.failpoints import hit
from indexer.store import effects, raw_logs

MAX_REPLAYED = 200_000  # Events replayed in one transaction. Beyond it, everything is projected again, in many.
READ_LOGS = 20_000  # Logs in memory while history is read.
_READ_BLOCKS = 2_000
_ROWS_TO_DROP = " UNION ALL ".join(
    f"SELECT '{name}', count(*)::int, '[' || string_agg(to_jsonb(t)::text, ',') || ']' FROM {sql_name(name)} t"
    " WHERE t.unique_id = ANY($1::bigint[]) HAVING count(*) > 0"
    for name in APPEND_TABLES
)


class HistoryPart(NamedTuple):
    """Blocks first..last of the history as it will be: stored logs, or those staged to take their place."""

    first: int
    last: int
    staged: bool


@dataclass(frozen=True, slots=True)
class ReplayScope:
    """The rows and events to be replayed: the rows of the groups `roots`, from the events of `blocks` (ascending).

    All events of the blocks `changed` are replayed. Rows of append tables are written again from block `rewrite_from`
    on; below it nothing they depend on changed.
    """

    touched: DependencyGroups
    roots: frozenset[StateKey]
    changed: frozenset[int]
    blocks: list[int]
    rewrite_from: int

    def includes(self, event: Event) -> bool:
        """Return whether the event is projected again."""
        return event.block_number in self.changed or any(
            self.touched.find(key) in self.roots for key in state_keys((event,))
        )


def keys_of(registry: Registry, stored: raw_logs.StoredLogs) -> set[StateKey]:
    """Return the keys of the state rows that projecting stored logs reads or changes."""
    return state_keys(events_of(registry, stored.logs, stored.times))


async def keys_between(conn: Connection, registry: Registry, first: int, last: int) -> set[StateKey]:
    """Return the keys of the state rows that projecting the stored logs of blocks first..last reads or changes.

    Args:
        conn: connection to read with.
        registry: decoders of the watched contracts.
        first: first block.
        last: last block, included.
    """
    keys: set[StateKey] = set()
    while first <= last:
        stored = await raw_logs.read(conn, first, last, READ_LOGS)
        keys |= keys_of(registry, stored)
        first = stored.last + 1
    return keys


async def plan_replay(
    step: Step, registry: Registry, history: Sequence[HistoryPart], changed: frozenset[int],
    removed_keys: Iterable[StateKey], rewrite_from: int,
) -> ReplayScope | None:  # fmt: skip
    """Find what a change of the past affects. None: too much for one transaction, project everything again.

    Args:
        step: reads outside any transaction, and renews the lease now and then.
        registry: decoders of the watched contracts.
        history: the history from the origin up to the last block to be replayed.
        changed: numbers of the changed blocks.
        removed_keys: state rows of the events that the changed blocks had.
        rewrite_from: first block whose append rows are written again.
    """
    touched = DependencyGroups()
    async for events in _read(step, registry, history):
        for event in events:
            keys = state_keys((event,))
            touched.union(keys)
            if event.block_number in changed:
                touched.mark(keys)
    touched.mark(removed_keys)
    if touched.tables() & set(WHOLE_TABLES) or touched.events() > MAX_REPLAYED:
        return None
    scope = ReplayScope(touched, touched.marked_groups(), changed, [], rewrite_from)
    async for events in _read(step, registry, history):
        scope.blocks.extend(sorted({e.block_number for e in events if scope.includes(e) or _writes_whole_table(e)}))
    return scope


async def plan_replay_below_start(step: Step, registry: Registry) -> ReplayScope | None:
    """Find what the blocks below the origin of the last projection affect, now that they are stored.

    None: too much for one transaction, project everything again. The step's index state must have a checkpoint.
    """
    state = step.state
    assert state.checkpoint is not None and state.projected_origin is not None
    below = await step.conn.fetch(
        "SELECT block_number FROM indexer.raw_log WHERE block_number BETWEEN $1 AND $2 LIMIT $3",
        state.binding.origin,
        state.projected_origin - 1,
        MAX_REPLAYED + 1,
    )
    if len(below) > MAX_REPLAYED:
        return None
    changed = frozenset(row["block_number"] for row in below)
    history = [HistoryPart(state.binding.origin, state.checkpoint.number, False)]
    return await plan_replay(step, registry, history, changed, (), state.binding.origin)


async def _read(step: Step, registry: Registry, history: Sequence[HistoryPart]) -> AsyncIterator[list[Event]]:
    for part in history:
        first = part.first
        while first <= part.last:
            stored = await raw_logs.read(step.conn, first, part.last, READ_LOGS, staged=part.staged, strict=False)
            yield events_of(registry, stored.logs, stored.times)
            first = stored.last + 1
            await step.renew_lease()


async def replay(step: Step, writer: Writer, scope: ReplayScope, capture: Capture) -> dict[str, int]:
    """Forget the affected rows and project their events again, in the caller's transaction. Return rows by table.

    Above the floor it keeps before-images.

    Args:
        step: its index state is the one that the scope was planned in.
        writer: its registry decodes the events.
        scope: what is replayed.
        capture: collects what is deleted and written.

    Raises:
        WriteInterceptedError: a row was not deleted or not written.
    """
    conn = step.conn
    await delete_state(conn, scope.touched.rows(), capture)
    hit("heal.forgotten")
    counts: Counter[str] = Counter()
    whole: dict[StateKey, StateRow] = {}
    for start in range(0, len(scope.blocks), _READ_BLOCKS):
        stored = await raw_logs.read_blocks(conn, scope.blocks[start : start + _READ_BLOCKS])
        events = events_of(writer.registry, stored.logs, stored.times)
        wanted = {e.unique_id for e in events if scope.includes(e)}
        replayed = [e for e in events if e.unique_id in wanted or _writes_whole_table(e)]
        for key in state_keys(replayed):
            if key[0] in WHOLE_TABLES:
                whole.setdefault(key, None)
        state = await load_state(conn, (k for k in state_keys(replayed) if k not in whole), ())
        write_set = writer.new_write_set(state | whole, step.state.floor)
        chosen = {e.unique_id for e in replayed}
        project(write_set, events, lambda e, chosen=chosen: e.unique_id in chosen)  # type: ignore[misc]
        whole = {key: row for key, row in write_set.state.items() if key[0] in WHOLE_TABLES}
        _retain_only(write_set, scope, wanted)
        await _drop_appended(conn, [i for i in wanted if i >= scope.rewrite_from * LOGS_PER_BLOCK], capture)
        output = prepare(write_set)
        capture.add_written(output)
        counts.update(await write_rows(conn, output))
        hit("heal.replayed")
    return dict(counts)


def _writes_whole_table(event: Event) -> bool:
    """Return whether the event writes a table that others read whole: a replay must then know its value."""
    return any(table in WHOLE_TABLES for table, _ in state_keys((event,)))


def _retain_only(write_set: WriteSet, scope: ReplayScope, wanted: set[int]) -> None:
    """Leave in the write set only what the replay is to write."""
    write_set.changed = {key: line for key, line in write_set.changed.items() if scope.touched.find(key) in scope.roots}
    write_set.before = {image: row for image, row in write_set.before.items() if image[1] in write_set.changed}
    from_id = scope.rewrite_from * LOGS_PER_BLOCK
    for table in write_set.appended:
        selected = [row["unique_id"] >= from_id and row["unique_id"] in wanted for row in write_set.rows(table)]
        write_set.appended[table] = list(compress(write_set.appended[table], selected))
    write_set.incidents = [i for i in write_set.incidents if i.block_number in scope.changed]


async def _drop_appended(conn: Connection, ids: list[int], capture: Capture) -> None:
    if not ids:
        return
    if capture.active:  # Unlike the rows of changed blocks, these are not archived.
        for table, count, rows in await conn.fetch(_ROWS_TO_DROP, ids):
            capture.add_deleted(table, count, rows)
    for name in APPEND_TABLES:
        await effects.delete(conn, name, "t.unique_id = ANY($1::bigint[])", ids)
