"""How many rows a recovery would remove and write, table by table, without touching one of them."""

from __future__ import annotations

import json
from collections import defaultdict

from indexer.chain.batch import LogBatch
from indexer.db.catalog import KEYS, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.projections.events import LOGS_PER_BLOCK, Row, StateKey, events_of
from indexer.projections.project import merge_rows, project, state_keys, tables_of
from indexer.projections.write_set import StateRow
from indexer.projector.rollback import APPENDED
from indexer.projector.rows import load_state
from indexer.projector.writer import Writer
from indexer.store import raw_logs
from indexer.store.index_state import IndexState

_READ_LOGS = 20_000


class ChangePreview:
    """Counts for keeping blocks up to `keep`: `removed()` once, `add` for each unit of the replacement."""

    def __init__(self, conn: Connection, writer: Writer, state: IndexState, keep: int) -> None:
        self.conn, self.writer, self.state, self.keep = conn, writer, state, keep
        self.exact = not state.predates_before_images(keep)
        self.projected = state.checkpoint is not None and keep <= state.checkpoint.number
        self._state: dict[StateKey, StateRow] = {}
        self._written: set[StateKey] = set()
        self._appended: defaultdict[str, int] = defaultdict(int)
        self._raw = self._blocks = 0
        self.rows_removed: dict[str, int] = {}

    async def removed(self) -> dict[str, int]:
        """Rows that go or are put back. State rows are counted exactly down to the floor, below it as touched."""
        counts: dict[str, int] = {}
        for table in APPENDED:
            counts[table] = await self._count(
                f"{sql_name(table)} WHERE unique_id >= $1", (self.keep + 1) * LOGS_PER_BLOCK
            )
        counts["indexer.raw_log"] = await self._count("indexer.raw_log WHERE block_number > $1", self.keep)
        counts["indexer.block"] = await self._count("indexer.block WHERE number > $1", self.keep)
        for table in await (self._restored() if self.exact else self._touched()):
            counts[table] = counts.get(table, 0) + 1
        return {table: n for table, n in counts.items() if n}

    async def _count(self, what: str, bound: int) -> int:
        counted: int = await self.conn.fetchval(f"SELECT count(*) FROM {what}", bound)
        return counted

    async def _restored(self) -> list[str]:
        """The tables of rows with before-images above `keep`, remembered: the replacement starts from them."""
        images = await self.conn.fetch(
            "SELECT DISTINCT ON (table_name, key) table_name, key, row FROM indexer.before_image"
            " WHERE block_number > $1 ORDER BY table_name, key, block_number",
            self.keep,
        )
        found: dict[StateKey, Row | None] = {}
        for table, key, row in images:
            named = json.loads(key)
            found[table, tuple(named[c] for c in KEYS[table])] = json.loads(row) if row else None
        for name, key in found:
            rows = [found.get((table, key)) for table in tables_of(name)]
            self._state[name, key] = merge_rows(name, rows)
        return [table for table, _ in found]

    async def _touched(self) -> list[str]:
        keys: set[StateKey] = set()
        first, tip = self.keep + 1, self.state.checkpoint.number if self.state.checkpoint else self.keep
        while first <= tip:
            chunk = await raw_logs.read(self.conn, first, tip, _READ_LOGS)
            keys |= state_keys(events_of(self.writer.registry, chunk.logs, chunk.times))
            first = chunk.last + 1
        return [table for name, _ in keys if table_kind(name) == "state" for table in tables_of(name)]

    async def add(self, unit: LogBatch) -> None:
        """Counts what projecting the unit would write."""
        self._raw += len(unit.logs)
        self._blocks += len(unit.blocks)
        if not self.projected:
            return
        events = events_of(self.writer.registry, unit.logs, unit.times)
        lacking = [key for key in state_keys(events) if key not in self._state]
        for key, row in (await load_state(self.conn, lacking)).items():
            self._state.setdefault(key, row)
        ledger = self.writer.ledger(self._state, floor=2**62)
        project(ledger, events)
        self._written |= ledger.changed.keys()
        for table, rows in ledger.appended.items():
            self._appended[table] += len(rows)

    def inserted(self) -> dict[str, int]:
        """What the units added so far would write; a state row written many times counts once."""
        counts = {"indexer.raw_log": self._raw, "indexer.block": self._blocks, **self._appended}
        for name, _ in self._written:
            for table in tables_of(name):
                counts[table] = counts.get(table, 0) + 1
        return {table: n for table, n in counts.items() if n}
