"""How many blocks to ask an endpoint for at once. Pure; several requests may be under way.

Sizes follow the density of the answers towards TARGET_LOGS logs and TARGET_BYTES bytes an answer, whichever is less. A
refusal about the number of blocks tightens the ceiling for good. Other trouble halves the size; up to half of what met
it the way back is free, beyond that it is additive, in smaller steps the more often it was met.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

TARGET_LOGS = 1000
TARGET_BYTES = 8 * 2**20
REACH = 8  # times as many blocks as an answer covered: further it tells nothing about


@dataclass(frozen=True, slots=True)
class LearnedLimits:
    """What an endpoint taught, as JSON values, for other processes. Limits are None where none was met."""

    ceiling: int
    size: int
    max_logs: int | None = None
    max_bytes: int | None = None


class AdaptiveRange:
    """`size`: blocks to ask for next; between 1 and the ceiling, which only ever sinks."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.size = self.ceiling
        self.proven = 0  # the most blocks that were served at once
        self._beyond: int | None = None  # as many blocks and more were refused
        self.max_logs: int | None = None  # logs, and bytes, an answer may have: they only ever sink too
        self.max_bytes: int | None = None
        self._trouble: int | None = None  # blocks of the request that met trouble last, until as many are served
        self._met = 0  # how often in a row
        self._credit = 0
        self._weight = (0, 1)  # bytes and blocks of the answer weighed last
        self._rose: bool | None = None  # the last move, while answers keep asking for moves

    @property
    def target(self) -> int:
        """Logs aimed at in an answer: well under what the endpoint serves."""
        return TARGET_LOGS if self.max_logs is None else max(1, min(TARGET_LOGS, self.max_logs // 2))

    @property
    def target_bytes(self) -> int:
        return TARGET_BYTES if self.max_bytes is None else max(1, min(TARGET_BYTES, self.max_bytes // 2))

    def refuses(self, blocks: int) -> bool:
        """Whether the endpoint is known to refuse as many blocks, whatever is in them."""
        return self._beyond is not None and blocks >= self._beyond

    def learn(
        self, ceiling: int | None = None, *, max_logs: int | None = None, max_bytes: int | None = None
    ) -> None:  # fmt: skip
        """Limits that are known: from a message, or from another process. They tighten, they never widen."""
        self.ceiling = min(self.ceiling, max(1, ceiling or self.ceiling))
        self.size = min(self.size, self.ceiling)
        self.max_logs = min((n for n in (self.max_logs, max_logs) if n), default=None)
        self.max_bytes = min((n for n in (self.max_bytes, max_bytes) if n), default=None)

    def snapshot(self) -> LearnedLimits:
        return LearnedLimits(self.ceiling, self.size, self.max_logs, self.max_bytes)

    def restore(self, learnt: LearnedLimits) -> None:
        """Goes on from what another control of the same endpoint learnt; nothing learnt here is forgotten."""
        self.learn(learnt.ceiling, max_logs=learnt.max_logs, max_bytes=learnt.max_bytes)
        self.size = max(1, min(learnt.size, self.ceiling))

    def refused(self, blocks: int, hint: int | None, *, results: bool = False) -> None:
        """The endpoint refused `blocks`; `hint` is the number its message named.

        With `results` it had too much to tell about these blocks: emptier ones may be asked for in larger ranges again.
        """
        named = hint if hint is not None and 0 < hint < blocks else None
        allowed = named or max(1, blocks // 2)
        # One that was asked before the size shrank says nothing of the new size, unless it names a number.
        late = blocks > self.size
        if not results:
            self._beyond = min(self._beyond or blocks, blocks if named is None else named + 1)
            self.ceiling = min(self.ceiling, max(1, blocks - 1) if late and named is None else allowed)
        elif named is None and not late:
            self._met_trouble(blocks)
        if named is not None or not late:
            self.size, self._rose = min(self.size, allowed), None

    def failed(self, blocks: int) -> None:
        """The endpoint gave no answer for `blocks`, perhaps because they were too many: a time-out, a lost connection.

        The ceiling stays, so that an endpoint's bad hour does not slow it for good.
        """
        if blocks <= self.size:
            self._met_trouble(blocks)
            self.size, self._rose = max(1, blocks // 2), None

    def observe_size(self, blocks: int, size: int) -> None:
        """The answer for `blocks` had `size` bytes, the headers in it included."""
        self.proven = max(self.proven, blocks)
        self._weight = (size, max(1, blocks))
        # Small answers are mostly headers, which are as heavy whatever the number of blocks.
        if 4 * size >= self.target_bytes and size * self.size > 3 * self.target_bytes * max(1, blocks) // 2:
            self._move(min(self.size, self._blocks_for_target_bytes()))

    def served(self, blocks: int, logs: int) -> None:
        """The endpoint served `blocks` with `logs`."""
        if self._trouble is not None and blocks >= self._trouble:
            self._trouble, self._met = None, 0
        expected = logs * self.size // blocks
        if expected > self.target * 3 // 2 and 4 * logs >= self.target:
            self._move(max(1, self._damped(self.target * blocks // logs, rising=False)))
        elif 10 * expected < 7 * self.target and self.size < self.ceiling:
            goal = min(
                self.target * blocks // logs if logs else self.ceiling, REACH * blocks, self._blocks_for_target_bytes()
            )
            if goal > self.size:
                self._grow(min(self.ceiling, self._damped(goal, rising=True)), whole=blocks >= self.size)
        else:
            self._rose = None

    def _blocks_for_target_bytes(self) -> int:
        """Blocks whose answer would have the bytes aimed at."""
        size, blocks = self._weight
        return max(1, self.target_bytes * blocks // size) if REACH * size > self.target_bytes else self.ceiling

    def _damped(self, goal: int, *, rising: bool) -> int:
        """Half of the way, as a ratio, where the last move went the other way: bursts would swing the size for ever."""
        if self._rose in (None, rising):
            return goal
        half = isqrt(self.size * goal)
        return max(half, self.size + 1) if rising else half

    def _grow(self, goal: int, *, whole: bool) -> None:
        if self._trouble is None or goal <= max(self.size, self._trouble // 2):
            self._move(goal)
        elif self.size < self._trouble // 2:
            self._move(self._trouble // 2)
        elif whole:
            self._credit += self._trouble
            steps, self._credit = divmod(self._credit, 10 * self._met)
            self._move(min(goal, self.size + steps))

    def _met_trouble(self, blocks: int) -> None:
        self._trouble, self._met, self._credit = blocks, self._met + 1, 0

    def _move(self, size: int) -> None:
        if size != self.size:
            self._rose, self.size = size > self.size, size


ANSWERS_BEFORE_GROWTH = 32  # answers before a longer batch is tried again; doubled with every refusal
LONG = 8  # calls; a shorter batch that got no answer failed for another reason than its length


class AdaptiveBatch:
    """`size`: calls to put into a batch; 1 means one by one. The ceiling only ever sinks."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.size = self.ceiling
        self._answers_wanted, self._answers = ANSWERS_BEFORE_GROWTH, 0

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
                self._answers_wanted, self._answers = 2 * self._answers_wanted, 0

    def failed(self, calls: int) -> None:
        """A batch of `calls` was not answered, perhaps because it was too long."""
        if LONG < calls <= self.size:
            self.size, self._answers = max(LONG, calls // 2), 0

    def served(self, calls: int) -> None:
        """As many calls as `size`, or fewer, were answered in one request."""
        if self.size < self.ceiling and calls >= self.size:
            self._answers += 1
            if self._answers >= self._answers_wanted:
                self.size, self._answers = min(self.ceiling, self.size + max(1, self.ceiling // 10)), 0
