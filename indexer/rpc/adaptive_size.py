"""Adaptive request sizes: how many blocks to ask an endpoint for at once, and how many calls to batch. Pure.

Several requests may be in flight. Block counts follow the density of the answers toward TARGET_LOGS logs and
TARGET_BYTES bytes per answer, whichever is less. A refusal of the number of blocks lowers the ceiling for good. Any
other failure halves the size; it recovers freely up to half of the size that failed, and additively beyond, in smaller
steps the more often it failed in a row. A refusal that does not say why is answered with less once it is repeated; if
the least is refused as well, the size was not to blame and is what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

TARGET_LOGS = 1000
TARGET_BYTES = 8 * 2**20
REACH = 8  # Times the blocks of an answer: it says nothing about larger requests.


@dataclass(frozen=True, slots=True)
class LearnedLimits:
    """Limits learned from an endpoint, as JSON values, for other processes. A limit is None if none was met."""

    ceiling: int
    size: int
    max_logs: int | None = None
    max_bytes: int | None = None


class AdaptiveRange:
    """Number of blocks to request from an endpoint.

    `size` is the number of blocks to request next: between 1 and the ceiling, which is only ever lowered.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.size = self.ceiling
        self.max_answered = 0  # The most blocks answered at once.
        self._refused_from: int | None = None  # This many blocks and more are refused.
        self.max_logs: int | None = None  # Limits of an answer (logs, and bytes below); only ever lowered.
        self.max_bytes: int | None = None
        self._failed_blocks: int | None = None  # Blocks of the last request that failed, until as many succeed.
        self._failures = 0  # Failures in a row.
        self._credit = 0
        self._doubts = self._doubted = 0  # Refusals in a row that did not say why, and the blocks of the last one.
        self._size_before: int | None = None  # Before such refusals shrank it, until fewer blocks are answered.
        self._weight = (0, 1)  # (bytes, blocks) of the last answer.
        self._rose: bool | None = None  # Whether the last move was up; None once an answer needs no move.

    @property
    def target(self) -> int:
        """Logs to aim for in an answer: well below the endpoint's limit."""
        return TARGET_LOGS if self.max_logs is None else max(1, min(TARGET_LOGS, self.max_logs // 2))

    @property
    def target_bytes(self) -> int:
        """Bytes to aim for in an answer: well below the endpoint's limit."""
        return TARGET_BYTES if self.max_bytes is None else max(1, min(TARGET_BYTES, self.max_bytes // 2))

    def refuses(self, blocks: int) -> bool:
        """Return whether the endpoint is known to refuse this many blocks, whatever they contain."""
        return self._refused_from is not None and blocks >= self._refused_from

    def learn(
        self, ceiling: int | None = None, *, max_logs: int | None = None, max_bytes: int | None = None
    ) -> None:  # fmt: skip
        """Apply limits learned from a message or from another process. They tighten and never widen."""
        self.ceiling = min(self.ceiling, max(1, ceiling or self.ceiling))
        self.size = min(self.size, self.ceiling)
        self.max_logs = min((n for n in (self.max_logs, max_logs) if n), default=None)
        self.max_bytes = min((n for n in (self.max_bytes, max_bytes) if n), default=None)

    def snapshot(self) -> LearnedLimits:
        """Return the limits learned so far."""
        return LearnedLimits(self.ceiling, self.size, self.max_logs, self.max_bytes)

    def restore(self, limits: LearnedLimits) -> None:
        """Continue from limits that another control of the same endpoint learned; nothing learned here is forgotten."""
        self.learn(limits.ceiling, max_logs=limits.max_logs, max_bytes=limits.max_bytes)
        self.size = max(1, min(limits.size, self.ceiling))

    def refused(self, blocks: int, hint: int | None, *, results: bool = False) -> None:
        """Record that the endpoint refused `blocks`; `hint` is the number that its message named.

        With `results`, the answer for these blocks would have been too large: ranges with fewer logs may grow again.
        """
        named = hint if hint is not None and 0 < hint < blocks else None
        allowed = named or max(1, blocks // 2)
        # A request sent before the size shrank says nothing about the new size, unless the refusal names a number.
        late = blocks > self.size
        if not results:
            self._refused_from = min(self._refused_from or blocks, blocks if named is None else named + 1)
            self.ceiling = min(self.ceiling, max(1, blocks - 1) if late and named is None else allowed)
        elif named is None and not late:
            self._note_failure(blocks)
        if named is not None or not late:
            self.size, self._rose = min(self.size, allowed), None

    def failed(self, blocks: int) -> None:
        """Record that `blocks` got no answer, perhaps because they were too many: a timeout, a lost connection.

        The ceiling stays, so that an endpoint's bad hour does not slow it for good.
        """
        if blocks <= self.size:
            self._note_failure(blocks)
            self.size, self._rose = max(1, blocks // 2), None

    def doubted(self, blocks: int, *, repeated: bool) -> bool:
        """Record that `blocks` were refused in words that do not say why. Return whether to request fewer now.

        Fewer are requested after two refusals in a row; `repeated`: this was the second one. Whether the number of
        blocks was to blame shows when fewer are answered, or when a single one is refused as well.
        """
        self._doubts, self._doubted = self._doubts + (2 if repeated else 1), blocks
        if blocks > 1 and blocks <= self.size and self._doubts >= 2:
            self._size_before = self._size_before or self.size
            self.size, self._rose = blocks // 2, None
        elif blocks == 1:
            self._doubts = 0
            if self._size_before is not None:
                self.size, self._size_before = min(self._size_before, self.ceiling), None
        return blocks > 1 and self.size < blocks

    def observe_size(self, blocks: int, size: int) -> None:
        """Record that the answer for `blocks` had `size` bytes, including the headers in it."""
        self.max_answered = max(self.max_answered, blocks)
        self._weight = (size, max(1, blocks))
        # Small answers are mostly headers, whose bytes do not depend on the number of blocks.
        if 4 * size >= self.target_bytes and size * self.size > 3 * self.target_bytes * max(1, blocks) // 2:
            self._move(min(self.size, self._blocks_for_target_bytes()))

    def succeeded(self, blocks: int, logs: int) -> None:
        """Record that the endpoint answered for `blocks` with `logs` logs."""
        if self._size_before is not None:
            self._size_before = None
            self._note_failure(self._doubted)
        if blocks >= self._doubted:
            self._doubts = 0
        if self._failed_blocks is not None and blocks >= self._failed_blocks:
            self._failed_blocks, self._failures = None, 0
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
        """Return the number of blocks whose answer would have the targeted number of bytes."""
        size, blocks = self._weight
        return max(1, self.target_bytes * blocks // size) if REACH * size > self.target_bytes else self.ceiling

    def _damped(self, goal: int, *, rising: bool) -> int:
        """Go half of the way (as a ratio) if the last move went the other way: bursts would swing the size forever."""
        if self._rose in (None, rising):
            return goal
        half = isqrt(self.size * goal)
        return max(half, self.size + 1) if rising else half

    def _grow(self, goal: int, *, whole: bool) -> None:
        if self._failed_blocks is None or goal <= max(self.size, self._failed_blocks // 2):
            self._move(goal)
        elif self.size < self._failed_blocks // 2:
            self._move(self._failed_blocks // 2)
        elif whole:
            self._credit += self._failed_blocks
            steps, self._credit = divmod(self._credit, 10 * self._failures)
            self._move(min(goal, self.size + steps))

    def _note_failure(self, blocks: int) -> None:
        self._failed_blocks, self._failures, self._credit = blocks, self._failures + 1, 0

    def _move(self, size: int) -> None:
        if size != self.size:
            self._rose, self.size = size > self.size, size


# Answers before a longer batch is tried again; doubled with every refusal, halved when the longer batch is answered.
ANSWERS_BEFORE_GROWTH, MAX_ANSWERS_BEFORE_GROWTH = 32, 4096
LONG_BATCH_CALLS = 8  # A shorter batch that got no answer failed for a reason other than its length.
# Rate limits in a row after which a batch is shortened. A short one is what a proof is made of (a range, its ends and
# the final block in one answer), so only lasting refusals break it up.
LIMITS_OF_LONG_BATCH, LIMITS_OF_SHORT_BATCH = 2, 4
FAILURES_OF_SHORT_BATCH = 4  # Short batches in a row without an answer before light calls show whether length is why.


class AdaptiveBatch:
    """Number of calls to put into a batch.

    `size` is the number of calls to send next; 1 means one by one. The ceiling is only ever lowered.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.size = self.ceiling
        self._answers_wanted, self._answers = ANSWERS_BEFORE_GROWTH, 0
        self._grown = 0  # By how much the size grew last, until a batch of that length was answered.
        self._careful = False  # Whether to grow in small steps, because a large one was limited.
        self._limits = self._limited = 0  # Rate limits in a row, and the calls of the last one.
        self._size_before: int | None = None  # Before rate limits shortened it, until a shorter batch is answered.
        self._shortened = 0  # Times that they shortened it since.
        self._failures = self._failed_calls = 0  # Short batches in a row without an answer, and the calls of the last.
        self._answered = 0  # The longest batch answered since the size shrank last.
        self._lost: int | None = None  # A length whose batches get no answer, until one of them does.

    def learn(self, ceiling: int) -> None:
        """Apply a limit learned from a message or from another process."""
        self.ceiling = min(self.ceiling, max(1, ceiling))
        self._shrink(self.ceiling)

    def refused(self, calls: int, hint: int | None = None, *, length: bool = True) -> None:
        """Record that a batch of `calls` was refused; `hint` is the number its message named.

        `length`: the message was about batches, so the ceiling is lowered; otherwise only the size, which may grow
        again.
        """
        named = hint if hint is not None and 0 < hint < calls else None
        if named is not None:
            self.learn(named)
        elif calls <= self.size:  # A longer one was sent before the size shrank and says nothing new.
            allowed = max(1, calls // 4)
            if length:
                self.learn(allowed)
            else:
                self._size_before = self._size_before or self.size
                self._shrink(allowed)
                self._want_more_answers()

    def _shrink(self, size: int) -> None:
        if size < self.size:
            self.size, self._answers, self._grown = size, 0, 0
            self._answered = min(self._answered, size)

    def _want_more_answers(self) -> None:
        self._answers_wanted = min(2 * self._answers_wanted, MAX_ANSWERS_BEFORE_GROWTH)

    def restore(self, size: int) -> None:
        """Return to an earlier size: what was refused had another reason. A learned ceiling stays."""
        longest = self.ceiling if self._lost is None else min(self.ceiling, self._lost - 1)
        self.size = max(self.size, min(max(size, self._size_before or 0), longest))
        self._size_before = None

    def failed(self, calls: int) -> bool:
        """Record that a batch of `calls` was not answered, perhaps because it was too long.

        Return whether to find out if it was: a short one rarely is, but some endpoints lose every batch.
        """
        if self._grown and self._answered < calls <= self.size:  # What was only tried is not tried again soon.
            self._shrink(max(1, self._answered))
            self._want_more_answers()
        elif LONG_BATCH_CALLS < calls <= self.size:
            self._shrink(max(LONG_BATCH_CALLS, calls // 2))
        elif 1 < calls <= self.size:
            self._failures, self._failed_calls = self._failures + 1, calls
            return self._failures % FAILURES_OF_SHORT_BATCH == 0
        return False

    def lost(self, calls: int) -> None:
        """Record that batches of `calls` get no answer, although single calls do."""
        if calls <= self.size:
            self._shrink(max(1, calls // 2))
            self._want_more_answers()
            self._lost, self._failures = calls, 0

    def limited(self, calls: int, answered: int = 0) -> None:
        """Record that a batch of `calls` was refused for its rate, all but those `answered`: each call may count."""
        self._limits, self._limited = self._limits + 1, calls
        if calls == self.size == 1:  # If one call is refused as well, the length was not to blame.
            if self._size_before is not None:
                self.size, self._size_before = min(self._size_before, self.ceiling), None
            self._limits = self._shortened = 0
        elif 1 < calls <= self.size:
            is_long = calls > LONG_BATCH_CALLS
            if self._limits >= (LIMITS_OF_LONG_BATCH if is_long else LIMITS_OF_SHORT_BATCH):
                self._size_before = self._size_before or self.size
                shorter = max(LONG_BATCH_CALLS, calls // 2) if is_long else answered or calls // 2
                if self._grown:  # Length may be what is limited, in words of a rate: it is not tried again soon.
                    shorter = max(shorter, min(calls - 1, self.size - self._grown))
                    self._want_more_answers()
                    self._careful = True
                self._shrink(shorter)
                self._limits = 0
                self._shortened += 1

    def succeeded(self, calls: int) -> bool:
        """Record that `calls` calls were answered in one request; only full batches count toward growth.

        Return whether this shows that the endpoint counts the calls in a batch: longer ones were limited again and
        again, each length in turn, and this one was not.
        """
        counts_calls = self._shortened >= 2
        self._shortened, self._size_before = 0, None
        self._answered = max(self._answered, calls)
        if calls >= self._failed_calls:
            self._failures = self._failed_calls = 0
        if self._lost is not None and calls >= self._lost:
            self._lost = None
        if calls >= self._limited:
            self._limits = 0
        self._grow(calls)
        return counts_calls

    def _grow(self, calls: int) -> None:
        if calls < self.size:
            return
        if self._grown:
            self._answers_wanted, self._grown = max(ANSWERS_BEFORE_GROWTH, self._answers_wanted // 2), 0
        if self.size < self.ceiling:
            self._answers += 1
            if self._answers >= self._answers_wanted:
                step = min(self.ceiling // 10, self.size // 2) if self._careful else self.ceiling // 10
                self._grown = min(max(1, step), self.ceiling - self.size)
                self.size, self._answers = self.size + self._grown, 0
