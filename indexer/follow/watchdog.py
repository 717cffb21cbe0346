"""Sees that a process gets on: collects the signs, says what is stuck, and does what heals it.

What heals: a mute socket is closed, and the next one opened; an endpoint that does not answer is set aside, and the
step begun again with another; a connection whose server is silent is cut, and a new one made; what else is stuck for
long is begun again. A lock and a slow statement are ended by the server's own limits. Until then /ready is red.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import asyncpg
import structlog

from indexer.db.connection import STATEMENT_TIMEOUT_S, Connect, MonitoredConnection, close
from indexer.db.database_errors import DATABASE_ERRORS, root_cause
from indexer.errors import error_label
from indexer.follow.catch_up import CatchUp
from indexer.follow.stall_detector import STATEMENT_LIMIT_S, LivenessSignals, Stall, StallDetector
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress

CHECK_INTERVAL_S = 1.0  # seconds
ASK_TIMEOUT_S = 5.0  # seconds in which a living server answers
REPEAT_AFTER_S = 20.0  # seconds between two tries to heal the same
LOST = 300.0  # seconds without progress after which a step is begun again though nothing says why it is stuck
STOPPED = 10.0  # seconds between two turns: this process was stopped itself, and knows nothing of the time between

_DOES = """
SELECT a.wait_event_type = 'Lock', (SELECT string_agg(b.application_name || ' (pid ' || b.pid || ')', ', ')
  FROM pg_stat_activity b WHERE b.pid = ANY(pg_blocking_pids(a.pid)))
FROM pg_stat_activity a WHERE a.pid = $1
"""

log = structlog.get_logger()


class RunningStep(NamedTuple):
    """The step of the daemon's loop. `since`: monotonic seconds since when it is under way, None between steps.
    `restart` ends it, to be begun anew, and takes the reason."""

    since: Callable[[], float | None]
    restart: Callable[[str], None]


class Watchdog:
    """Watches one step of the loop. `connections`: those that its statements run on; `connect` opens another, to ask
    the server about them."""

    def __init__(
        self, watch: StallDetector, progress: DaemonProgress, pool: Pool, bulk: CatchUp, feed: HeadFeed | None,
        connect: Connect, connections: Callable[[], Iterable[MonitoredConnection]], step: RunningStep,
    ) -> None:  # fmt: skip
        self.detector, self.progress, self.pool, self.catch_up, self.feed = watch, progress, pool, bulk, feed
        self._connect, self._connections, self._step = connect, connections, step
        self._turned = self._awake_at = progress.clock()
        self._found: dict[str, float] = {}  # name -> when
        self._healed: dict[str, float] = {}  # name -> when it was tried last

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self.check_once()
            except Exception as error:  # one look less is better than none from now on
                log.error("watchdog_failed", error=" ".join(f"{error_label(error)}: {error}".split()))

    async def check_once(self) -> list[Stall]:
        """One look: what is stuck, after what heals it was begun."""
        now = self.progress.clock()
        late, self._turned = now - self._turned > STOPPED, now
        if late:
            self._awake_at = now
        if self.feed is not None:
            await self.feed.check_mute()
        hung = self._longest()
        server = await self._ask_server(hung) if hung else ""
        stuck = self.detector.observe(self._signs(hung, server))
        self._report(stuck)
        for one in stuck:
            if self.progress.clock() - self._healed.get(one.name, float("-inf")) >= REPEAT_AFTER_S:
                self._healed[one.name] = self.progress.clock()
                self._recover(one, hung, server)
        return stuck

    def _longest(self) -> MonitoredConnection | None:
        """The connection whose statement takes longest, when it is long enough to ask."""
        busy = [conn for conn in self._connections() if conn.current_statement and not conn.is_closed()]
        longest = min(busy, key=lambda conn: conn.current_statement[1] if conn.current_statement else 0.0, default=None)
        if longest is None or longest.current_statement is None:
            return None
        if self.progress.clock() - max(longest.current_statement[1], self._awake_at) < STATEMENT_LIMIT_S:
            return None
        return longest

    async def _ask_server(self, hung: MonitoredConnection) -> str:
        """What the server does with a statement, asked over another connection."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                conn = await self._connect()
                try:
                    row = await conn.fetchrow(_DOES, hung.get_server_pid())
                finally:
                    asyncio.ensure_future(close(conn))  # noqa: RUF006 - ends by itself within 5 seconds
        except DATABASE_ERRORS as error:
            if isinstance(root_cause(error), asyncpg.PostgresError):
                return "working"  # it refused us a connection: it speaks
            return "silent"
        if row is None:
            return "silent"  # it does not know the connection any more
        if row[0]:
            return f"lock of {row[1] or 'another session'}"
        return "working" if hung.patience <= STATEMENT_TIMEOUT_S else "working on what takes its time"

    def _signs(self, hung: MonitoredConnection | None, server: str) -> LivenessSignals:
        p, endpoints = self.progress, [reader.endpoint for reader in self.pool.readers]
        open_requests = [(sent, e.name, method) for e in endpoints for method, sent in e.under_way.values()]
        oldest = min(open_requests, default=None)
        connections = list(self._connections())
        # A statement under way is progress until the server says otherwise, and so is waiting for a cap of ours.
        running = [p.clock() for conn in connections if conn.current_statement and hung is None]
        held = max(self.pool.budgets.held_until, *(e.held_until for e in endpoints))
        active = max([
            p.last_step_at, p.looked_at, self._awake_at, self.catch_up.last_heartbeat_at, min(held, p.clock()),
            *running,
            *(conn.done_at for conn in connections), *(e.served_at for e in endpoints),
        ])  # fmt: skip
        return LivenessSignals(
            p.clock(), self._step.since(), active,
            (oldest[1], oldest[2], max(oldest[0], self._awake_at)) if oldest else None,
            hung.current_statement if hung is not None else None, server, self.catch_up.blocked_since,
            self.feed.mute if self.feed is not None else "", p.head, p.looked_at,
        )  # fmt: skip

    def _report(self, stuck: list[Stall]) -> None:
        """Names what is stuck once, and what is not any more: a step only when the head was seen since."""
        p, now = self.progress, self.progress.clock()
        for one in stuck:
            if one.name not in self._found:
                p.found_stuck[one.name] += 1
                log.error("watchdog", stuck=one.name, detail=one.detail)
            self._found[one.name] = now
            p.stuck[one.name] = one.detail
        for name in self._found.keys() - {one.name for one in stuck}:
            if name in ("websocket", "head") or p.looked_at > self._found[name]:
                del self._found[name], p.stuck[name]
                log.info("watchdog_healed", stuck=name)

    def _recover(self, one: Stall, hung: MonitoredConnection | None, server: str) -> None:
        match one.name:
            case "poll":
                self.pool.set_aside(one.subject, one.detail, "mute")
                self._step.restart(one.detail)
            case "statement" if server == "silent" and hung is not None:
                with contextlib.suppress(Exception):
                    hung.terminate()
                self._step.restart(one.detail)
            case "queue" | "step" if one.seconds > LOST:
                self._step.restart(one.detail)
