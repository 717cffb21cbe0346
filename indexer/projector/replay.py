"""What a change of the past makes void, and how it is made again: the replay of touched state rows from their first
event. Used for everything below finalized, where no before-images exist; its result equals a fresh index.

First `survey`, outside any transaction, reads the history and says which rows are touched; then `replay`, inside the
transaction that changes the raw logs, forgets those rows and projects their events again. When more events are touched
than one transaction should hold, everything is projected again, step by step, which the engine does anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

from indexer.db.connection import Connection
from indexer.decode.registry import Registry
from indexer.projections.events import Event, StateKey, events_of
from indexer.projections.project import WHOLE_TABLES, project, state_keys
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector.impact import DependencyGroups
from indexer.projector.rollback import APPENDED
from indexer.projector.rows import delete_state, load_state, prepare, write_rows
from indexer.runtime.failpoints import hit
from indexer.store import effects, raw_logs
from indexer.store.index_state import IndexState

MAX_REPLAYED = 200_000  # events replayed in one transaction; beyond it everything is projected again in many
_READ_LOGS = 20_000
_READ_BLOCKS = 2_000


class HistoryPart(NamedTuple):
    """Blocks first..last of the history as it will be: what is stored, or what is staged to take its place."""

    first: int
    last: int
    staged: bool


@dataclass(frozen=True, slots=True)
class ReplayScope:
    """What is replayed: the rows of `roots`' parts from the events of `blocks` (ascending), and all of `changed`.

    Rows of append tables are written again from block `rewrite_from` on; below it nothing they depend on changed.
    """

    touched: DependencyGroups
    roots: frozenset[StateKey]
    changed: frozenset[int]
    blocks: list[int]
    rewrite_from: int

    def includes(self, event: Event) -> bool:
        """Whether the event is projected again."""
        return event.block_number in self.changed or any(
            self.touched.find(key) in self.roots for key in state_keys((event,))
        )


def keys_of(registry: Registry, chunk: raw_logs.StoredLogs) -> set[StateKey]:
    """The state rows that projecting stored logs reads or changes."""
    return state_keys(events_of(registry, chunk.logs, chunk.times))


async def plan_replay(
    conn: Connection, registry: Registry, parts: Sequence[HistoryPart], changed: frozenset[int],
    gone: Iterable[StateKey],
    rewrite_from: int, still_ours: Callable[[], Awaitable[None]],
) -> ReplayScope | None:  # fmt: skip
    """What a change of blocks `changed` touches; `gone` are the rows of the events they had. None: everything.

    `parts` are the history from the origin up to the last block to be replayed. `still_ours` is called now and then,
    to keep the lease.
    """
    touched = DependencyGroups()
    async for events in _read(conn, registry, parts, still_ours):
        for event in events:
            keys = state_keys((event,))
            touched.union(keys)
            if event.block_number in changed:
                touched.mark(keys)
    touched.mark(gone)
    if touched.tables() & set(WHOLE_TABLES) or touched.events() > MAX_REPLAYED:
        return None
    scope = ReplayScope(touched, touched.marked_groups(), changed, [], rewrite_from)
    async for events in _read(conn, registry, parts, still_ours):
        scope.blocks.extend(sorted({e.block_number for e in events if scope.includes(e) or _writes_whole_table(e)}))
    return scope


async def plan_replay_below_start(
    conn: Connection, registry: Registry, state: IndexState, still_ours: Callable[[], Awaitable[None]]
) -> ReplayScope | None:  # fmt: skip
    """What the blocks below the origin of the last projection touch, now that they are stored. None: everything."""
    assert state.checkpoint is not None and state.projected_origin is not None
    below = await conn.fetch(
        "SELECT block_number FROM indexer.raw_log WHERE block_number BETWEEN $1 AND $2 LIMIT $3",
        state.binding.origin,
        state.projected_origin - 1,
        MAX_REPLAYED + 1,
    )
    if len(below) > MAX_REPLAYED:
        return None
    changed = frozenset(row["block_number"] for row in below)
    parts = [HistoryPart(state.binding.origin, state.checkpoint.number, False)]
    return await plan_replay(conn, registry, parts, changed, (), state.binding.origin, still_ours)


async def _read(
    conn: Connection, registry: Registry, parts: Sequence[HistoryPart], still_ours: Callable[[], Awaitable[None]]
) -> AsyncIterator[list[Event]]:  # fmt: skip
    for part in parts:
        first = part.first
        while first <= part.last:
            chunk = await raw_logs.read(conn, first, part.last, _READ_LOGS, staged=part.staged, strict=False)
            yield events_of(registry, chunk.logs, chunk.times)
            first = chunk.last + 1
            await still_ours()


async def replay(
    conn: Connection, registry: Registry, scope: ReplayScope, ledger_of: Callable[[dict[StateKey, StateRow]], WriteSet]
) -> dict[str, int]:  # fmt: skip
    """Forgets the touched rows and projects their events again, in the caller's transaction. Rows written by table.
    Raises WriteInterceptedError.

    `ledger_of` makes a ledger over a state, with a floor above which it keeps before-images.
    """
    await delete_state(conn, scope.touched.rows())
    hit("heal.forgotten")
    counts: Counter[str] = Counter()
    whole: dict[StateKey, StateRow] = {}
    for start in range(0, len(scope.blocks), _READ_BLOCKS):
        chunk = await raw_logs.read_blocks(conn, scope.blocks[start : start + _READ_BLOCKS])
        events = events_of(registry, chunk.logs, chunk.times)
        wanted = {e.unique_id for e in events if scope.includes(e)}
        used = [e for e in events if e.unique_id in wanted or _writes_whole_table(e)]
        for key in state_keys(used):
            if key[0] in WHOLE_TABLES:
                whole.setdefault(key, None)
        state = await load_state(conn, (k for k in state_keys(used) if k not in whole), ())
        ledger = ledger_of(state | whole)
        chosen = {e.unique_id for e in used}
        project(ledger, events, lambda e, chosen=chosen: e.unique_id in chosen)  # type: ignore[misc]
        whole = {key: row for key, row in ledger.state.items() if key[0] in WHOLE_TABLES}
        _retain_only(ledger, scope, wanted)
        await _drop_appended(conn, [i for i in wanted if i >= scope.rewrite_from * 100_000])
        counts.update(await write_rows(conn, prepare(ledger)))
        hit("heal.replayed")
    return dict(counts)


def _writes_whole_table(event: Event) -> bool:
    """Whether the event writes a table that other events read whole: its value then must be known while replaying."""
    return any(table in WHOLE_TABLES for table, _ in state_keys((event,)))


def _retain_only(ledger: WriteSet, scope: ReplayScope, wanted: set[int]) -> None:
    """Leaves in the ledger only what the replay is to write."""
    ledger.changed = {key: line for key, line in ledger.changed.items() if scope.touched.find(key) in scope.roots}
    ledger.before = {at: row for at, row in ledger.before.items() if at[1] in ledger.changed}
    from_id = scope.rewrite_from * 100_000
    for table in ledger.appended:
        kept = [row["unique_id"] >= from_id and row["unique_id"] in wanted for row in ledger.rows(table)]
        ledger.appended[table] = list(compress(ledger.appended[table], kept))
    ledger.incidents = [i for i in ledger.incidents if i.block_number in scope.changed]


async def _drop_appended(conn: Connection, ids: list[int]) -> None:
    if ids:
        for name in APPENDED:
            await effects.delete(conn, name, "t.unique_id = ANY($1::bigint[])", ids)
