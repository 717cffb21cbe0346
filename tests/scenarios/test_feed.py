"""The feed on what the indexer writes: at each level, whatever the chain does and wherever a reader is broken off, the
rows that it delivered are the tables as of the commit that it names.
"""

from __future__ import annotations

import random
from itertools import chain

import asyncpg
import pytest

from indexer.attest import auditor as auditors
from indexer.feed.changes import Change, ChangeRecord, Op, decode
from indexer.feed.commits import Commit, Level, next_window, uncaptured
from indexer.feed.marker import marker_of
from indexer.feed.net import net
from indexer.runtime.exact_json import to_json
from indexer.store import stream_slots
from tests.scenarios.harness import Stage
from tests.scenarios.test_head_proof import places
from tests.support.change_fold import PROJECTED, ChangeFold
from tests.support.simchain.view import Depth

_COMMITS = f"SELECT {', '.join(Commit._fields)} FROM indexer.commit_log WHERE seq >= $1 ORDER BY seq"
_CHANGES = (
    f"SELECT {', '.join(ChangeRecord._fields)} FROM indexer.change_log WHERE seq > $1 AND seq <= $2 ORDER BY seq, ord"
)


class LevelReader:
    """A reader and its consumer, which keeps the rows. Only `seq` survives a restart of the reader.

    `redelivery`: it was broken off after a delivery, before its position was stored. `kinds`: of all commits delivered.
    """

    def __init__(self, level: Level, fold: ChangeFold, rng: random.Random) -> None:
        self.level, self.fold, self.rng = level, fold, rng
        self.seq, self.tables = fold.seq, {name: dict(rows) for name, rows in fold.tables.items()}
        self.redelivery, self.generation, self.kinds = False, 0, set[str]()

    async def read(self) -> Commit | None:
        """Deliver what the level covers; return the last commit of it."""
        conn = self.fold.conn
        commits = [Commit(*row) for row in await conn.fetch(_COMMITS, self.seq)]
        window = next_window(commits, self.seq, self.level)
        if not window:
            return None
        end = window[-1]
        assert not uncaptured(window)
        records = [ChangeRecord(*row) for row in await conn.fetch(_CHANGES, self.seq, end.seq)]
        change = net(chain.from_iterable(map(decode, records)), redelivery=self.redelivery)
        marker = marker_of(window, change, self.generation)
        kinds = {commit.kind for commit in window}
        await self._apply(change.changes, void=change.void, final=not kinds & {"heal", "reproject"})
        assert self.tables == self.fold.history[end.seq], f"{self.level} at {end} after {kinds}"
        assert sum(marker.counts.values()) == len(change.changes)
        assert (marker.to_block, marker.to_hash) == (end.checkpoint, end.checkpoint_hash)
        self.kinds |= kinds
        self.redelivery = self.rng.random() < 0.3
        if not self.redelivery:
            self.seq, self.generation = end.seq, marker.generation
        return end

    async def _apply(self, changes: list[Change], *, void: bool, final: bool) -> None:
        if void:
            self.tables = {name: {} for name in PROJECTED}
        rows: dict[str, list[dict[str, object]]] = {}
        for change in changes:
            if change.op is Op.DELETE:
                gone = self.tables[change.table].pop(tuple(map(str, change.key)), None)
                assert not (gone and final and self.level is Level.FINALIZED), f"taken back although final: {gone}"
            else:
                rows.setdefault(change.table, []).append(change.row)
        for table, upserted in rows.items():
            # PostgreSQL makes the rows of the decoded values: whatever the decoder got wrong differs from the fold.
            self.tables[table] |= await self.fold.decoded(table, "json", to_json(upserted))


@pytest.mark.parametrize("seed", ["one", "two"])
async def test_what_each_level_delivers_is_the_table(seed: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth, reorgs, a heal and a reprojection in random order; every block of the start is final."""
    monkeypatch.setattr(auditors, "BUSY_WAIT_S", -1.0)
    rng, tip, node = random.Random(seed), stage.main, stage.nodes[0]
    node.omit = set(places(stage, tip, 30)[:2])
    node.finalized = node.safe = tip.number
    daemon = await stage.start(0)
    node.omit, node.finalized, node.safe = set(), Depth(8), Depth(4)
    conn = await asyncpg.connect(stage.url)
    fold = ChangeFold(conn)
    await stream_slots.create(stage.own, "test", "instant")
    await fold.snapshot()
    readers = [LevelReader(level, fold, rng) for level in Level]
    acts = [*["grow"] * 4, *["reorg"] * 5, "heal", "reset"]
    rng.shuffle(acts)
    for turn, act in enumerate(["grow", *acts, *["grow"] * 8]):
        room = tip.number - await stage.value("SELECT rollback_floor FROM indexer.checkpoint")
        if act == "heal":
            assert await daemon.audit(daemon.auditor([node])) == "up to date"
        elif act == "reset":
            daemon.runner.engine.writer.digest = f"digest {turn}"
        elif act == "reorg" and room:
            depth = rng.randint(1, min(room, 5))
            tip = stage.fork(f"f{turn}", tip.number - depth, max(1, depth + rng.randint(-1, 2)), tip)
        else:
            tip = stage.grow(tip, rng.randint(1, 3))
        stage.show(tip)
        await daemon.settle()
        await stage.stands_at(tip)
        assert all(commit.captured for commit in await fold.follow())
        for reader in readers:
            if rng.random() < 0.6:
                await reader.read()
    for reader in readers:
        reader.redelivery = True
        end = await reader.read()
        assert end is None or end.checkpoint is not None
        assert reader.kinds == {"forward", "rollback", "heal", "reproject"}, reader.level
    await conn.close()
