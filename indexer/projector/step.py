"""A step: one transaction that reads or changes what is stored, and what it wrote.

Every change of public rows ends in `Step.log_change`, inside its own transaction and after its rows were written: a
step forward, a rollback, a heal or replay, a reset of the projection. There, and nowhere else, belongs what consumers
are to learn of a change, such as a capture of the changed rows: the method adds the row of the commit log, whose `seq`
orders all changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from indexer.db.connection import Connection
from indexer.store import commit_log, lease
from indexer.store.commit_log import ChangeKind
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

    async def log_change(self, kind: ChangeKind, first: int, last: int, rows: Mapping[str, int]) -> None:
        """Add the change of public rows that this transaction has just made to the commit log.

        Args:
            kind: kind of the change.
            first: its first block.
            last: its last block.
            rows: number of rows written, removed or restored, by table.

        Raises:
            WriteInterceptedError: the row of the commit log was withheld.
        """
        await commit_log.append(self.conn, kind, first, last, sum(rows.values()))


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
