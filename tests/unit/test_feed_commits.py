"""Which commits each level delivers: the rules of `indexer.feed.commits`, case by case."""

from __future__ import annotations

from datetime import datetime

import pytest

from indexer.feed.commits import Commit, CommitKind, Level, next_window, settled_end, uncaptured

AT = datetime(2026, 1, 2)


def commit(
    seq: int, kind: CommitKind, first: int, last: int, *, floor: int | None = None, safe: int | None = None,
    captured: bool = True,
) -> Commit:  # fmt: skip
    """A commit that leaves the checkpoint at the end of a range that is projected, or below one that is void."""
    checkpoint = {"rollback": first - 1, "reproject": None}.get(kind, last)
    return Commit(seq, 0, kind, first, last, 1, AT, captured, checkpoint, None, None, floor, safe)


def end_of(commits: list[Commit], delivered: int, level: Level) -> int | None:
    found = settled_end(commits, delivered, level)
    return found.seq if found else None


@pytest.mark.parametrize("level", list(Level))
def test_an_empty_log_has_no_end(level: Level) -> None:
    assert settled_end([], 0, level) is None
    assert next_window([], 7, level) == []


def test_each_level_ends_at_its_tag() -> None:
    log = [commit(n, "forward", n, n, floor=3, safe=5) for n in range(1, 9)]
    assert [end_of(log, 0, level) for level in Level] == [8, 5, 3]
    assert [end_of(log, 5, level) for level in Level] == [8, None, None]
    assert [c.seq for c in next_window(log, 3, Level.SAFE)] == [4, 5]


def test_an_unknown_tag_covers_nothing() -> None:
    assert [end_of([commit(1, "forward", 0, 0)], 0, level) for level in Level] == [1, None, None]


def test_a_step_of_many_blocks_waits_until_all_are_covered() -> None:
    log = [commit(1, "forward", 0, 9, floor=9), commit(2, "forward", 10, 20, floor=15)]
    assert end_of(log, 1, Level.FINALIZED) is None
    assert end_of([*log, commit(3, "forward", 21, 21, floor=20)], 1, Level.FINALIZED) == 2


def test_a_rollback_is_an_end_and_what_it_took_back_is_none() -> None:
    log = [
        commit(1, "forward", 0, 100, floor=100),
        commit(2, "forward", 101, 105, floor=100),
        commit(3, "rollback", 103, 105, floor=100),
        commit(4, "forward", 103, 107, floor=104),
    ]
    assert [c.seq for c in next_window(log, 1, Level.FINALIZED)] == [2, 3]


def test_a_heal_of_final_blocks_waits_for_the_blocks_above_them() -> None:
    log = [commit(1, "forward", 0, 105, floor=105), commit(2, "forward", 106, 110, floor=105)]
    log.append(commit(3, "heal", 50, 110, floor=105))
    assert end_of(log, 1, Level.FINALIZED) is None
    assert end_of([*log, commit(4, "forward", 111, 111, floor=110)], 1, Level.FINALIZED) == 3


def test_what_is_stored_and_not_projected_does_not_count() -> None:
    """The blocks of a rollback or heal may lie above the checkpoint, which is what the tables contain."""
    log = [commit(1, "forward", 0, 80, floor=80, safe=80)]
    log.append(commit(2, "rollback", 91, 100, floor=80, safe=80)._replace(checkpoint=80))
    log.append(commit(3, "heal", 85, 100, floor=80, safe=80)._replace(checkpoint=80))
    assert [end_of(log, 0, level) for level in Level] == [3, 3, 3]
    log.append(commit(4, "forward", 81, 90, floor=80, safe=90))
    assert [end_of(log, 3, level) for level in Level] == [4, 4, None]


def test_a_heal_of_empty_tables_is_an_end_like_the_reproject_before_it() -> None:
    log = [commit(1, "forward", 0, 100, floor=90), commit(2, "reproject", 0, 100, floor=90)]
    log.append(commit(3, "heal", 50, 100, floor=90)._replace(checkpoint=None))
    assert [c.seq for c in next_window(log, 1, Level.FINALIZED)] == [2, 3]


def test_a_tag_that_outlasts_a_reproject_covers_nothing_that_is_not_projected_again() -> None:
    """Otherwise the end would depend on what was delivered before."""
    log = [commit(1, "forward", 0, 9, floor=2, safe=8), commit(2, "reproject", 0, 9, floor=2, safe=8)]
    log.append(commit(3, "heal", 5, 9, floor=2, safe=8)._replace(checkpoint=None))
    log.append(commit(4, "forward", 0, 4, floor=2, safe=2))
    assert [end_of(log, delivered, Level.SAFE) for delivered in (0, 1, 2, 3)] == [3, 3, 3, None]


def test_a_reproject_is_an_end_at_once() -> None:
    log = [commit(1, "forward", 10, 100, floor=90, safe=95), commit(2, "reproject", 10, 100)]
    assert [end_of(log, 0, level) for level in Level] == [2, 2, 2]
    log.append(commit(3, "forward", 10, 40, floor=40, safe=40))
    assert [end_of(log, 2, level) for level in Level] == [3, 3, 3]


def test_a_stale_floor_of_a_recovery_does_not_cover_what_replaces_its_blocks() -> None:
    log = [commit(1, "forward", 0, 100, floor=100), commit(2, "rollback", 91, 100, floor=100)]
    log.append(commit(3, "forward", 91, 99, floor=92))
    assert end_of(log, 1, Level.FINALIZED) == 2


def test_a_safe_block_that_falls_uncovers_nothing() -> None:
    """Another node lags behind: what was delivered before a crash would otherwise be ahead of what is delivered now."""
    log = [commit(1, "forward", 0, 8, floor=0, safe=8), commit(2, "forward", 9, 10, floor=0, safe=10)]
    assert end_of(log, 0, Level.SAFE) == 2
    log.append(commit(3, "forward", 11, 11, floor=0, safe=5))
    assert end_of(log, 0, Level.SAFE) == 2


def test_a_reorg_below_a_delivered_safe_block_is_delivered_at_once() -> None:
    log = [
        commit(2, "forward", 9, 10, floor=0, safe=10),
        commit(3, "forward", 11, 11, floor=0, safe=5),
        commit(4, "rollback", 8, 11, floor=0, safe=5),
    ]
    assert end_of(log, 0, Level.SAFE) == end_of(log, 2, Level.SAFE) == 4


def test_rows_that_were_not_captured_are_named_unless_they_are_void() -> None:
    bulk = [commit(n, "forward", n, n, captured=False) for n in (1, 2)]
    live = commit(3, "forward", 3, 3)
    assert uncaptured([*bulk, live]) == bulk
    void, again = commit(4, "reproject", 0, 3), commit(5, "forward", 0, 9, captured=False)
    assert uncaptured([*bulk, live, void]) == []
    assert uncaptured([*bulk, live, void, again]) == [again]
    lost = void._replace(captured=False)
    assert uncaptured([*bulk, lost]) == [lost]
    assert uncaptured([]) == []
