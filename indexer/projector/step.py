"""A step: one transaction that reads or changes what is stored, and what it wrote.

Every change of public rows ends in `Step.log_change`, inside its own transaction and after its rows were written: a
step forward, a rollback, a heal or replay, a reset of the projection. There, and nowhere else, consumers are told of a
change: the method adds the row of the commit log, whose `seq` orders all changes, and with it what the step collected
in its `Capture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from indexer.db.connection import Connection
from indexer.projector.capture import Capture
from indexer.store import commit_log, lease
from indexer.store.commit_log import ChangeKind, CommitEntry
from indexer.store.index_state import IndexState


@dataclass(frozen=True, slots=True)
class Step:
    """What a step works with: a connection, the index state that it was planned in, and the lease.

    `token`: token of the lease; None for a process that only ingests.
    """

    conn: Connection
    state: IndexState
    token: int | None

    @property
    def held_token(self) -> int:
        """The token, in a step that only the holder of the lease makes."""
        assert self.token is not None, "only the holder of the lease writes rows"
        return self.token

    async def renew_lease(self) -> None:
        """Extend the lease. Raises LeaseLostError if another holds it. In a transaction it stays locked to its end."""
        await lease.lock_and_renew(self.conn, self.held_token)

    def capture(self, reorg: int | None = None) -> Capture:
        """Return what collects the changes of this step; it collects nothing while no consumer follows them.

        `reorg`: id in the reorg journal under which the step archives rows.
        """
        return Capture(self.state.capturing, reorg)

    async def log_change(
        self, kind: ChangeKind, first: int, last: int, rows: Mapping[str, int], capture: Capture | None
    ) -> None:
        """Add the change of public rows that this transaction has just made to the commit log, and the rows with it.

        Args:
            kind: kind of the change.
            first: its first block.
            last: its last block.
            rows: number of rows written, removed or restored, by table.
            capture: what was changed; None for a step forward that ends at or below the floor, which is never captured.

        Raises:
            EpochChangedError: a consumer began to follow the changes after the step was planned: plan it again.
            WriteInterceptedError: a row of the commit log or the change log was withheld.
        """
        entry = CommitEntry(kind, first, last, sum(rows.values()), capture.reorg if capture else None)
        if capture is None or not capture.active:
            await commit_log.append(self.conn, entry, bulk=capture is None)
        else:
            await commit_log.append_captured(self.conn, entry, capture.changes, capture.restored_above)


@dataclass(frozen=True, slots=True)
class StepResult:
    """A committed step: blocks `first` to `last`, and what it wrote for them.

    `logs`: read or stored. `rows`: by table, public and state. `seconds`: from the transaction's begin to its commit
    (s), None where another process committed it.
    """

    kind: str
    first: int
    last: int
    logs: int
    rows: dict[str, int] = field(default_factory=dict)
    projected: bool = False
    seconds: float | None = None
