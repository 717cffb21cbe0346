"""How many calls to put into one batch. Pure; several batches may be under way.

A refusal that speaks of the batch's length tightens the ceiling for good. One that may have meant batches, and a batch
that was not answered, shorten it for a while.
"""

from __future__ import annotations

PATIENCE = 32  # answers before a longer batch is tried again; doubled with every refusal
LONG = 8  # calls; a shorter batch that got no answer failed for another reason than its length


class BatchControl:
    """`size`: calls to put into a batch; 1 means one by one. The ceiling only ever sinks."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.size = self.ceiling
        self._patience, self._answers = PATIENCE, 0

    def learn(self, ceiling: int) -> None:
        """A limit that is known: from a message, or from another process."""
        self.ceiling = min(self.ceiling, max(1, ceiling))
        self.size = min(self.size, self.ceiling)

    def refused(self, calls: int, hint: int | None = None, *, length: bool = True) -> None:
        """A batch of `calls` was refused; `hint` is the number its message named. `length`: it spoke of batches."""
        named = hint if hint is not None and 0 < hint < calls else None
        if named is not None:
            self.learn(named)
        elif calls <= self.size:  # a longer one was asked before the size shrank: it tells nothing new
            allowed = max(1, calls // 4)
            if length:
                self.learn(allowed)
            else:
                self.size = min(self.size, allowed)
                self._patience, self._answers = 2 * self._patience, 0

    def failed(self, calls: int) -> None:
        """A batch of `calls` was not answered, perhaps because it was too long."""
        if LONG < calls <= self.size:
            self.size, self._answers = max(LONG, calls // 2), 0

    def served(self, calls: int) -> None:
        """As many calls as `size`, or fewer, were answered in one request."""
        if self.size < self.ceiling and calls >= self.size:
            self._answers += 1
            if self._answers >= self._patience:
                self.size, self._answers = min(self.ceiling, self.size + max(1, self.ceiling // 10)), 0
