"""The reader on what the indexer writes: a consumer that begins with a snapshot and is broken off anywhere has the
tables whenever the chain is final and quiet, at every level, whatever the chain and the indexer did.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from indexer.attest import auditor as auditors
from indexer.db.connection import Connection, connect
from indexer.errors import FeedResetError
from indexer.feed import feed_reader, log_reader, snapshot
from indexer.feed.changes import Change, Op, Row
from indexer.feed.commits import Level
from indexer.feed.feed_reader import FeedPosition, FeedReader
from indexer.feed.marker import Marker, snapshot_marker
from indexer.feed.snapshot import PROJECTED
from indexer.runtime.exact_json import to_json
from indexer.store import stream_slots
from tests.scenarios.harness import Daemon, Stage
from tests.scenarios.test_head_proof import places
from tests.support.change_fold import ChangeFold
from tests.support.simchain.chain import Block
from tests.support.simchain.view import Depth


class Consumer:
    """Keeps the rows that it is given; `crash` loses everything but them and the position that was stored last."""

    def __init__(self, conn: Connection, second: Connection, level: Level) -> None:
        self.conn, self.second, self.level = conn, second, level
        self.position = FeedPosition(0, 1)
        self.rows: dict[str, dict[tuple[str, ...], Row]] = {}
        self.snapshots, self.markers = 0, list[Marker]()
        self.reader = self.restarted()

    def restarted(self) -> FeedReader:
        return FeedReader(self.conn, "test", self.level, None, self.position)

    async def bootstrap(self) -> bool:
        async with self.reader.snapshot(self.second) as taken:
            if taken is None:
                return False
            rows = {t: [c async for piece in taken.rows(t) for c in piece] for t in PROJECTED}
        self.rows = {table: {c.key: c.row for c in changes} for table, changes in rows.items()}
        assert {t: len(r) for t, r in self.rows.items()} == {t: len(r) for t, r in rows.items()}
        counts = {table: len(changes) for table, changes in rows.items()}
        self.confirm(snapshot_marker(taken.end, self.position.generation + 1, counts))
        self.snapshots += 1
        return True

    async def read(self, rng: random.Random) -> bool:
        """One turn; whether something was delivered."""
        if not self.rows:
            return await self.bootstrap()
        window = await self.reader.next()
        if window == "snapshot":
            return await self.bootstrap()
        if window is None:
            return False
        deletes = [change.op is Op.DELETE for change in window.changes]
        assert deletes == sorted(deletes, reverse=True)
        assert sum(window.marker.counts.values()) == len(window.changes)
        cut = rng.randint(0, len(window.changes)) if rng.random() < 0.3 else None
        self.apply(window.changes[:cut])
        if cut is None:
            self.confirm(window.marker)
        else:  # It crashed before the position was stored, or in the middle.
            self.reader = self.restarted()
        return True

    def apply(self, changes: list[Change]) -> None:
        for change in changes:
            if change.op is Op.DELETE:
                self.rows[change.table].pop(change.key, None)
            else:
                self.rows[change.table][change.key] = change.row

    def confirm(self, marker: Marker) -> None:
        self.reader.delivered(marker)
        assert marker.seq >= self.position.seq
        self.position = self.reader.position
        self.markers.append(marker)


@pytest.fixture
async def connections(stage: Stage) -> AsyncIterator[tuple[Connection, Connection, asyncpg.Connection]]:
    """A reader's two connections, and one for the comparison."""
    conns = await connect(stage.url), await connect(stage.url), await asyncpg.connect(stage.url)
    yield conns
    for conn in conns:
        await conn.close()


async def equal_to_tables(consumer: Consumer, fold: ChangeFold) -> None:
    """PostgreSQL makes rows of the decoded values, so that whatever a decoder got wrong differs."""
    await fold.snapshot()
    for table in PROJECTED:
        rows = [row for row in consumer.rows[table].values()]
        assert await fold.decoded(table, "json", to_json(rows)) == fold.tables[table], (consumer.level, table)


async def everything_final(stage: Stage, daemon: Daemon, tip: Block) -> Block:
    """Two more blocks, in single steps, after which every level covers all but the last."""
    node = stage.nodes[0]
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    node.finalized = node.safe = tip.number
    await daemon.settle()
    tip = stage.grow(tip, 1, 0.0)
    stage.show(tip)
    node.finalized = node.safe = tip.number
    await daemon.settle()
    await stage.stands_at(tip)
    return tip


@pytest.mark.parametrize("seed", ["one", "two", "three"])
async def test_a_consumer_has_the_tables_whenever_all_is_final(
    seed: str, stage: Stage, connections: tuple[Connection, Connection, asyncpg.Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)
    monkeypatch.setattr(snapshot, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(feed_reader, "MAX_ROWS", 40)
    rng, tip, node = random.Random(seed), stage.main, stage.nodes[0]
    node.omit = set(places(stage, tip, 30)[:2])
    node.finalized = node.safe = tip.number
    daemon = await stage.start(0)
    node.omit, node.finalized, node.safe = set(), Depth(8), Depth(4)
    first, second, third = connections
    fold = ChangeFold(third)
    slot = await stream_slots.create(stage.own, "test", "instant")
    consumers = [Consumer(first, second, level) for level in Level]
    for consumer in consumers:
        consumer.position = FeedPosition(slot.seq, slot.generation)
        consumer.reader = consumer.restarted()
    for part in range(3):
        acts = [*["grow"] * 5, *["reorg"] * 5, "heal" if part == 0 else "final", "reset" if part == 1 else "grow"]
        rng.shuffle(acts)
        for turn, act in enumerate(acts):
            tip = await play(stage, daemon, tip, act, f"{part}-{turn}", rng)
            for consumer in consumers:
                while rng.random() < 0.5:
                    await consumer.read(rng)
        tip = await everything_final(stage, daemon, tip)
        for consumer in consumers:
            while consumer.position.seq < await stage.value("SELECT max(seq) FROM indexer.commit_log"):
                ready = await snapshot_ready(stage)
                assert await consumer.read(rng) or not ready, consumer.level
                await asyncio.sleep(0 if ready else 0.1)
            await equal_to_tables(consumer, fold)
        node.finalized, node.safe = Depth(8), Depth(4)
    assert all(consumer.snapshots >= 2 for consumer in consumers), "a start and a reprojection need one each"


async def snapshot_ready(stage: Stage) -> bool:
    """Whether the log has been quiet for long enough, where the newest commit is not captured."""
    ready: bool = await stage.value(
        "SELECT captured OR at < clock_timestamp() - interval '5 s' FROM indexer.commit_log ORDER BY seq DESC LIMIT 1"
    )
    return ready


async def play(stage: Stage, daemon: Daemon, tip: Block, act: str, name: str, rng: random.Random) -> Block:
    node = stage.nodes[0]
    room = tip.number - await stage.value("SELECT rollback_floor FROM indexer.checkpoint")
    if act == "heal":
        assert await daemon.audit(daemon.auditor([node])) == "up to date"
    elif act == "reset":
        daemon.runner.engine.writer.digest = f"digest {name}"
    elif act == "final":  # What comes now is final at once: its commits are not captured.
        tip = stage.grow(tip, 5)
        node.finalized = node.safe = tip.number
    elif act == "reorg" and room:
        depth = rng.randint(1, min(room, 5))
        tip = stage.fork(f"f{name}", tip.number - depth, max(1, depth + rng.randint(-1, 2)), tip)
    else:
        tip = stage.grow(tip, rng.randint(1, 3))
    stage.show(tip)
    await daemon.settle()
    await stage.stands_at(tip)
    if act == "final":
        node.finalized, node.safe = Depth(8), Depth(4)
    return tip


async def test_a_reader_whose_slot_was_cut_off_is_reset_and_misses_nothing(
    stage: Stage, connections: tuple[Connection, Connection, asyncpg.Connection]
) -> None:
    node, tip = stage.nodes[0], stage.main
    daemon = await stage.start(0)
    node.finalized, node.safe = Depth(8), Depth(4)
    slot = await stream_slots.create(stage.own, "test", "instant")
    first, second, third = connections
    consumer = Consumer(first, second, Level.INSTANT)
    consumer.position = FeedPosition(slot.seq, slot.generation)
    consumer.reader = consumer.restarted()
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    assert await consumer.bootstrap()
    tip = stage.grow(tip, 2)
    stage.show(tip)
    await daemon.settle()
    await stage.execute("UPDATE indexer.stream_slot SET state = 'lost'")
    with pytest.raises(FeedResetError, match="'test' no longer keeps the changes after commit"):
        await consumer.reader.next()
    slot = await stream_slots.restart(stage.own, "test")
    assert (slot.state, slot.confirmed_at) == ("active", None)
    consumer.position = FeedPosition(slot.seq, slot.generation)
    consumer.reader = consumer.restarted()
    tip = stage.grow(tip, 1)
    stage.show(tip)
    await daemon.settle()
    assert await consumer.bootstrap()
    await equal_to_tables(consumer, ChangeFold(third))


async def test_what_was_voided_since_is_read_with_select_alone(
    stage: Stage, connections: tuple[Connection, Connection, asyncpg.Connection]
) -> None:
    node, tip, (conn, *_) = stage.nodes[0], stage.main, connections
    daemon = await stage.start(0)
    node.finalized, node.safe = Depth(8), Depth(4)
    before = await log_reader.head(conn)
    assert before is not None
    assert (before.checkpoint, before.checkpoint_hash) == (tip.number, tip.hash)
    assert await log_reader.voided_since(conn, before.seq) == []
    tip = stage.fork("f", tip.number - 3, 4, tip)
    stage.show(tip)
    await daemon.settle()
    (voided,) = await log_reader.voided_since(conn, before.seq)
    assert (voided.kind, voided.from_block) == ("rollback", tip.number - 3)
    assert voided.reorg_id is not None
