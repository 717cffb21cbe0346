"""Which events a change of the past touches: those that, over any number of events, share a state row with it. Pure.

An event is projected from the state rows it names and from nothing else of the past, so events whose rows are not
connected cannot influence each other: replaying one connected part from its first event gives what a fresh index has.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import StateKey


class DependencyGroups:
    """Union-find over state rows. `link` every event's rows, `mark` those of changed events, then ask."""

    def __init__(self) -> None:
        self._parent: dict[StateKey, StateKey] = {}
        self._events: dict[StateKey, int] = {}
        self._marked: set[StateKey] = set()

    def _root(self, key: StateKey) -> StateKey:
        parent = self._parent
        root = parent.setdefault(key, key)
        while parent[root] != root:
            root = parent[root]
        while parent[key] != root:
            parent[key], key = root, parent[key]
        return root

    def union(self, keys: Iterable[StateKey]) -> None:
        """One event reads or changes these rows."""
        roots = {self._root(key) for key in keys}
        if not roots:
            return
        main = max(roots, key=lambda root: self._events.get(root, 0))
        total = 1 + sum(self._events.pop(root, 0) for root in roots)
        for root in roots:
            self._parent[root] = main
        self._events[main] = total

    def mark(self, keys: Iterable[StateKey]) -> None:
        """The rows of an event that came, went or changed."""
        self._marked.update(keys)

    def marked_groups(self) -> frozenset[StateKey]:
        """The marked parts, each by one of its rows; to be asked again after more links or marks."""
        return frozenset(self._root(key) for key in self._marked)

    def events(self) -> int:
        """How many linked events belong to marked parts."""
        return sum(self._events.get(root, 0) for root in self.marked_groups())

    def rows(self) -> list[StateKey]:
        """Every row of the marked parts."""
        roots = self.marked_groups()
        return [key for key in self._parent if self._root(key) in roots]

    def tables(self) -> set[str]:
        """The tables that hold marked rows."""
        return {table for table, _ in self._marked}

    def find(self, key: StateKey) -> StateKey:
        """The row that stands for the key's part."""
        return self._root(key)
