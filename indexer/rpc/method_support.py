"""What one endpoint does not serve: methods and tags, found by what it does and tried again now and then. Pure.

Providers refuse a method that they do not serve under a dozen codes, so the code decides nothing: what counts is that
questions are refused that must be answered. Times are seconds of one monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

RETRY_S, MAX_RETRY_S = 60.0, 3600.0  # Until what was refused is tried again; doubled each time it is refused again.


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
    """The methods and tags that one endpoint refuses, by name. What is not listed is believed to be served."""

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
