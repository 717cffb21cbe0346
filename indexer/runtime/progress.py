"""A process's knowledge of itself, for log lines, /ready, /status, /metrics and progress bars. No I/O."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BLOCKS = (1, 2, 5, 10, 50, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DEPTHS = (1, 2, 4, 8, 16, 32, 64, 256, 1_024, 16_384)


class Histogram:
    """Counts by bucket; `bounds` ascend, and a value counts in the first bucket whose bound it does not exceed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, int]]:
        """Return (bound, number of values not above it) pairs, the last one for "+Inf"."""
        buckets, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        return buckets


ATTEST_OFF, ATTEST_STARTING = "off", "starting"


@dataclass(slots=True)
class AttestProgress:
    """Progress of the attestation.

    `up_to` and `newest` are block numbers by grade, -1 until known. `state` is "attesting", "done", or the reason it
    waits. `blocks` counts blocks attested since the start, by grade; `blamed` counts faults by endpoint.
    """

    state: str = ATTEST_OFF
    up_to: dict[str, int] = field(default_factory=lambda: {"cross-checked": -1, "proven": -1})
    newest: dict[str, int] = field(default_factory=lambda: {"cross-checked": -1, "proven": -1})
    blocks: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    healed: int = 0  # Block ranges.
    unprovable: int = 0  # Blocks that kept their grade.
    blamed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class HeadProofProgress:
    """Progress of the proofs of blocks above finalized.

    `newest`: the highest proven block, -1 until known. `unproven`: blocks above the rollback floor that lack a proof.
    `state` says what it does, or why it waits. `blocks` counts blocks proven since the start, `requests` HTTP requests.
    """

    state: str = ATTEST_OFF
    newest: int = -1
    unproven: int = 0
    blocks: int = 0
    requests: int = 0
    healed: int = 0  # Heals of blocks above the rollback floor.


STARTING = "starting"


def wait_name(reason: str) -> str:
    """Strip numbers and anything after a colon from the text of a wait, so that it is constant and fit for a label."""
    return re.sub(r"\d+", "N", reason.partition(":")[0])


@dataclass(slots=True)
class DaemonProgress:
    """Progress of the daemon. Block numbers are -1 until known; times are monotonic (s)."""

    clock: Callable[[], float] = time.monotonic
    head: int = -1
    head_time: int = 0
    safe: int = -1
    finalized: int = -1
    finality_source: str = ""
    origin: int = 0
    ingested: int = -1
    projected: int = -1
    projected_time: int = 0
    holder: bool = False
    mode: str = STARTING
    before_images: int = 0
    waiting: str = STARTING
    waiting_since: float = 0.0
    # When an endpoint last reported its head, and when a step was last committed; 0 before the first.
    looked_at: float = 0.0
    last_step_at: float = 0.0
    wait_ends_with_step: bool = False
    steps: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    logs: int = 0  # Read from the chain.
    events: int = 0  # Projected.
    # Blocks that were missing when the bulk work began, and how many of them are ingested by now.
    to_ingest: int = 0
    blocks: int = 0
    bulk_from: int | None = None  # The last block that was projected when the bulk work began.
    reorgs: int = 0
    regressions: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    attest: AttestProgress = field(default_factory=AttestProgress)
    head_proof: HeadProofProgress = field(default_factory=HeadProofProgress)
    stuck: dict[str, str] = field(default_factory=dict)  # Findings of the watchdog by name, until resolved.
    found_stuck: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)  # Waits begun, by name.
    waited: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # Ended waits (s), by name.
    step_blocks: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(lambda: Histogram(BLOCKS)))
    commit_seconds: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(lambda: Histogram(SECONDS)))
    reorg_depth: Histogram = field(default_factory=lambda: Histogram(DEPTHS))

    def __post_init__(self) -> None:
        self.waiting_since = self.clock()

    def set_wait(self, name: str, *, until_step: bool = False) -> bool:
        """Name what the process is waiting for, "" for nothing. Return True if that is news.

        Each wait is logged once (never stall in silence). Another text after the colon is the same wait: it goes on
        since it began, however the trouble words itself. `until_step`: a commit shows that it is over.
        """
        self.wait_ends_with_step = until_step
        if name == self.waiting:
            return False
        if name and wait_name(name) == wait_name(self.waiting):
            self.waiting = name
            return True
        now = self.clock()
        if self.waiting:
            self.waited[wait_name(self.waiting)] += now - self.waiting_since
        if name:
            self.waits[wait_name(name)] += 1
        self.waiting, self.waiting_since = name, now
        return True

    def end_step(self) -> None:
        """Record that a step was committed now."""
        self.last_step_at = self.clock()
        if self.wait_ends_with_step:
            self.set_wait("")
        if self.mode == "halted":  # A refusal of the database is over; a fork that halts allows no step.
            self.mode = "following"

    @property
    def lag_blocks(self) -> int:
        """Blocks between the newest projected block and the head."""
        return max(0, self.head - self.projected) if self.head >= 0 else 0

    @property
    def lag_seconds(self) -> int:
        """Age of the newest projected block relative to the newest known block (s of chain time)."""
        return max(0, self.head_time - self.projected_time) if self.projected_time and self.head_time else 0

    @property
    def not_holding(self) -> str:
        """Why this process does not hold the lease."""
        return "the indexer is starting" if self.mode == STARTING else "another process projects"

    def reasons_not_ready(self, tolerated: float = 10.0) -> list[str]:
        """Return why consumers should not trust the rows to be fresh now; empty if they may.

        Waits no longer than `tolerated` (s) do not count, except while halted.
        """
        reasons = []
        if self.head < 0:
            reasons.append("no head known yet")
        elif self.lag_blocks and self.lag_seconds > 60:
            reasons.append(f"catching up: {self.lag_blocks} blocks, {self.lag_seconds} seconds behind")
        if self.waiting and self.clock() - self.waiting_since > (0 if self.mode == "halted" else tolerated):
            reasons.append(self.waiting)
        return reasons + [f"{name}: {detail}" for name, detail in self.stuck.items()]
