"""What the background tasks of attestation share: a connection of their own, states, and errors that end nothing."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import structlog

from indexer.db.connection import Connection, close
from indexer.db.database_errors import DATABASE_ERRORS
from indexer.errors import IndexerError, WriteInterceptedError
from indexer.rpc.rate_limit import RequestPurpose, doubled_pause, request_purpose
from indexer.store.incidents import report_refusal, resolve_refusals

MAX_PAUSE_S = 60.0  # Longest pause between attempts that keep failing (s).

log = structlog.get_logger()


class BackgroundTask(ABC):
    """Works piece by piece beside the follower, which goes on whatever happens here.

    Args:
        connect: Opens a connection of its own.
        purpose: Whose budget its requests spend.
        pause: Time between looks for work when there is none (s); doubled while attempts fail.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], purpose: RequestPurpose, pause: float) -> None:
        self._connect, self._purpose, self._pause_s = connect, purpose, pause
        self._conn: Connection | None = None
        self._errors = 0  # Attempts in a row that failed.
        self._database_refused = True  # The database may have refused its work, now or in a process before this one.

    @abstractmethod
    def standby_reason(self) -> str:
        """Return why other work has priority; empty if none has."""

    @abstractmethod
    def show_state(self, state: str) -> None:
        """Show what the task does, or why it waits."""

    @abstractmethod
    async def work(self, conn: Connection) -> bool:
        """Do one piece of work; return whether there was one. Raises IndexerError and the database's errors."""

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            with request_purpose(self._purpose):
                while True:
                    if not await self.run_once():
                        await self.pause(doubled_pause(self._pause_s, self._errors, MAX_PAUSE_S))
        finally:
            await self.close()

    async def pause(self, seconds: float) -> None:
        """Wait before the next look for work."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connection; the next attempt opens another one. Never raises."""
        conn, self._conn = self._conn, None
        await close(conn)

    async def run_once(self) -> bool:
        """Do one piece of work unless other work has priority; return whether there was one.

        An error is shown as the state and left to the next attempt.
        """
        reason = self.standby_reason()
        if reason:
            self.show_state(reason)
            return False
        try:
            if self._conn is None:
                self._conn = await self._connect()
            worked = await self.work(self._conn)
            self._errors = 0
            if worked and self._database_refused:
                await resolve_refusals(self._conn, self._purpose)
                self._database_refused = False
            return worked
        except DATABASE_ERRORS as error:
            self._note_error(error)
            await self.close()
            await self._report_refusal(error)
        except WriteInterceptedError as error:
            self._note_error(error)
            await self._report_refusal(error)
        except IndexerError as error:
            # An endpoint failed, a reorg happened in the meantime, or the daemon did not pause for a heal.
            self._note_error(error)
        except Exception as error:
            # The daemon keeps following the head whatever happens here, but the error must not pass unseen.
            self._note_error(error)
            log.error("attestation_failed", exc_info=True)
        return False

    async def _report_refusal(self, error: Exception) -> None:
        self._database_refused = True
        await report_refusal(self._connect, error, self._purpose)

    def _note_error(self, error: Exception) -> None:
        self._errors += 1
        self.show_state(f"waits: {' '.join(str(error).split()) or type(error).__name__}")
