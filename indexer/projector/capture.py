"""Capture: what a step does to rows of projected tables, collected in order for the change log.

A step that projects above the floor, or changes history, is captured while a consumer follows the change log. Rows that
the server moves by itself (archived append rows, state rows restored from before-images) are not collected here: the
statement that logs the step reads them where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from indexer.projector.prepare import PreparedRows
from indexer.store.change_log import DELETED, EVERYTHING_VOID, INSERTED, UPSERTED, RowChanges


@dataclass(slots=True)
class Capture:
    """What one step changes. Collects nothing unless `active`.

    `reorg`: id in the reorg journal under which append rows are archived. `restored_above`: block above which state
    rows were restored from before-images; these must stay until the step is logged.
    """

    active: bool
    reorg: int | None = None
    restored_above: int | None = None
    changes: list[RowChanges] = field(default_factory=list)

    def add_written(self, output: PreparedRows) -> None:
        """Add the rows that a step wrote, as the text that was rendered for the server."""
        if self.active:
            self.changes += (
                RowChanges(INSERTED, "copy", table, count, text.decode())
                for table, (count, text) in output.copies.items()
            )
            self.changes += (
                RowChanges(UPSERTED, "copy", table, count, text) for table, (count, text) in output.upserts.items()
            )

    def add_deleted(self, table: str, count: int, rows: str) -> None:
        """Add deleted rows of a table, as a JSON array of objects that have its key columns at least."""
        if self.active:
            self.changes.append(RowChanges(DELETED, "json", table, count, rows))

    def add_void(self) -> None:
        """Add that no row of a projected table is left."""
        if self.active:
            self.changes.append(EVERYTHING_VOID)
