"""Watchdog of a process: it collects the signals, reports what is stuck, and triggers the recovery.

The recovery: a mute socket is closed, and the next one opened. An endpoint that does not answer is set aside, and the
step restarted with another. A connection whose server is silent is cut, and a new one opened. Anything else that is
stuck for long is restarted. A lock and a slow statement are ended by the server's own limits. Until then /ready is red.
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

CHECK_INTERVAL_S = 1.0
ASK_TIMEOUT_S = 5.0  # within which a living server answers
REPEAT_AFTER_S = 20.0  # between two attempts to recover from the same stall
RESTART_AFTER_S = 300.0  # without progress: the step is restarted although nothing explains why it is stuck
SUSPENDED_AFTER_S = 10.0  # between two checks: this process itself was stopped and knows nothing of that time

_STATEMENT_STATE = """
SELECT a.wait_event_type = 'Lock', (SELECT string_agg(b.application_name || ' (pid ' || b.pid || ')', ', ')
  FROM pg_stat_activity b WHERE b.pid = ANY(pg_blocking_pids(a.pid)))
FROM pg_stat_activity a WHERE a.pid = $1
"""

log = structlog.get_logger()


class RunningStep(NamedTuple):
    """The running step of the daemon's loop.

    `since`: returns the monotonic time at which it began (s), None between steps. `restart`: ends it so that it begins
    again, and takes the reason.
    """

    since: Callable[[], float | None]
    restart: Callable[[str], None]


class Watchdog:
    """Watches one step of the loop.

    Args:
        detector: Decides what is stuck.
        progress: Where progress and stalls are published.
        pool: The endpoints.
        catch_up: Ingests and projects concurrently when much is left.
        feed: WebSocket endpoints, if any.
        connect: Opens another connection, to ask the server about the step's statements.
        connections: Returns the connections that the step's statements run on.
        step: The running step.
    """

    def __init__(
        self, detector: StallDetector, progress: DaemonProgress, pool: Pool, catch_up: CatchUp, feed: HeadFeed | None,
        connect: Connect, connections: Callable[[], Iterable[MonitoredConnection]], step: RunningStep,
    ) -> None:  # fmt: skip
        self.detector, self.progress, self.pool, self.catch_up, self.feed = detector, progress, pool, catch_up, feed
        self._connect, self._connections, self._step = connect, connections, step
        self._checked_at = self._awake_at = progress.clock()
        self._last_seen: dict[str, float] = {}  # name -> when it was last seen
        self._recovered_at: dict[str, float] = {}  # name -> when its recovery was last tried

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self.check_once()
            except Exception as error:  # losing one check is better than losing all further checks
                log.error("watchdog_failed", error=" ".join(f"{error_label(error)}: {error}".split()))

    async def check_once(self) -> list[Stall]:
        """Check once: report what is stuck, trigger its recovery, and return it."""
        now = self.progress.clock()
        late, self._checked_at = now - self._checked_at > SUSPENDED_AFTER_S, now
        if late:
            self._awake_at = now
        if self.feed is not None:
            await self.feed.check_mute()
        hung = self._longest()
        server = await self._ask_server(hung) if hung else ""
        stuck = self.detector.observe(self._signs(hung, server))
        self._report(stuck)
        for stall in stuck:
            if self.progress.clock() - self._recovered_at.get(stall.name, float("-inf")) >= REPEAT_AFTER_S:
                self._recovered_at[stall.name] = self.progress.clock()
                self._recover(stall, hung, server)
        return stuck

    def _longest(self) -> MonitoredConnection | None:
        """Return the connection whose statement has run longest, if that is long enough to ask the server."""
        busy = [conn for conn in self._connections() if conn.current_statement and not conn.is_closed()]
        longest = min(busy, key=lambda conn: conn.current_statement[1] if conn.current_statement else 0.0, default=None)
        if longest is None or longest.current_statement is None:
            return None
        if self.progress.clock() - max(longest.current_statement[1], self._awake_at) < STATEMENT_LIMIT_S:
            return None
        return longest

    async def _ask_server(self, hung: MonitoredConnection) -> str:
        """Ask the server, over another connection, what it does with the statement."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                conn = await self._connect()
                try:
                    row = await conn.fetchrow(_STATEMENT_STATE, hung.get_server_pid())
                finally:
                    asyncio.ensure_future(close(conn))  # noqa: RUF006 - ends by itself within 5 seconds
        except DATABASE_ERRORS as error:
            if isinstance(root_cause(error), asyncpg.PostgresError):
                return "working"  # it refused a connection, so it is alive
            return "silent"
        if row is None:
            return "silent"  # it no longer knows the connection
        if row[0]:
            return f"lock of {row[1] or 'another session'}"
        return "working" if hung.timeout_s <= STATEMENT_TIMEOUT_S else "working on what takes its time"

    def _signs(self, hung: MonitoredConnection | None, server: str) -> LivenessSignals:
        p, endpoints = self.progress, [reader.endpoint for reader in self.pool.readers]
        open_requests = [(sent, e.name, method) for e in endpoints for method, sent in e.under_way.values()]
        oldest = min(open_requests, default=None)
        connections = list(self._connections())
        # A running statement is progress until the server says otherwise, and so is waiting for our own rate cap.
        running = [p.clock() for conn in connections if conn.current_statement and hung is None]
        held = max(self.pool.budgets.held_until, *(e.gate.held_until for e in endpoints))
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
        """Report each stall once, and its end: the stall of a step has ended only if the head was seen since."""
        p, now = self.progress, self.progress.clock()
        for stall in stuck:
            if stall.name not in self._last_seen:
                p.found_stuck[stall.name] += 1
                log.error("watchdog", stuck=stall.name, detail=stall.detail)
            self._last_seen[stall.name] = now
            p.stuck[stall.name] = stall.detail
        for name in self._last_seen.keys() - {stall.name for stall in stuck}:
            if name in ("websocket", "head") or p.looked_at > self._last_seen[name]:
                del self._last_seen[name], p.stuck[name]
                log.info("watchdog_healed", stuck=name)

    def _recover(self, stall: Stall, hung: MonitoredConnection | None, server: str) -> None:
        match stall.name:
            case "poll":
                self.pool.set_aside(stall.subject, stall.detail, "mute")
                self._step.restart(stall.detail)
            case "statement" if server == "silent" and hung is not None:
                with contextlib.suppress(Exception):
                    hung.terminate()
                self._step.restart(stall.detail)
            case "queue" | "step" if stall.seconds > RESTART_AFTER_S:
                self._step.restart(stall.detail)
