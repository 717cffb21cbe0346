"""A backfill beside or before the daemon. It has no port: its log and its report are what it shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.faults import KINDS
from tests.chaos.kinds import Place
from tests.chaos.signals import Look, Signal
from tests.support.daemon import Daemon
from tests.support.waiting import PATIENCE

ENOUGH = 2 * PATIENCE  # seconds for some hundred blocks, faults included
WORDS = ("event", "endpoint", "waiting_for", "error")


class Backfill:
    """`reya-indexer backfill` with these arguments, from its start on."""

    def __init__(self, arguments: Sequence[str], url: str, log: Path) -> None:
        log.unlink(missing_ok=True)
        self._process = Daemon([*arguments, "--json"], {"DATABASE_URL": url}, log, "backfill")

    @property
    def last(self) -> Look:
        """Its lines as samples of `log`, what it overcame as `backfill_errors` by class."""
        lines = self._process.lines()
        said = [({word: str(line[word]) for word in WORDS if word in line}, 1.0) for line in lines]
        steps = [line["last"] for line in lines if line.get("event") == "step" and line.get("kind") != "ingest"]
        errors = [({"class": name}, float(n)) for line in lines for name, n in (line.get("errors") or {}).items()]
        projected = [({"kind": "projected"}, float(max(steps)))] if steps else []
        if self._process.process.poll() == 0:
            projected = [({"kind": "projected"}, float("inf"))]
        return Look(time.monotonic(), {"log": said, "backfill_errors": errors, "block": projected})

    def goal(self, place: Place) -> int:
        """The next block, or more: that it is done is enough."""
        return int(min(self.last.projected, place.net.tip.number)) + 1

    async def begun(self) -> None:
        """Until it works: one that only starts ends where nothing listens, as it says."""
        await self._until(lambda: any(self.last.total("log", event=name) > 0 for name in ("bound", "origin_lowered")))

    async def finished(self) -> None:
        """Until its end, which must be a good one."""
        await self._until(lambda: self._process.process.poll() is not None)
        code = self._process.process.poll()
        assert code == 0, f"backfill ended with {code}: {self._process.log.read_text()[-2000:]}"

    async def _until(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + ENOUGH
        while not reached():
            assert time.monotonic() < until, f"backfill: {self._process.log.read_text()[-2000:]}"
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        self._process.kill()
        if self._process in Daemon.started:
            Daemon.started.remove(self._process)


def tells(place: Place, kind: str) -> Sequence[Signal]:
    """What of its log or report says that there is such a fault."""
    if KINDS[kind].where == "database":
        return (_line("waiting", waiting_for="the database"),)
    overcome = Signal("report of the backfill: errors", lambda before, now: _overcome(now) > 0)
    if KINDS[kind].where == "all":
        return (_line("waiting", waiting_for="an endpoint that answers"), overcome)
    return (_line("endpoint_failed", endpoint=place.endpoint), _line("waiting", error=place.endpoint), overcome)


def _overcome(look: Look) -> float:
    """Errors, but for a range that was too large: that is how limits are learnt."""
    return look.total("backfill_errors") - look.total("backfill_errors", **{"class": "RangeTooLarge"})


def _line(event: str, **words: str) -> Signal:
    """A log line of this event, whose words begin so."""

    def count(look: Look) -> int:
        return sum(
            said.get("event") == event and all(said.get(word, "").startswith(how) for word, how in words.items())
            for said, _ in look.metrics["log"]
        )

    name = " ".join((event, *(v for k, v in words.items() if k == "waiting_for")))
    return Signal(f"log of the backfill: {name}", lambda before, now: count(now) > count(before))
