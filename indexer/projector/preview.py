"""Counts the rows that a recovery would remove and write, table by table, without touching one of them."""

from __future__ import annotations

import json
from collections import defaultdict

from indexer.chain.batch import LogBatch
from indexer.chain.types import LOGS_PER_BLOCK
from indexer.db.catalog import KEYS, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.projections.events import Row, StateKey, events_of
from indexer.projections.project import merge_rows, project, state_keys, tables_of
from indexer.projections.write_set import StateRow
from indexer.projector.replay import keys_between
from indexer.projector.rollback import APPEND_TABLES
from indexer.projector.rows import load_state
from indexer.projector.writer import Writer
from indexer.store.index_state import IndexState


class ChangePreview:
    """Row counts of a recovery. Call `removed()` once, and `add` for each log batch of the replacement.

    Args:
        conn: connection to read with.
        writer: the deployment's writer.
        state: the index state that the recovery starts from.
        keep: the last block to be kept.
    """

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
        """Count the rows that would be removed or restored, by table.

        State rows are counted exactly down to the floor; below it, every touched one counts.
        """
        counts: dict[str, int] = {}
        for table in APPEND_TABLES:
            counts[table] = await self._count(
                f"{sql_name(table)} WHERE unique_id >= $1", (self.keep + 1) * LOGS_PER_BLOCK
            )
        counts["indexer.raw_log"] = await self._count("indexer.raw_log WHERE block_number > $1", self.keep)
        counts["indexer.block"] = await self._count("indexer.block WHERE number > $1", self.keep)
        for table in await (self._restored() if self.exact else self._touched()):
            counts[table] = counts.get(table, 0) + 1
        return {table: n for table, n in counts.items() if n}

    async def _count(self, source: str, bound: int) -> int:
        counted: int = await self.conn.fetchval(f"SELECT count(*) FROM {source}", bound)
        return counted

    async def _restored(self) -> list[str]:
        """Return the tables of rows with before-images above `keep`, from which the replacement will start."""
        images = await self.conn.fetch(
            "SELECT DISTINCT ON (table_name, key) table_name, key, row FROM indexer.before_image"
            " WHERE block_number > $1 ORDER BY table_name, key, block_number",
            self.keep,
        )
        restored: dict[StateKey, Row | None] = {}
        for table, key, row in images:
            key_columns = json.loads(key)
            restored[table, tuple(key_columns[c] for c in KEYS[table])] = json.loads(row) if row else None
        for name, key in restored:
            rows = [restored.get((table, key)) for table in tables_of(name)]
            self._state[name, key] = merge_rows(name, rows)
        return [table for table, _ in restored]

    async def _touched(self) -> list[str]:
        tip = self.state.checkpoint.number if self.state.checkpoint else self.keep
        keys = await keys_between(self.conn, self.writer.registry, self.keep + 1, tip)
        return [table for name, _ in keys if table_kind(name) == "state" for table in tables_of(name)]

    async def add(self, batch: LogBatch) -> None:
        """Count what projecting the batch would write."""
        self._raw += len(batch.logs)
        self._blocks += len(batch.blocks)
        if not self.projected:
            return
        events = events_of(self.writer.registry, batch.logs, batch.times)
        missing = [key for key in state_keys(events) if key not in self._state]
        for key, row in (await load_state(self.conn, missing)).items():
            self._state.setdefault(key, row)
        write_set = self.writer.new_write_set(self._state, floor=2**62)
        project(write_set, events)
        self._written |= write_set.changed.keys()
        for table, rows in write_set.appended.items():
            self._appended[table] += len(rows)

    def inserted(self) -> dict[str, int]:
        """Return what the batches added so far would write. A state row written many times counts once."""
        counts = {"indexer.raw_log": self._raw, "indexer.block": self._blocks, **self._appended}
        for name, _ in self._written:
            for table in tables_of(name):
                counts[table] = counts.get(table, 0) + 1
        return {table: n for table, n in counts.items() if n}
