"""Finds the events that a change of the past affects: those connected to it by shared state rows. Pure.

Connected means over any number of events. An event is projected from the state rows it names and from nothing else of
the past, so events whose rows are not connected cannot influence each other: replaying one connected group from its
first event gives what a fresh index has.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.events import StateKey


class DependencyGroups:
    """Union-find over state rows. `union` every event's rows, `mark` those of changed events, then query."""

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
        """Join the groups of the rows that one event reads or changes."""
        roots = {self._root(key) for key in keys}
        if not roots:
            return
        main = max(roots, key=lambda root: self._events.get(root, 0))
        total = 1 + sum(self._events.pop(root, 0) for root in roots)
        for root in roots:
            self._parent[root] = main
        self._events[main] = total

    def mark(self, keys: Iterable[StateKey]) -> None:
        """Mark the rows of an event that was inserted, removed or changed."""
        self._marked.update(keys)

    def marked_groups(self) -> frozenset[StateKey]:
        """Return the marked groups, each by one of its rows. Call again after more unions or marks."""
        return frozenset(self._root(key) for key in self._marked)

    def events(self) -> int:
        """Return how many events belong to marked groups."""
        return sum(self._events.get(root, 0) for root in self.marked_groups())

    def rows(self) -> list[StateKey]:
        """Return every row of the marked groups."""
        roots = self.marked_groups()
        return [key for key in self._parent if self._root(key) in roots]

    def tables(self) -> set[str]:
        """Return the tables that hold marked rows."""
        return {table for table, _ in self._marked}

    def find(self, key: StateKey) -> StateKey:
        """Return the row that represents the key's group."""
        return self._root(key)
