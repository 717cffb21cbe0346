"""Endpoint health: how one endpoint has behaved, what it does not serve, and why it is set aside. Pure.

Times are seconds of one monotonic clock. Counts go to the database as differences, so that several processes may add to
them and a restart forgets nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from indexer.chain.types import Header
from indexer.rpc.rate_limit import doubled_pause

Reason = Literal["failing", "lagging", "pruned", "omitting", "mute", "contradicting", "wrong chain"]
# If all endpoints are set aside, the one with the least severe reason is asked first: old data are better than none.
SEVERITY: dict[Reason, int] = {
    "lagging": 1, "failing": 2, "mute": 3, "pruned": 4, "omitting": 5, "contradicting": 6, "wrong chain": 7
}  # fmt: skip
# Reasons that outlive a restart. Others are checked afresh at each start, or hold for one purpose, which is not stored.
LASTING: tuple[Reason, ...] = ("mute", "omitting", "contradicting")
COUNTS = ("requests", "failures", "limited", "disagreements", "omissions", "set_aside")
SET_ASIDE_S, MAX_SET_ASIDE_S = 60.0, 900.0  # Doubled each time it happens again for the same reason.
FAILING_S = 5.0  # After a failed log batch or other work.
HALF_LIFE_S = 120.0  # After this time an outcome counts half in the error rate.
LAG_BLOCKS, LAG_SECONDS = 4, 4.0  # An endpoint lags if it is behind the best of the others by both.
RETRY_S, MAX_RETRY_S = 60.0, 3600.0  # Until what was refused is tried again; doubled each time it is refused again.
FRESH_HEAD_S = 60.0  # A head seen longer ago says nothing about the other endpoints.


@dataclass(frozen=True, slots=True)
class SetAside:
    """Why and until when (monotonic, s) an endpoint is asked last; `purpose`: only for that purpose, None: for all.

    A single purpose is given if the endpoint lacks something that only this purpose needs.
    """

    reason: Reason
    detail: str
    until: float
    purpose: str | None = None

    def holds(self, now: float, purpose: str) -> bool:
        """Return whether the endpoint is set aside for a purpose now."""
        return now < self.until and self.purpose in (None, purpose)


@dataclass(slots=True)
class Refused:
    """Why a method or tag is not served, until when it is not asked for, and the pause after that (s).

    `transient`: it may work in a moment; nothing says that the endpoint does not have it.
    """

    why: str
    until: float
    pause: float
    transient: bool


class MethodSupport:
    """The methods and tags that one endpoint refuses, by name. What is not listed is believed to be served.

    Providers refuse a method that they do not serve under a dozen codes, so the code decides nothing: what counts is
    that questions are refused that must be answered.
    """

    def __init__(self) -> None:
        self._refused: dict[str, Refused] = {}

    def refused(
        self, name: str, now: float, why: str, *, pause: float = RETRY_S, longest: float = MAX_RETRY_S,
        transient: bool = False,
    ) -> bool:  # fmt: skip
        """Record that the endpoint does not serve `name`. Return whether that is news.

        Args:
            name: method or tag.
            now: monotonic time (s).
            why: the endpoint's words.
            pause: time until it is tried again, the first time (s).
            longest: longest such time; it doubles with each refusal (s).
            transient: whether it may work in a moment.
        """
        known = self._refused.get(name)
        pause = pause if known is None else min(2 * known.pause, longest)
        self._refused[name] = Refused(why, now + pause, pause, transient)
        return known is None or known.transient != transient

    def answered(self, name: str) -> bool:
        """Record that the endpoint serves `name`. Return whether that is news."""
        return self._refused.pop(name, None) is not None

    def get(self, name: str) -> Refused | None:
        """Return why `name` is not served; None if it is, as far as is known."""
        return self._refused.get(name)

    def rests(self, name: str, now: float) -> bool:
        """Return whether `name` was refused and is not to be asked for yet."""
        known = self._refused.get(name)
        return known is not None and now < known.until

    def reasons(self) -> dict[str, str]:
        """Return the endpoint's words by method or tag, sorted; empty if it serves everything it was asked for."""
        return {name: known.why for name, known in sorted(self._refused.items())}


@dataclass(slots=True)
class EndpointHealth:
    """Health of one endpoint.

    `head`, when it was seen (`head_at`), and its `lag` behind the best of the other endpoints (blocks); None until
    known. `error_rate` is a weighted share of requests without a usable answer; `latency` is smoothed (s).
    """

    head: Header | None = None
    head_at: float = float("-inf")
    lag: int | None = None
    chain_id: int | None = None
    latency: float | None = None
    last_error: str = ""
    aside: SetAside | None = None
    support: MethodSupport = field(default_factory=MethodSupport)
    _good: float = 0.0
    _bad: float = 0.0
    _weighed_at: float = 0.0
    _streak: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # Keys: COUNTS.
    _saved: Counter[str] = field(default_factory=Counter)

    def answered(self, now: float, seconds: float) -> None:
        """Record a request that was answered after `seconds`."""
        self._weigh(now)
        self._good += 1
        self.counts["requests"] += 1
        self.latency = seconds if self.latency is None else 0.9 * self.latency + 0.1 * seconds

    def failed(self, now: float, error: str, *, limited: bool = False) -> None:
        """Record a request without a usable answer; `limited`: refused for its rate, not a failure of the node."""
        self.counts["requests"] += 1
        if limited:
            self.counts["limited"] += 1
            return
        self._weigh(now)
        self._bad += 1
        self.counts["failures"] += 1
        self.last_error = error

    def error_rate(self, now: float) -> float:
        """Return the error rate, from 0 to 1; a single failure in a quiet hour does not make it 1."""
        self._weigh(now)
        return self._bad / max(4.0, self._good + self._bad)

    def _weigh(self, now: float) -> None:
        if now > self._weighed_at:
            decay = 0.5 ** ((now - self._weighed_at) / HALF_LIFE_S)
            self._good, self._bad, self._weighed_at = self._good * decay, self._bad * decay, now

    def observe_head(self, head: Header, now: float, best: Header | None) -> bool:
        """Record a head of this endpoint. Return whether it lags behind `best`, the best recent head of the others."""
        self.head, self.head_at = head, now
        if best is None:
            self.lag = None
            return False
        self.lag = max(0, best.number - head.number)
        return self.lag >= LAG_BLOCKS and best.timestamp - head.timestamp >= LAG_SECONDS

    def set_aside(
        self, now: float, reason: Reason, detail: str, seconds: float | None = None, purpose: str | None = None
    ) -> SetAside | None:  # fmt: skip
        """Set the endpoint aside.

        Args:
            now: monotonic time (s).
            reason: why.
            detail: explanation for people.
            seconds: duration (s); None: each time in a row lasts twice as long, up to MAX_SET_ASIDE_S.
            purpose: only for this purpose; None: for all.

        Returns:
            None if it is already set aside for a reason at least as severe.
        """
        previous = self.aside
        if previous and previous.holds(now, purpose or "") and SEVERITY[previous.reason] >= SEVERITY[reason]:
            return None
        # In a row means: for the same reason, not long after it came back.
        again = previous is not None and previous.reason == reason and now - previous.until < 4 * SET_ASIDE_S
        self._streak = self._streak + 1 if again else 0
        duration = doubled_pause(SET_ASIDE_S, self._streak, MAX_SET_ASIDE_S) if seconds is None else seconds
        self.aside = SetAside(reason, detail, now + duration, purpose)
        if reason != "failing":
            self.counts["set_aside"] += 1
        return self.aside

    def restore(self, now: float, reason: Reason, detail: str, seconds: float) -> None:
        """Set the endpoint aside as an earlier process did, without counting it again.

        Args:
            now: monotonic time (s).
            reason: why.
            detail: explanation for people.
            seconds: time that is left (s), at most MAX_SET_ASIDE_S.
        """
        self.aside = SetAside(reason, detail, now + min(seconds, MAX_SET_ASIDE_S))

    def clear_set_aside(self, now: float, *reasons: Reason) -> bool:
        """End being set aside for one of the reasons. Return whether it was."""
        if self.aside and self.aside.reason in reasons and now < self.aside.until:
            self.aside = None
            return True
        return False

    def severity(self, now: float, purpose: str) -> int:
        """Return the severity for a purpose: endpoints are asked in ascending order of it, 0 first."""
        return SEVERITY[self.aside.reason] if self.aside and self.aside.holds(now, purpose) else 0

    def state(self, now: float) -> str:
        """Return the state for people: well, unknown, or why it is set aside."""
        if self.aside and now < self.aside.until:
            return self.aside.reason
        return "well" if self.counts["requests"] > self.counts["failures"] + self.counts["limited"] else "unknown"

    def reason(self, now: float) -> str:
        """Return why it is set aside, else which methods and tags it refuses; "" if it is well and serves all."""
        if self.aside and now < self.aside.until:
            return self.aside.detail
        refused = "; ".join(f"{name}: {why}" for name, why in self.support.reasons().items())
        return f"refuses {refused}" if refused else ""

    def pending_counts(self) -> Counter[str]:
        """Return the counts that `mark_saved` has not seen yet."""
        return Counter({name: n - self._saved[name] for name, n in self.counts.items() if n > self._saved[name]})

    def mark_saved(self, counts: Counter[str]) -> None:
        """Record that these counts are in the database now."""
        self._saved.update(counts)
