"""The worker of a slot, with a sink that fails, forgets and is cut off: what the sink has, folded, are the tables."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import asyncpg
import pytest

from indexer.db.connection import connect
from indexer.errors import SinkError
from indexer.feed.changes import Change, Op, Row
from indexer.feed.feed_reader import FeedPosition, Window
from indexer.feed.marker import Marker
from indexer.feed.snapshot import PROJECTED
from indexer.runtime.exact_json import to_json
from indexer.store import stream_slots
from indexer.store.stream_slots import StreamSlot
from indexer.streams import slot_worker as workers
from indexer.streams.slot_progress import SlotProgress
from indexer.streams.slot_worker import SINK_LOST, SlotWorker
from tests.scenarios.harness import Stage
from tests.support.change_fold import ChangeFold
from tests.support.simchain.view import Depth
from tests.support.waiting import eventually

Place = tuple[int, int, int, int]  # generation, seq, ord, item


class Broker:
    """Keeps what was delivered, in order, as a compacted topic does: the newest by place wins."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, tuple[object, ...]], tuple[Place, Row | None]] = {}
        self.marker: FeedPosition | None = None
        self.starts = 0
        self.swept = 0

    def put(self, change: Change, generation: int) -> None:
        place = (generation, change.seq, change.ord, change.item)
        key = (change.table, change.key)
        if key not in self.rows or self.rows[key][0] <= place:
            self.rows[key] = place, None if change.op is Op.DELETE else change.row

    def sweep(self, marker: Marker) -> None:
        self.swept += 1
        self.rows = {key: value for key, value in self.rows.items() if value[0][0] >= marker.generation}

    def forget(self) -> None:
        """As a broker in memory does when it is restarted: it ends every connection."""
        self.rows, self.marker, self.starts = {}, None, self.starts + 1

    def table(self, name: str) -> list[Row]:
        return [row for (table, _), (_, row) in self.rows.items() if table == name and row is not None]


class UnreliableSink:
    """Fails at random before, within and after what it is asked to do; sometimes it has done it all the same."""

    def __init__(self, broker: Broker, rng: random.Random, share: Callable[[], float], slot: StreamSlot) -> None:
        self.broker, self.rng, self.share = broker, rng, share
        self.connected_to = broker.starts

    def trouble(self, name: str) -> None:
        if self.rng.random() < self.share() or self.connected_to != self.broker.starts:
            raise SinkError(f"no answer to {name}")

    async def open(self) -> FeedPosition | None:
        self.trouble("open")
        return self.broker.marker

    async def begin(self, position: FeedPosition) -> None:
        self.trouble("begin")

    async def add_rows(self, rows: Sequence[Change], position: FeedPosition) -> None:
        self._put(rows, position.generation)

    async def end(self, marker: Marker) -> None:
        self.trouble("end")
        self.broker.sweep(marker)
        self.broker.marker = FeedPosition(marker.seq, marker.generation)
        self.trouble("end")

    async def deliver(self, window: Window) -> None:
        self._put(window.changes, window.marker.generation)
        self.broker.marker = FeedPosition(window.marker.seq, window.marker.generation)
        self.trouble("marker")

    async def close(self) -> None:
        pass

    def _put(self, changes: Sequence[Change], generation: int) -> None:
        if self.connected_to != self.broker.starts:
            raise SinkError("the connection ended")
        for change in changes:
            if self.rng.random() < self.share() / 20:
                raise SinkError("no answer to a row")
            self.broker.put(change, generation)


class Streaming:
    """Workers on one slot and one broker; each may be canceled as kill -9 would end it, in the middle of anything."""

    def __init__(self, stage: Stage, seed: str) -> None:
        self.stage, self.broker, self.rng, self.share = stage, Broker(), random.Random(seed), 0.0
        self.progress = SlotProgress("test")
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, holder: str = "one") -> asyncio.Task[None]:
        make = partial(UnreliableSink, self.broker, self.rng, lambda: self.share)
        worker = SlotWorker(partial(connect, self.stage.url), "test", holder, make, self.progress)
        self.tasks.append(asyncio.create_task(worker.run()))
        return self.tasks[-1]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def caught_up(self) -> None:
        newest = await self.stage.value("SELECT max(seq) FROM indexer.commit_log")

        async def confirmed() -> bool:
            return bool(await self.stage.value("SELECT seq >= $1 FROM indexer.stream_slot", newest))

        await eventually(confirmed, lambda: f"{self.progress}")

    async def equals_tables(self) -> None:
        fold_conn = await asyncpg.connect(self.stage.url)
        fold = ChangeFold(fold_conn)
        await fold.snapshot()
        for table in PROJECTED:
            assert await fold.decoded(table, "json", to_json(self.broker.table(table))) == fold.tables[table], table
        await fold_conn.close()


@pytest.fixture
async def streaming(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Streaming]:
    monkeypatch.setattr(workers, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(workers, "LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(workers, "STANDBY_S", 0.01)
    made = Streaming(stage, "sink")
    yield made
    await made.stop()


async def test_whatever_the_sink_does_what_it_has_is_the_table(stage: Stage, streaming: Streaming) -> None:
    node, tip = stage.nodes[0], stage.main
    daemon = await stage.start(0)
    node.finalized, node.safe = Depth(8), Depth(4)
    await stream_slots.create(stage.own, "test", "instant", sink={"kind": "unreliable"})
    streaming.share = 0.2
    streaming.start()
    for turn in range(30):
        if turn % 3 == 2:
            tip = stage.fork(f"f{turn}", tip.number - 2, 3, tip)
        else:
            tip = stage.grow(tip, 1)
        stage.show(tip)
        await daemon.settle()
        if turn % 7 == 6:
            await streaming.stop()
            streaming.start()
        if turn == 15:
            streaming.broker.forget()
        await asyncio.sleep(0.01)
    streaming.share = 0.0
    await streaming.caught_up()
    await streaming.equals_tables()
    assert streaming.progress.errors.get("SinkError", 0) > 3
    await streaming.stop()
    streaming.broker.forget()
    streaming.start()
    count = "SELECT count(*) FROM indexer.incident WHERE kind = $1"
    await eventually(lambda: stage.value(count, SINK_LOST), "the incident")
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    await streaming.caught_up()

    async def resolved() -> bool:
        return not await stage.value(f"{count} AND resolved_at IS NULL", SINK_LOST)

    await eventually(resolved, "the incident is resolved")
    await streaming.equals_tables()


async def test_a_second_process_stands_by_and_a_stopped_one_is_fenced(stage: Stage, streaming: Streaming) -> None:
    node, tip = stage.nodes[0], stage.main
    daemon = await stage.start(0)
    node.finalized, node.safe = Depth(8), Depth(4)
    await stream_slots.create(stage.own, "test", "instant", sink={"kind": "unreliable"})
    first = streaming.start("one")
    holder = "SELECT holder FROM indexer.stream_slot"

    async def held_by(name: str) -> bool:
        return bool(await stage.value(holder) == name)

    await eventually(lambda: held_by("one"), "the first holds the slot")
    streaming.start("two")
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    await streaming.caught_up()
    assert await held_by("one")
    # A process that was stopped past its claim: the other takes over, and the first finds its token gone.
    await stage.execute("UPDATE indexer.stream_slot SET expires_at = clock_timestamp()")
    await eventually(lambda: held_by("two"), "the second holds the slot")
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    await streaming.caught_up()
    assert await held_by("two")
    first.cancel()
    await streaming.equals_tables()


async def test_a_paused_slot_keeps_what_it_misses_and_a_lost_one_begins_anew(
    stage: Stage, streaming: Streaming
) -> None:
    node, tip = stage.nodes[0], stage.main
    daemon = await stage.start(0)
    node.finalized, node.safe = Depth(8), Depth(4)
    await stream_slots.create(stage.own, "test", "instant", sink={"kind": "unreliable"})
    streaming.start()
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    await streaming.caught_up()
    await stream_slots.set_paused(stage.own, "test", paused=True)
    await eventually(lambda: streaming.progress.state == "paused", lambda: f"{streaming.progress}")
    tip = stage.fork("f", tip.number - 2, 5, tip)
    stage.show(tip)
    await daemon.settle()
    swept = streaming.broker.swept
    await stream_slots.set_paused(stage.own, "test", paused=False)
    await streaming.caught_up()
    await streaming.equals_tables()
    assert streaming.broker.swept == swept
    await stage.execute("UPDATE indexer.stream_slot SET state = 'lost', note = 'too far behind'")
    await eventually(
        lambda: "is lost: too far behind" in (streaming.progress.error or ""), lambda: f"{streaming.progress}"
    )
    await stream_slots.restart(stage.own, "test")
    tip = stage.grow(tip, 2)
    stage.show(tip)
    await daemon.settle()
    await streaming.caught_up()
    await streaming.equals_tables()
    assert streaming.broker.swept == swept + 1
