"""What is stuck, and since when. Pure: the watchdog brings the signs and does what heals.

Progress is expected within a limit that follows from the chain's pace: of anything, while a step is under way (an
answer of an endpoint, an end of a statement, a commit); of the head, where the chain moved steadily until now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# websocket: a socket that announces nothing; poll: an endpoint that does not answer; statement: a server that does not;
# lock: a session that holds what we need; queue: ingesting that waits for a projection that does not come; step: none
# of these; head: a chain that stands still, or every endpoint of it.
Name = Literal["websocket", "poll", "statement", "lock", "queue", "step", "head"]
MIN_LIMIT_S, MAX_LIMIT_S = 15.0, 40.0  # seconds without progress, whatever the chain's pace
LIMIT_BLOCKS = 20  # the same in blocks
STATEMENT_LIMIT_S = 20.0  # seconds a statement may take before the server is asked what it does
SLOW_STATEMENT_S = 40.0  # seconds after which a statement that the server works on is said to be slow
MIN_MOVES_SEEN, MOVES = 60.0, 10  # seconds and moves of the head after which its pace is known
STILL_FACTOR = 30.0  # seconds without a new head, at least, before it is said to stand still


@dataclass(frozen=True, slots=True)
class Stall:
    """`name` for metrics, `detail` for people; `subject`: which endpoint; `seconds` without progress."""

    name: Name
    detail: str
    subject: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LivenessSignals:
    """Times in monotonic seconds. `began`: when the step under way did, None between steps; `active`: the last answer,
    end of a statement, commit or word of a worker; `request`: endpoint, method and sending of the oldest one without an
    answer, whatever else goes on; `statement`: the
    longest under way, `server`: what the server said it does with it (working, lock: who, silent, or not asked);
    `full`: since when ingesting waits for room; `mute`: whose socket is; `head` as seen last, and `looked`: when."""

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
    """How fast the head moves, from when it was seen."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=400)

    def observe(self, now: float, head: int) -> None:
        if not self._seen or head > self._seen[-1][1]:
            self._seen.append((now, head))

    @property
    def block_time(self) -> float | None:
        """Seconds a block, None while unknown."""
        if len(self._seen) < 2:
            return None
        (first, low), (last, high) = self._seen[0], self._seen[-1]
        return (last - first) / (high - low)

    @property
    def is_known(self) -> bool:
        return len(self._seen) > MOVES and self._seen[-1][0] - self._seen[0][0] >= MIN_MOVES_SEEN

    def stalled_for(self, looked: float) -> tuple[float, float] | None:
        """Seconds from the last new head to the last look, and how many were to be expected, where that is too long."""
        if not self.is_known:
            return None
        times = [at for at, _ in self._seen]
        longest = max(b - a for a, b in pairwise(times))
        limit, waited = max(STILL_FACTOR, 3 * longest), looked - times[-1]
        return (waited, limit) if waited > limit else None


class StallDetector:
    """`least`: seconds that a single request may take anyway; `poll`: seconds between looks at the head."""

    def __init__(self, least: float = 20.0, poll: float = 0.25) -> None:
        self.pace = HeadPace()
        self._least, self._poll = least, poll

    @property
    def limit(self) -> float:
        """Seconds within which something must come of a step."""
        expected = LIMIT_BLOCKS * self.pace.block_time if self.pace.block_time is not None else MAX_LIMIT_S
        return max(min(max(expected, MIN_LIMIT_S), MAX_LIMIT_S), self._least + 10)

    def observe(self, signs: LivenessSignals) -> list[Stall]:
        """What is stuck now, each name once."""
        if signs.head >= 0:
            self.pace.observe(signs.now, signs.head)
        found = []
        if signs.mute:
            told = f"{signs.mute} announces no head though it moves; polling goes on, the socket is opened anew"
            found.append(Stall("websocket", told, signs.mute))
        step = self._step(signs)
        if step is not None:
            found.append(step)
        still = self.pace.stalled_for(signs.looked)
        if still is not None and step is None:
            found.append(Stall("head", f"no new block for {still[0]:.0f} s, one was expected within {still[1]:.0f} s"))
        return found

    def _step(self, s: LivenessSignals) -> Stall | None:
        """The one thing that keeps a step from going on."""
        if s.statement is not None:
            return self._statement(s.statement[0], s.now - s.statement[1], s.server)
        if s.began is None:
            return None
        if s.request is not None and s.now - s.request[2] > self.limit:
            endpoint, method, sent = s.request
            return Stall("poll", f"{endpoint} has not answered {method} for {s.now - sent:.0f} s", endpoint)
        waited = s.now - max(s.began, s.active)
        if waited <= self.limit:
            return None
        if s.full is not None:
            return Stall("queue", f"ingesting has waited {s.now - s.full:.0f} s for the projection", seconds=waited)
        return Stall("step", f"nothing came of the step under way for {waited:.0f} s", seconds=waited)

    def _statement(self, text: str, seconds: float, server: str) -> Stall | None:
        what = " ".join(text.split())[:60]
        if server.startswith("lock"):
            return Stall("lock", f"{what!r} has waited {seconds:.0f} s for a {server}")
        if server == "silent":
            return Stall("statement", f"the server has not answered {what!r} for {seconds:.0f} s, nor anything else")
        if server == "working" and seconds > SLOW_STATEMENT_S:
            return Stall("statement", f"{what!r} has taken {seconds:.0f} s: the database is slow")
        return None
