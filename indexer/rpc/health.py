"""What one endpoint has been like, and why it is asked last for a while. Pure; times are seconds of one monotonic
clock.

Counts go to the database as differences, so that several processes may add to them and a restart forgets nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from indexer.chain.types import Header

Reason = Literal["failing", "lagging", "pruned", "omitting", "mute", "contradicting", "wrong chain"]
# Of endpoints that are all set aside the one with the least reason is asked first: old data are better than none.
SEVERITY: dict[Reason, int] = {
    "lagging": 1, "failing": 2, "mute": 3, "pruned": 4, "omitting": 5, "contradicting": 6, "wrong chain": 7
}  # fmt: skip
# Outlive a restart. The others are looked at anew at each start, or hold for one purpose, which is not stored.
LASTING: tuple[Reason, ...] = ("mute", "omitting", "contradicting")
COUNTS = ("requests", "failures", "limited", "disagreements", "omissions", "set_aside")
SET_ASIDE_S, MAX_SET_ASIDE_S = 60.0, 900.0  # seconds; doubled each time it comes to the same again
FAILING_S = 5.0  # seconds after a failed unit
HALF_LIFE_S = 120.0  # seconds in which an outcome counts half in the error rate
LAG_BLOCKS, LAG_SECONDS = 4, 4.0  # behind the best of the others by as much, in blocks and in their time: it lags
FRESH = 60.0  # seconds for which a head that was seen says something about the others


@dataclass(frozen=True, slots=True)
class SetAside:
    """Why and until when an endpoint is asked last; `purpose`: only for that one, where the reason is what it lacks."""

    reason: Reason
    detail: str
    until: float
    purpose: str | None = None

    def holds(self, now: float, purpose: str) -> bool:
        return now < self.until and self.purpose in (None, purpose)


@dataclass(slots=True)
class EndpointHealth:
    """`head`, when it was seen, and `lag` behind the best of the others in blocks; None until known. `error_rate` is a
    weighted share of requests that got no usable answer, `latency` seconds, smoothed."""

    head: Header | None = None
    head_at: float = float("-inf")
    lag: int | None = None
    chain_id: int | None = None
    latency: float | None = None
    last_error: str = ""
    aside: SetAside | None = None
    _good: float = 0.0
    _bad: float = 0.0
    _weighed_at: float = 0.0
    _streak: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # of COUNTS
    _saved: Counter[str] = field(default_factory=Counter)

    def answered(self, now: float, seconds: float) -> None:
        self._weigh(now)
        self._good += 1
        self.counts["requests"] += 1
        self.latency = seconds if self.latency is None else 0.9 * self.latency + 0.1 * seconds

    def failed(self, now: float, error: str, *, limited: bool = False) -> None:
        """A request that brought nothing; `limited`: refused for its rate, which is no failure of the node."""
        self.counts["requests"] += 1
        if limited:
            self.counts["limited"] += 1
            return
        self._weigh(now)
        self._bad += 1
        self.counts["failures"] += 1
        self.last_error = error

    def error_rate(self, now: float) -> float:
        """From 0 to 1; one failure in a quiet hour is not 1."""
        self._weigh(now)
        return self._bad / max(4.0, self._good + self._bad)

    def _weigh(self, now: float) -> None:
        if now > self._weighed_at:
            faded = 0.5 ** ((now - self._weighed_at) / HALF_LIFE_S)
            self._good, self._bad, self._weighed_at = self._good * faded, self._bad * faded, now

    def observe_head(self, head: Header, now: float, best: Header | None) -> bool:
        """A head of this endpoint, beside the `best` that others showed lately. Whether it lags."""
        self.head, self.head_at = head, now
        if best is None:
            self.lag = None
            return False
        self.lag = max(0, best.number - head.number)
        return self.lag >= LAG_BLOCKS and best.timestamp - head.timestamp >= LAG_SECONDS

    def set_aside(
        self, now: float, reason: Reason, detail: str, seconds: float | None = None, purpose: str | None = None
    ) -> SetAside | None:  # fmt: skip
        """None when it is set aside already, for as much. Without `seconds` each time in a row lasts twice as long."""
        was = self.aside
        if was and was.holds(now, purpose or "") and SEVERITY[was.reason] >= SEVERITY[reason]:
            return None
        # Twice in a row: for the same, not long after it came back.
        again = was is not None and was.reason == reason and now - was.until < 4 * SET_ASIDE_S
        self._streak = self._streak + 1 if again else 0
        for_seconds = min(SET_ASIDE_S * 2**self._streak, MAX_SET_ASIDE_S) if seconds is None else seconds
        self.aside = SetAside(reason, detail, now + for_seconds, purpose)
        if reason != "failing":
            self.counts["set_aside"] += 1
        return self.aside

    def restore(self, now: float, reason: Reason, detail: str, seconds: float) -> None:
        """Set aside by an earlier process, which counted it."""
        self.aside = SetAside(reason, detail, now + min(seconds, MAX_SET_ASIDE_S))

    def clear_set_aside(self, now: float, *reasons: Reason) -> bool:
        """Ends being set aside for one of the reasons; whether it was."""
        if self.aside and self.aside.reason in reasons and now < self.aside.until:
            self.aside = None
            return True
        return False

    def severity(self, now: float, purpose: str) -> int:
        """By which endpoints are asked, smallest first."""
        return SEVERITY[self.aside.reason] if self.aside and self.aside.holds(now, purpose) else 0

    def state(self, now: float) -> str:
        """For people: well, unknown, or why it is set aside."""
        if self.aside and now < self.aside.until:
            return self.aside.reason
        return "well" if self.counts["requests"] > self.counts["failures"] + self.counts["limited"] else "unknown"

    def pending_counts(self) -> Counter[str]:
        """Counts since the last call of `told`."""
        return Counter({name: n - self._saved[name] for name, n in self.counts.items() if n > self._saved[name]})

    def mark_saved(self, news: Counter[str]) -> None:
        """These are in the database now."""
        self._saved.update(news)
