"""How many blocks to ask an endpoint for at once. Pure.

It grows while answers are small, aims at about TARGET_LOGS an answer, and a limit on blocks tightens the ceiling for
good.
"""

from __future__ import annotations

TARGET_LOGS = 1000


class RangeControl:
    """`size`: blocks to ask for next; between 1 and the ceiling, which only ever sinks."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.size = self.ceiling

    def refused(self, blocks: int, hint: int | None, *, results: bool = False) -> None:
        """The endpoint refused `blocks`; `hint` is the number its message named.

        With `results` it had too much to tell about these blocks: emptier ones may be asked for in larger ranges again.
        """
        allowed = max(1, hint if hint is not None and 0 < hint < blocks else blocks // 2)
        if not results:
            self.ceiling = min(self.ceiling, allowed)
        self.size = min(self.size, allowed)

    def failed(self, blocks: int) -> None:
        """The endpoint gave no answer for `blocks`, perhaps because they were too many: a time-out, a lost connection.

        The ceiling stays, so that an endpoint's bad hour does not slow it for good.
        """
        self.size = max(1, min(self.size, blocks // 2))

    def served(self, blocks: int, logs: int) -> None:
        """The endpoint served `blocks` with `logs`."""
        if logs > 2 * TARGET_LOGS:
            self.size = max(1, min(self.size, blocks * TARGET_LOGS // logs))
        elif logs < TARGET_LOGS and blocks >= self.size:
            self.size = min(self.ceiling, self.size * 2)
