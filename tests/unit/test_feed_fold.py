"""Folding what a reader delivers gives the tables: at every level, however reads and restarts cut the log."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.feed.changes import Change, Op
from indexer.feed.commits import Commit, Level, next_window
from indexer.feed.marker import marker_of
from indexer.feed.net import NetChange, net
from tests.support.change_history import ACTIONS, ChangeHistory, Tables

histories = st.builds(
    lambda actions, seed: ChangeHistory(Random(seed)).play(actions),
    st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=25),
    st.integers(0, 2**32),
)
levels = st.sampled_from(list(Level))


def apply(tables: Tables, change: NetChange) -> None:
    """Apply as a consumer of upserts and tombstones does, who knows nothing of reorgs."""
    if change.void:
        tables.clear()
    for row in change.changes:
        name = (row.table, row.key[0])
        if row.op is Op.DELETE:
            tables.pop(name, None)
        else:
            tables[name] = row.row


def covered_end(history: ChangeHistory, visible: list[Commit], level: Level) -> Commit | None:
    """Return the newest commit that left only covered blocks: each block was covered by a commit that had it."""
    covered: set[int] = set()
    for commit in visible:
        tag = commit.safe if level is Level.SAFE else commit.floor
        covered.update(history.blocks_at[commit.seq][: (-1 if tag is None else tag) + 1])
    ends = (c for c in reversed(visible) if level is Level.INSTANT or covered.issuperset(history.blocks_at[c.seq]))
    return next(ends, None)


def test_the_histories_are_what_they_claim() -> None:
    kinds, falls = set[str](), 0
    for seed in range(40):
        random = Random(seed)
        history = ChangeHistory(random).play(random.choices(ACTIONS, k=25))
        kinds.update(commit.kind for commit in history.commits)
        tables: Tables = {}
        safe = -1
        for commit in history.commits:
            apply(tables, net(history.changes[commit.seq]))
            assert tables == history.tables[commit.seq]
            falls += commit.kind == "forward" and (commit.safe or 0) < safe
            safe = commit.safe or 0
    assert kinds == {"forward", "rollback", "heal", "reproject"} and falls > 20


@settings(max_examples=300)
@given(histories, levels, st.data())
def test_the_fold_of_what_is_delivered_is_the_table(history: ChangeHistory, level: Level, data: st.DataObject) -> None:
    tables: Tables = {}
    delivered, uncertain, generation = 0, False, 0
    for visible in sorted(data.draw(st.sets(st.sampled_from(history.ends)))):
        commits = history.commits[:visible]
        if data.draw(st.booleans(), label="restart"):
            commits = [commit for commit in commits if commit.seq >= delivered]
        window = next_window(commits, delivered, level)
        expected = covered_end(history, history.commits[:visible], level)
        if not window:
            assert expected is None or expected.seq <= delivered
            continue
        assert window[-1] is expected
        end = window[-1].seq
        change = net(history.between(delivered, end), redelivery=uncertain)
        apply(tables, change)
        assert tables == history.tables[end]
        marker = marker_of(window, change, generation)
        assert sum(marker.counts.values()) == len(change.changes) and marker.seq == end
        # A crash after the delivery: the consumer has the rows, and the position is not stored.
        uncertain = data.draw(st.booleans(), label="crash")
        if not uncertain:
            delivered, generation = end, marker.generation


@settings(max_examples=150)
@given(histories, levels)
def test_a_reader_delivers_the_same_end_whatever_it_delivered_before(history: ChangeHistory, level: Level) -> None:
    positions = [0]
    for visible in history.ends:
        ends = set()
        for delivered in positions:
            window = next_window(history.commits[:visible], delivered, level)
            ends.add(window[-1].seq if window else delivered)
        assert len(ends - set(positions)) <= 1 and max(ends) >= positions[-1]
        if max(ends) > positions[-1]:
            positions.append(max(ends))


@settings(max_examples=200)
@given(st.lists(st.sampled_from(("forward", "tags", "rollback")), max_size=40), st.integers(0, 2**32))
def test_finalized_takes_nothing_back_unless_the_past_is_corrected(actions: list[str], seed: int) -> None:
    history = ChangeHistory(Random(seed)).play(actions)
    tables: Tables = {}
    delivered = 0
    for visible in history.ends:
        window = next_window(history.commits[:visible], delivered, Level.FINALIZED)
        if window:
            change = net(history.between(delivered, window[-1].seq))
            assert not change.void
            assert not [row for row in change.changes if row.op is Op.DELETE and (row.table, row.key[0]) in tables]
            assert not [row for row in change.changes if row.op is Op.INSERT and (row.table, row.key[0]) in tables]
            apply(tables, change)
            delivered = window[-1].seq


def test_without_a_redelivery_a_row_taken_back_after_a_crash_would_stay() -> None:
    inserted = Change(1, 0, Op.INSERT, "fills", (7,), {"id": 7})
    deleted = Change(2, 0, Op.DELETE, "fills", (7,), {"id": 7})
    tables: Tables = {}
    apply(tables, net([inserted]))  # Then a crash: the position is not stored, and the window begins before it.
    apply(tables, net([inserted, deleted]))
    assert tables
    apply(tables, net([inserted, deleted], redelivery=True))
    assert not tables


def effect(change: Change) -> object:
    return None if change.op is Op.DELETE else change.row


@pytest.mark.parametrize("damage", ["drop", "swap", "repeat"])
def test_the_fold_tells_a_damaged_stream(damage: str) -> None:
    """Losing the last change of a row, swapping it with the one before, or getting that one again must show."""
    tried = 0
    for seed in range(30):
        random = Random(seed)
        history = ChangeHistory(random).play(random.choices(ACTIONS[:-1], k=12))
        sound = history.between(0, history.commits[-1].seq) if history.commits else []
        for name in {(change.table, change.key) for change in sound}:
            last_two = [n for n, change in enumerate(sound) if (change.table, change.key) == name][-2:]
            if len(last_two) < 2 or effect(sound[last_two[0]]) == effect(sound[last_two[1]]):
                continue
            changes, (n, m) = list(sound), last_two
            if damage == "drop":
                del changes[m]
            elif damage == "swap":
                changes[n], changes[m] = changes[m], changes[n]
            else:
                changes.append(changes[n])
            tables: Tables = {}
            apply(tables, net(changes))
            assert tables != history.tables[history.commits[-1].seq]
            tried += 1
    assert tried > 100
