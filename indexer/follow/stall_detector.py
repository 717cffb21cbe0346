"""Detection of what is stuck, and since when. Pure: the watchdog collects the signals and triggers the recovery.

Progress is expected within a limit that follows from the chain's pace. While a step is under way, any progress counts
(an answer of an endpoint, the end of a statement, a commit). The head must progress if it moved steadily until now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# websocket: a socket announces nothing. poll: an endpoint does not answer. statement: the server does not answer. lock:
# a session holds what the step needs. queue: ingesting waits for a projection that makes no progress. step: none of
# these. head: the chain stands still, or every endpoint of it does.
Name = Literal["websocket", "poll", "statement", "lock", "queue", "step", "head"]
MIN_LIMIT_S, MAX_LIMIT_S = 15.0, 40.0  # bounds of the time without progress, whatever the chain's pace
LIMIT_BLOCKS = 20  # time without progress, in block times
STATEMENT_LIMIT_S = 20.0  # for a statement, before the server is asked what it does
SLOW_STATEMENT_S = 40.0  # after which a statement that the server works on is reported as slow
MIN_PACE_S, MIN_PACE_MOVES = 60.0, 10  # time and moves of the head after which its pace is known
MIN_STILL_S = 30.0  # without a new head, before the head is reported as standing still


@dataclass(frozen=True, slots=True)
class Stall:
    """One thing that is stuck.

    `name`: for metrics. `detail`: for people. `subject`: the endpoint. `seconds`: without progress (s).
    """

    name: Name
    detail: str
    subject: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LivenessSignals:
    """Signals of one look. All times are monotonic (s).

    Args:
        now: Time of this look.
        began: When the running step began; None between steps.
        active: Last answer, end of a statement, commit or message from a worker.
        request: Endpoint, method and send time of the oldest unanswered request, whatever else makes progress.
        statement: Text and start of the statement that has run longest.
        server: What the server said it does with that statement ("working", "lock of ...", "silent"); "" if not asked.
        full: When ingesting began to wait for room; None if it does not wait.
        mute: Endpoint whose WebSocket is mute, or "".
        head: Head as last seen; -1 if none.
        looked: When the head was last looked at.
    """

    now: float
    began: float | None = None
    active: float = 0.0
    request: tuple[str, str, float] | None = None
    statement: tuple[str, float] | None = None
    server: str = ""
    full: float | None = None
    mute: str = ""
    head: int = -1
    looked: float = 0.0


class HeadPace:
    """The pace of the head, from the times at which new heads were seen."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=400)

    def observe(self, now: float, head: int) -> None:
        """Record a head, if it is higher than all before."""
        if not self._seen or head > self._seen[-1][1]:
            self._seen.append((now, head))

    @property
    def block_time(self) -> float | None:
        """Time per block (s); None while unknown."""
        if len(self._seen) < 2:
            return None
        (first, low), (last, high) = self._seen[0], self._seen[-1]
        return (last - first) / (high - low)

    @property
    def is_known(self) -> bool:
        """Whether enough moves of the head were seen to expect the next one."""
        return len(self._seen) > MIN_PACE_MOVES and self._seen[-1][0] - self._seen[0][0] >= MIN_PACE_S

    def stalled_for(self, looked: float) -> tuple[float, float] | None:
        """Return how long the head has stood still and the limit that this exceeds (s); None within the limit.

        The time counts from the last new head to the last look.
        """
        if not self.is_known:
            return None
        times = [at for at, _ in self._seen]
        longest = max(b - a for a, b in pairwise(times))
        limit, waited = max(MIN_STILL_S, 3 * longest), looked - times[-1]
        return (waited, limit) if waited > limit else None


class StallDetector:
    """Decides what is stuck.

    `least`: time that a single request may take in any case (s). `poll`: time between looks at the head (s).
    """

    def __init__(self, least: float = 20.0, poll: float = 0.25) -> None:
        self.pace = HeadPace()
        self._least, self._poll = least, poll

    @property
    def limit(self) -> float:
        """Time within which a step must make progress (s)."""
        expected = LIMIT_BLOCKS * self.pace.block_time if self.pace.block_time is not None else MAX_LIMIT_S
        return max(min(max(expected, MIN_LIMIT_S), MAX_LIMIT_S), self._least + 10)

    def observe(self, signs: LivenessSignals) -> list[Stall]:
        """Return what is stuck now, each name once."""
        if signs.head >= 0:
            self.pace.observe(signs.now, signs.head)
        stalls = []
        if signs.mute:
            detail = f"{signs.mute} announces no head though it moves; polling goes on, the socket is opened anew"
            stalls.append(Stall("websocket", detail, signs.mute))
        step = self._step(signs)
        if step is not None:
            stalls.append(step)
        stalled = self.pace.stalled_for(signs.looked)
        if stalled is not None and step is None:
            stalls.append(
                Stall("head", f"no new block for {stalled[0]:.0f} s, one was expected within {stalled[1]:.0f} s")
            )
        return stalls

    def _step(self, signs: LivenessSignals) -> Stall | None:
        """Return the one thing that keeps a step from making progress."""
        if signs.statement is not None:
            return self._statement(signs.statement[0], signs.now - signs.statement[1], signs.server)
        if signs.began is None:
            return None
        if signs.request is not None and signs.now - signs.request[2] > self.limit:
            endpoint, method, sent = signs.request
            return Stall("poll", f"{endpoint} has not answered {method} for {signs.now - sent:.0f} s", endpoint)
        waited = signs.now - max(signs.began, signs.active)
        if waited <= self.limit:
            return None
        if signs.full is not None:
            return Stall(
                "queue", f"ingesting has waited {signs.now - signs.full:.0f} s for the projection", seconds=waited
            )
        return Stall("step", f"nothing came of the step under way for {waited:.0f} s", seconds=waited)

    def _statement(self, text: str, seconds: float, server: str) -> Stall | None:
        statement = " ".join(text.split())[:60]
        if server.startswith("lock"):
            return Stall("lock", f"{statement!r} has waited {seconds:.0f} s for a {server}")
        if server == "silent":
            return Stall(
                "statement", f"the server has not answered {statement!r} for {seconds:.0f} s, nor anything else"
            )
        if server == "working" and seconds > SLOW_STATEMENT_S:
            return Stall("statement", f"{statement!r} has taken {seconds:.0f} s: the database is slow")
        return None
