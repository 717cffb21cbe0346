"""What a daemon shows of itself, looked at all the time: metrics, status, waits; and which of it tells of a fault."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.daemon import get

EVERY = 0.1  # seconds between looks
OLD = 3.0  # seconds; what the database says is older only when it does not answer
_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
PREFIX = "reya_indexer_"


@dataclass(frozen=True)
class Look:
    """`metrics`: by name without the prefix, labels and value; `status`: the document of /status; `at`: when, monotonic
    seconds."""

    at: float
    metrics: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)

    def total(self, name: str, /, **labels: str) -> float:
        """Of all samples that have these labels, whatever others they have."""
        return sum(value for has, value in self.metrics.get(name, ()) if labels.items() <= has.items())

    @property
    def live(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status.get("live") or {}
        return found

    @property
    def projected(self) -> float:
        """A block; -1 while none is known."""
        return self.total("block", kind="projected") if self.metrics.get("block") else -1

    @property
    def current(self) -> str:
        """The endpoint that is asked first."""
        return next((one["endpoint"] for one in self.live.get("endpoints", ()) if one["current"]), "")


class Signal(NamedTuple):
    """`shows`: whether a look tells of the fault, beside one before it began."""

    name: str
    shows: Callable[[Look, Look], bool]


def grew(name: str, /, **labels: str) -> Signal:
    """A counter moved."""
    told = ",".join(f"{key}={value}" for key, value in labels.items() if key != "endpoint")
    return Signal(
        f"metric {PREFIX}{name}" + (f"{{{told}}}" if told else ""),
        lambda before, now: now.total(name, **labels) > before.total(name, **labels),
    )


def aside(endpoint: str, reason: str) -> Signal:
    """The endpoint is asked last, for this reason; it was not before."""

    def held(look: Look) -> float:
        return look.total("endpoint_aside_seconds", endpoint=endpoint, reason=reason)

    return Signal(f"endpoint set aside: {reason}", lambda before, now: held(now) > max(0.0, held(before)))


def waits(reason: str) -> Signal:
    """A named wait, or a reason of /ready, with these words."""

    def shows(before: Look, now: Look) -> bool:
        told = [(now.live.get("waiting") or {}).get("for", ""), *now.live.get("reasons", ())]
        return any(words.startswith(reason) for words in told)

    return Signal(f"wait or /ready: {reason}", shows)


def journal(tells: Callable[[dict[str, Any]], bool], name: str) -> Signal:
    """A reorg of the journal that was not there before."""

    def shows(before: Look, now: Look) -> bool:
        known = {entry["id"] for entry in before.status.get("last_reorgs", ())}
        return any(tells(e) for e in now.status.get("last_reorgs", ()) if e["id"] not in known)

    return Signal(f"journal: {name}", shows)


def incident(kind: str, subject: str) -> Signal:
    """One that is open and counted higher than before."""

    def count(look: Look) -> int:
        return sum(
            one["count"] for one in look.status.get("incidents", ()) if (one["kind"], one["subject"]) == (kind, subject)
        )

    return Signal(f"incident {kind}", lambda before, now: count(now) > count(before))


UNREAD = Signal(
    "status: the database does not answer",
    lambda before, now: bool(now.live.get("database_error")) or now.total("status_age_seconds") > OLD,
)


POLLING = Signal(
    "status: heads by polling, no WebSocket speaks",
    lambda before, now: before.live.get("heads") == "websocket" and str(now.live.get("heads")).startswith("polling"),
)


class Observer:
    """`base`: the daemon's HTTP address. `last`: the newest look. `run` looks until it is cancelled."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.last = Look(time.monotonic())

    def goal(self, place: Any) -> int:
        """The next block of the chain as it is now."""
        return int(place.net.tip.number) + 1

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """One; while the daemon does not answer nothing is new."""
        try:
            (_, text), (_, document) = await asyncio.gather(
                asyncio.to_thread(get, f"{self.base}/metrics"), asyncio.to_thread(get, f"{self.base}/status")
            )
            self.last = Look(time.monotonic(), parsed(text), json.loads(document))
        except (OSError, ValueError):
            await asyncio.sleep(EVERY)


def parsed(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Prometheus' text format: the program's own metrics by name without the prefix."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        if (match := _LINE.match(line)) and not line.startswith("#"):
            name, labels, value = match.groups()
            found.setdefault(name.removeprefix(PREFIX), []).append((dict(_LABEL.findall(labels or "")), float(value)))
    return found
