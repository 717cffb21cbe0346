"""The worker of one slot: claims it, reads the feed, delivers to its sink, confirms. Forever, and alone.

The position is stored only after the sink has confirmed, so nothing is lost; what was delivered before a crash is
delivered again with the same ids. Whatever a sink, the database or an operator does, the worker waits and begins anew
from the stored position: it ends only when it is canceled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from indexer.db.connection import Connect, Connection
from indexer.db.connection import close as close_connection
from indexer.db.database_errors import DATABASE_ERRORS
from indexer.errors import FatalError, FeedResetError, SinkError, StoreDamagedError
from indexer.feed import log_reader
from indexer.feed.commits import Level
from indexer.feed.feed_reader import FeedPosition, FeedReader
from indexer.feed.marker import snapshot_marker
from indexer.feed.snapshot import PROJECTED
from indexer.store import slot_claims, stream_slots
from indexer.store.incidents import record, resolve
from indexer.store.stream_slots import StreamSlot
from indexer.streams.sink import Sink
from indexer.streams.slot_progress import SlotProgress

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 30.0  # Between attempts (s).
LOOK_S = 0.25  # Between looks at the log, when no notification comes (s).
RENEW_S = 5.0  # Between renewals of the claim (s).
STANDBY_S = 1.0  # Between attempts to claim a slot that another process serves, or that is paused (s).
_PASSING: tuple[type[BaseException], ...] = (SinkError, FatalError, *DATABASE_ERRORS)
SINK_LOST = "stream_sink_lost"  # The incident: a broker has less than it had confirmed.
log = structlog.get_logger()


class SlotWorker:
    """Serves one slot until canceled.

    `connect`: opens a connection to the database. `make_sink`: makes a sink for the slot; it is opened and closed here.
    """

    def __init__(
        self, connect: Connect, name: str, holder: str, make_sink: Callable[[StreamSlot], Sink], progress: SlotProgress
    ) -> None:  # fmt: skip
        self._connect, self._name, self._holder, self._make_sink = connect, name, holder, make_sink
        self._progress, self._log = progress, log.bind(slot=name)

    async def run(self) -> None:
        """Serve the slot. A slot that is lost or dropped, or a sink that is set up wrongly, is tried again."""
        wait_s = FIRST_WAIT_S
        while True:
            before = self._progress.delivered
            try:
                await self._serve()
            except _PASSING as error:
                wait_s = FIRST_WAIT_S if self._progress.delivered > before else min(2 * wait_s, LONGEST_WAIT_S)
                self._progress.fail(error)
                self._log.warning("stream_interrupted", error=str(error), retry_in=wait_s)
                await asyncio.sleep(wait_s)

    async def _serve(self) -> None:
        """Claim the slot, open the sink and deliver, until something fails."""
        async with contextlib.AsyncExitStack() as stack:
            conn, second = await self._connect(), None
            stack.push_async_callback(close_connection, conn)
            slot = await self._claimed(conn)
            stack.push_async_callback(_release, conn, slot)
            second = await self._connect()
            stack.push_async_callback(close_connection, second)
            sink = self._make_sink(slot)
            stack.push_async_callback(sink.close)
            await _Service(conn, second, slot, sink, self._progress).run()

    async def _claimed(self, conn: Connection) -> StreamSlot:
        while True:
            slot = await slot_claims.claim(conn, self._name, self._holder)
            if slot is not None:
                return slot
            self._progress.state = (await stream_slots.get(conn, self._name)).state.replace("active", "standby")
            await asyncio.sleep(STANDBY_S)


async def _release(conn: Connection, slot: StreamSlot) -> None:
    with contextlib.suppress(Exception):  # It expires by itself.
        await slot_claims.release(conn, slot)


class _Service:
    """One claim of a slot, with an open sink."""

    def __init__(
        self, conn: Connection, second: Connection, slot: StreamSlot, sink: Sink, progress: SlotProgress
    ) -> None:  # fmt: skip
        self.conn, self.second, self.slot, self.sink, self.progress = conn, second, slot, sink, progress
        self.reader = self._reader(FeedPosition(slot.seq, slot.generation))
        self.log = log.bind(slot=slot.name)

    def _reader(self, position: FeedPosition) -> FeedReader:
        return FeedReader(self.conn, self.slot.name, Level(self.slot.level), self.slot.tables, position)

    async def run(self) -> None:
        await self.reader.listen()
        needs_snapshot = await self._compare_with_sink(await self.sink.open())
        while self.slot.state == "active":
            try:
                if needs_snapshot:
                    needs_snapshot = not await self._take_snapshot()
                else:
                    needs_snapshot = await self._deliver_window()
            except (FeedResetError, StoreDamagedError) as error:
                self.log.warning("stream_begins_anew", reason=str(error))
                needs_snapshot = True
            if needs_snapshot or self.progress.state == "up to date":
                await self._wait()

    async def _compare_with_sink(self, found: FeedPosition | None) -> bool:
        """Compare the stored position with what the sink has; return whether a snapshot is needed.

        A sink that is ahead confirmed before the position was stored: the reader goes on from there. One that is behind
        has lost what it had confirmed.
        """
        stored = self.reader.position
        if self.slot.confirmed_at is None:
            return True
        if found is None or (found.generation, found.seq) < (stored.generation, stored.seq):
            has = "nothing" if found is None else f"commit {found.seq} of generation {found.generation}"
            detail = f"it confirmed commit {stored.seq} of generation {stored.generation} and has {has}; begun anew"
            self.log.error("stream_sink_lost", detail=detail)
            await _record_loss(self.conn, self.slot.name, detail)
            return True
        if found != stored:
            self.slot = await slot_claims.confirm(self.conn, self.slot, *found)
            self.reader = self._reader(found)
            await self.reader.listen()
        return False

    async def _deliver_window(self) -> bool:
        """Deliver what is new; return whether a snapshot is needed instead."""
        window = await self.reader.next()
        if window == "snapshot":
            return True
        if window is None:
            self.progress.state = "up to date"
            self.progress.pending(await log_reader.head(self.conn), self.reader.position)
            return False
        self.progress.state = "delivering"
        await self.sink.deliver(window)
        self.reader.delivered(window.marker)
        self.slot = await slot_claims.confirm(self.conn, self.slot, *self.reader.position)
        self.progress.confirm(window.marker)
        return False

    async def _take_snapshot(self) -> bool:
        """Deliver a snapshot; False: not yet."""
        self.progress.state = "waits for a snapshot"
        async with self.reader.snapshot(self.second) as taken:
            if taken is None:
                return False
            self.progress.state = "delivers a snapshot"
            counts = dict[str, int]()
            self.slot = await slot_claims.begin_generation(self.conn, self.slot)
            position = FeedPosition(taken.end.seq, self.slot.last_generation)
            await self.sink.begin(position)
            for table in self.slot.tables or PROJECTED:
                async for rows in taken.rows(table):
                    await self.sink.add_rows(rows, position)
                    counts[table] = counts.get(table, 0) + len(rows)
                    self.slot = await slot_claims.renew(self.conn, self.slot)
            marker = snapshot_marker(taken.end, position.generation, counts)
            await self.sink.end(marker)
        self.reader.delivered(marker)
        await resolve(self.conn, SINK_LOST, self.slot.name)
        self.slot = await slot_claims.confirm(self.conn, self.slot, *self.reader.position)
        self.progress.confirm(marker)
        return True

    async def _wait(self) -> None:
        """Wait for something new. The claim is extended, and a slot that was paused or dropped meanwhile is noticed."""
        await self.reader.wait(LOOK_S)
        if self.progress.renewal_due(RENEW_S):
            self.slot = await slot_claims.renew(self.conn, self.slot)


async def _record_loss(conn: Connection, slot: str, detail: str) -> None:
    await record(
        conn,
        [{"kind": SINK_LOST, "subject": slot, "detail": detail, "first_block": None, "last_block": None, "count": 1}],
    )
