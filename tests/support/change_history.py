"""A random history of the public tables as the change log records it, with the tables as they were after each commit.

The tables are kept as one snapshot per block, so they are known without applying a single change: what a reader makes
of the log is compared with them. `fills` is an append table, `state` a state table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from indexer.feed.changes import Change, Op, Row
from indexer.feed.commits import Commit, CommitKind

Tables = dict[tuple[str, int], Row]
AT = datetime(2026, 1, 2)
ACTIONS = (
    "forward", "forward", "forward", "tags", "tags", "rollback", "rollback", "recover", "heal", "stored",
    "reproject",
)  # fmt: skip


@dataclass
class ChangeHistory:
    """Commits and their changes. The origin is block 0.

    `snapshots`: tables after each block. `blocks`: a number of its own for each projected block, so that two blocks of
    one height are told apart. `ends`: number of commits after each transaction; no reader sees another number.
    """

    random: Random
    commits: list[Commit] = field(default_factory=list)
    changes: dict[int, list[Change]] = field(default_factory=dict)
    tables: dict[int, Tables] = field(default_factory=dict)
    blocks_at: dict[int, tuple[int, ...]] = field(default_factory=dict)
    snapshots: list[Tables] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    finalized: int = -1
    floor: int | None = None
    safe: int | None = None
    counter: int = 0

    def play(self, actions: Iterable[str]) -> ChangeHistory:
        """Perform the actions, each in a transaction of its own."""
        for action in actions:
            getattr(self, action)()
            self.ends.append(len(self.commits))
        return self

    @property
    def position(self) -> int:
        return len(self.snapshots) - 1

    def forward(self) -> None:
        """Project one to three blocks in one commit."""
        first, before = self.position + 1, self.now()
        for _ in range(self.random.randint(1, 3)):
            tables = self.now()
            for _ in range(self.random.randint(0, 3)):
                # Few keys: a transaction that a reorg moves to another block has its old key there.
                name = self.random.choice((("fills", self.random.randrange(9)), ("state", self.random.randrange(3))))
                if name not in tables or name[0] == "state":
                    tables[name] = self.row(name[1])
            self.snapshots.append(tables)
            self.blocks.append(self.number())
        self.floor = max(-1 if self.floor is None else self.floor, min(self.finalized, self.position))
        # The node that is asked may lag behind the one before: the safe block falls.
        self.safe = max(self.floor, self.random.randint(-1, self.position))
        self.commit("forward", first, self.position, difference(before, self.now()))

    def tags(self) -> None:
        """Let the next step find a higher finalized block."""
        self.finalized = max(self.finalized, self.position - self.random.randint(-1, 4))

    def rollback(self) -> None:
        """Replace blocks above the floor, mostly in the same transaction."""
        if self.position > (lowest := -1 if self.floor is None else self.floor):
            self.replace(self.random.randint(lowest, self.position - 1))

    def recover(self) -> None:
        """Replace blocks below the floor too."""
        if self.position > 0 and self.random.random() < 0.3:
            self.replace(self.random.randint(0, self.position - 1))

    def replace(self, fork: int) -> None:
        before, old_tip = self.now(), self.position
        touched = {name for tables in self.snapshots[fork + 1 :] for name in tables if tables[name] != before.get(name)}
        del self.snapshots[fork + 1 :], self.blocks[fork + 1 :]
        self.floor = None if self.floor is None else min(self.floor, fork)
        self.safe = None if self.safe is None else min(self.safe, fork)
        self.finalized = min(self.finalized, fork)
        again = {name for name in touched if name[0] == "state"}  # Restored, whether it is another row or not.
        self.commit("rollback", fork + 1, old_tip, difference(before, self.now(), again), reorg=self.number())
        for _ in range(self.random.randint(0, 2)):
            self.forward()

    def heal(self) -> None:
        """Correct rows of a block and of all that follow; write again more than what changed."""
        if self.position < 0:
            return
        first, before = self.random.randint(0, self.position), self.now()
        fill, state = ("fills", self.random.randrange(9)), ("state", self.random.randrange(3))
        missing = self.row(fill[1]) if fill not in before and self.random.random() < 0.5 else None
        for tables in self.snapshots[first:]:
            tables.pop(fill, None)
            if missing:
                tables[fill] = missing
            if state in tables:
                tables[state] = {**tables[state], "healed": self.counter}
        self.commit("heal", first, self.position, difference(before, self.now(), set(before)), reorg=self.number())

    def stored(self) -> None:
        """Replace or correct blocks that are stored and not projected: no row changes."""
        first = self.position + self.random.randint(2, 4)
        self.commit(self.random.choice(("rollback", "heal")), first, first + 1, [], reorg=self.number())

    def reproject(self) -> None:
        """Void everything. What was final stays final."""
        last = self.position
        self.snapshots.clear()
        self.blocks.clear()
        self.commit("reproject", 0, last, [(Op.VOID, ("", 0), {})])

    def now(self) -> Tables:
        return dict(self.snapshots[-1]) if self.snapshots else {}

    def number(self) -> int:
        self.counter += 1
        return self.counter

    def row(self, key: int) -> Row:
        return {"id": key, "value": self.number()}

    def commit(
        self, kind: CommitKind, first: int, last: int, changes: Iterable[tuple[Op, tuple[str, int], Row]],
        reorg: int | None = None,
    ) -> None:  # fmt: skip
        seq = (self.commits[-1].seq if self.commits else 0) + self.random.randint(1, 3)
        self.changes[seq] = [
            Change(seq, ord_, op, table, () if op is Op.VOID else (key,), row)
            for ord_, (op, (table, key), row) in enumerate(changes)
        ]
        checkpoint = None if self.position < 0 else self.position
        self.commits.append(
            Commit(seq, 0, kind, first, last, 0, AT, True, checkpoint, None, reorg, self.floor, self.safe)
        )
        self.tables[seq], self.blocks_at[seq] = self.now(), tuple(self.blocks)

    def between(self, delivered: int, end: int) -> list[Change]:
        """Return the changes of the commits after `delivered` up to `end`."""
        return [change for seq in self.changes if delivered < seq <= end for change in self.changes[seq]]


def difference(
    before: Tables, after: Tables, again: Iterable[tuple[str, int]] = ()
) -> list[tuple[Op, tuple[str, int], Row]]:
    """Return the changes between two states of the tables, as a commit records them.

    `again`: rows that are written again although they are equal; an append row is deleted first.
    """
    names = [n for n in {**before, **after} if before.get(n) != after.get(n) or n in set(again)]
    deletes = [
        # A deleted append row is recorded whole, of a state row the key.
        (Op.DELETE, name, before[name] if name[0] == "fills" else {"id": name[1]})
        for name in names
        if name in before and (name[0] == "fills" or name not in after)
    ]
    upserts = [(Op.INSERT if n[0] == "fills" else Op.UPDATE, n, after[n]) for n in names if n in after]
    return deletes + upserts
