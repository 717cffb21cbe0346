"""The status document of a running daemon: a recent reading of the database, and what only the process knows.

However many clients ask for it, the database is read at most every MAX_AGE_S seconds, over a separate connection.
Whatever the database does, an answer comes within ANSWER_TIMEOUT_S seconds and says how old it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from indexer import __version__
from indexer.config import Deployment
from indexer.db.connection import STATEMENT_TIMEOUT_S, Connection, close, connect
from indexer.ops.status import NO_HEADS, Heads, SlowPart, build_status, slow_part
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.progress import DaemonProgress, wait_name
from indexer.runtime.tasks import cancel_and_wait

MAX_AGE_S = 2.0  # A reading of the database older than this is refreshed (s).
ANSWER_TIMEOUT_S = 3.0  # How long an answer waits for the database (s).
MAX_READ_S = 60.0  # After this, a reading fails and its connection is closed (s).
# Time between readings of the slow part (s), and at least TIMES_COST times as long as the last one took.
SLOW_INTERVAL_S = 30.0
TIMES_COST = 20
SAMPLES, SAMPLE_INTERVAL_S = 150, 2.0  # Number of samples in the history, and time between them (s).
READING = {"statement_timeout": "20s", "lock_timeout": "2s"}

log = structlog.get_logger()


class LiveStatus:
    """The daemon's status. `url` is None until the database is known; `heads` names how new heads are noticed."""

    def __init__(self, deployment: Deployment, progress: DaemonProgress, pool: Pool) -> None:
        self.deployment, self.progress, self.pool = deployment, progress, pool
        self.url: str | None = None
        self.heads: Callable[[], str] = lambda: "none yet"
        self.stored: dict[str, Any] = {"chain": deployment.name, "bound": None, **NO_HEADS}
        self.read_at: float | None = None  # When `stored` was read (monotonic s).
        self._error: str | None = None
        self._conn: Connection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._slow_part: SlowPart = {}
        self._slow_part_due = 0.0
        self._samples: deque[tuple[float, ...]] = deque(maxlen=SAMPLES)
        self._started = time.time()

    def start(self) -> None:
        """Start sampling the history in the background."""
        self._sampling = asyncio.create_task(self._sample())

    async def close(self) -> None:
        """Stop all background work and close the connection."""
        await cancel_and_wait(*(task for task in (self._sampling, self._reading) if task is not None))
        await close(self._conn)

    async def refresh(self) -> None:
        """Read the database again if the last reading is older than MAX_AGE_S. Never raises."""
        now = time.monotonic()
        if self.url is None or (self.read_at is not None and now - self.read_at < MAX_AGE_S):
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(self.url))
        done, _ = await asyncio.wait({self._reading}, timeout=ANSWER_TIMEOUT_S)
        if not done:
            self._error = f"no answer within {ANSWER_TIMEOUT_S:g} seconds"

    async def document(self) -> dict[str, Any]:
        """Return the document of `reya-indexer status --json`, with `as_of` (unix s), `database_error` and `live`."""
        await self.refresh()
        return self.stored | (self._heads() if self._error else {}) | {"live": self._now()}

    async def _read(self, url: str) -> None:
        try:
            async with asyncio.timeout(MAX_READ_S):
                if self._conn is None:
                    self._conn = await connect(url, timeout_s=STATEMENT_TIMEOUT_S, **READING)
                self.stored = await self._document(self._conn) | {"as_of": round(time.time(), 3)}
            self.read_at, self._error = time.monotonic(), None
        except Exception as error:  # Whatever the database does, /ready and /metrics keep answering.
            self._error = " ".join(str(error).split())[:300] or type(error).__name__
            log.debug("status_unread", error=self._error)
            conn, self._conn = self._conn, None
            await close(conn)

    async def _document(self, conn: Connection) -> dict[str, Any]:
        began = time.monotonic()
        if began >= self._slow_part_due:
            self._slow_part = await slow_part(conn, self.deployment)
            now = time.monotonic()
            self._slow_part_due = now + max(SLOW_INTERVAL_S, TIMES_COST * (now - began))
        return await build_status(conn, self.deployment, self._heads(), self._slow_part)

    def _heads(self) -> Heads:
        p = self.progress
        known = {"head": p.head, "safe": p.safe, "finalized": p.finalized}
        return NO_HEADS | {k: v if v >= 0 else None for k, v in known.items()} | {"head_time": p.head_time or None}

    def _now(self) -> dict[str, Any]:
        p, reasons = self.progress, self.progress.reasons_not_ready()
        waiting = {"for": p.waiting, "name": wait_name(p.waiting), "seconds": round(p.clock() - p.waiting_since, 1)}
        return {
            "version": __version__,
            "started_at": round(self._started, 3),
            "now": round(time.time(), 3),
            "ready": not reasons,
            "reasons": reasons,
            "mode": p.mode,
            "holds_lease": p.holder,
            "waiting": waiting if p.waiting else None,
            "database_error": self._error,
            "heads": self.heads(),
            "finality": p.finality_source,
            "head_proof": p.head_proof.state,
            "lag_blocks": p.lag_blocks,
            "lag_seconds": p.lag_seconds,
            "rates": self._rates(),
            "history": {
                "every_seconds": SAMPLE_INTERVAL_S,
                "lag_blocks": [int(s[5]) for s in self._samples],
                "logs": [int(s[2]) for s in self._samples],
            },
            "endpoints": endpoints(self.pool),
        }

    def _rates(self) -> dict[str, float]:
        """Return rates (per second) over the last 20 s."""
        names = ("blocks", "logs", "rows", "requests")
        recent = list(self._samples)[-11:]
        if len(recent) < 2:
            return dict.fromkeys(names, 0.0)
        (first, *before), (last, *after) = recent[0], recent[-1]
        return {name: round((b - a) / (last - first), 2) for name, a, b in zip(names, before, after, strict=False)}

    async def _sample(self) -> None:
        p = self.progress
        while True:
            logs = max(p.logs, p.events)  # A catch-up from stored logs ingests nothing; only `events` grows.
            counts = (max(p.projected, p.ingested), logs, sum(p.rows.values()), self.pool.requests, p.lag_blocks)
            self._samples.append((time.monotonic(), *counts))
            await asyncio.sleep(SAMPLE_INTERVAL_S)


def endpoints(pool: Pool) -> list[dict[str, Any]]:
    """Return the process's view of each endpoint, in the order in which they are asked, JSON-ready."""
    return [_describe(pool, reader, current=index == 0) for index, reader in enumerate(pool.ordered())]


def _describe(pool: Pool, reader: Reader, *, current: bool) -> dict[str, Any]:
    endpoint, calls = reader.endpoint, dict[str, dict[str, int]]()
    for (method, outcome), count in endpoint.outcomes.items():
        calls.setdefault(method, {})[outcome] = count
    return {
        "endpoint": reader.name, "current": current, "requests": endpoint.requests, "range_blocks": reader.ranges.size,
        "aside_seconds": round(pool.aside(reader.name), 1), "errors": dict(endpoint.errors), "calls": calls,
        "refuses": endpoint.health.support.reasons(),
    }  # fmt: skip
