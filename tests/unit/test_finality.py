"""Rule: finality is a tag that is believed until the tag itself gives evidence against it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.finality import MISSING_TAG_S, UNREACHED_S, FinalityStatus, FinalityTracker
from indexer.chain.types import Header, Heads

DEPTH = 10


def heads(latest: int, finalized: int | None = None, safe: int | None = None, failing: str = "") -> Heads:
    def header(number: int) -> Header:
        return Header(number, bytes(32), bytes(32), number)

    one, other = (None if n is None else header(n) for n in (safe, finalized))
    return Heads(header(latest), one, other, failing)


def seen(*looks: tuple[int, int | None]) -> list[FinalityStatus]:
    finality = FinalityTracker(DEPTH)
    return [finality.observe(heads(latest, tag)) for latest, tag in looks]


def test_a_tag_that_follows_at_a_distance_is_believed() -> None:
    for verdict, tag in zip(seen((100, 50), (200, 150), (300, 290)), (50, 150, 290), strict=True):
        assert verdict == FinalityStatus(tag, tag, "tag", "")


def test_without_a_tag_the_depth_counts_and_the_reason_says_so() -> None:
    (verdict,) = seen((100, None))
    assert verdict == FinalityStatus(90, 90, "depth", "the node has no finalized tag")


def test_a_young_chain_without_a_tag_has_nothing_final() -> None:
    assert [v.finalized for v in seen((0, None), (9, None), (10, None))] == [-1, -1, 0]


def test_a_node_whose_head_stands_still_may_call_it_finalized() -> None:
    for verdict in seen(*[(100, 100)] * 50):
        assert verdict.finalized == 100 and verdict.source == "tag"


def test_a_tag_that_equals_a_moving_head_is_disbelieved_after_the_depth() -> None:
    verdicts = seen(*((100 + n, 100 + n) for n in range(DEPTH + 2)))
    assert [v.source for v in verdicts] == ["tag"] * (DEPTH + 1) + ["depth"]
    assert "equals latest" in verdicts[-1].reason


def test_a_tag_that_stands_still_while_the_head_moves_is_disbelieved_after_the_depth() -> None:
    verdicts = seen((100, 80), (100 + DEPTH, 80), (101 + DEPTH, 80), (130, 80))
    assert [v.source for v in verdicts] == ["tag", "tag", "depth", "depth"]
    assert "stands still" in verdicts[-1].reason
    assert verdicts[-1].finalized == 120


def test_a_tag_that_moves_again_is_believed_again() -> None:
    verdicts = seen((100, 80), (130, 80), (131, 115))
    assert verdicts[1].source == "depth" and verdicts[2].source == "tag"
    assert verdicts[2].finalized == 120  # not below what the depth gave before


def test_a_tag_that_once_was_below_the_head_starts_the_evidence_anew() -> None:
    verdicts = seen(*((100 + n, 100 + n - (n == 8)) for n in range(DEPTH + 5)))
    assert all(v.source == "tag" for v in verdicts)


def test_what_happened_before_this_process_is_no_evidence() -> None:
    assert seen((10_000, 5))[0] == FinalityStatus(5, 5, "tag", "")


def test_a_lagging_node_takes_back_nothing_that_was_final() -> None:
    verdicts = seen((200, 150), (190, 120), (120, 60), (201, 151))
    assert [v.finalized for v in verdicts] == [150, 150, 120, 151]


def test_the_safe_tag_is_dropped_together_with_a_disbelieved_finalized_tag() -> None:
    finality = FinalityTracker(DEPTH)
    assert finality.observe(heads(100, 80, 95)).safe == 95
    verdict = finality.observe(heads(130, 80, 125))
    assert (verdict.finalized, verdict.safe) == (120, 120)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("failing", ["", "the parent chain does not answer"], ids=["refused", "failing"])
def test_a_tag_that_is_missing_for_a_moment_makes_nothing_final_by_depth_and_takes_nothing_back(failing: str) -> None:
    clock = Clock()
    finality = FinalityTracker(DEPTH, clock)
    assert finality.observe(heads(100, 50)).finalized == 50
    for n in range(1, 5):
        clock.now = n * MISSING_TAG_S / 4
        verdict = finality.observe(heads(100 + 50 * n, failing=failing))
        assert (verdict.finalized, verdict.source) == (50, "unknown") and "nothing becomes final" in verdict.reason
    assert finality.observe(heads(400, 350)) == FinalityStatus(350, 350, "tag", "")
    # The wait begins anew, and when it is over the configured depth counts.
    clock.now += 1
    assert finality.observe(heads(400, failing=failing)).source == "unknown"
    clock.now += MISSING_TAG_S + 1
    verdict = finality.observe(heads(500, failing=failing))
    assert (verdict.finalized, verdict.source) == (490, "depth") and verdict.reason


def test_a_tag_that_fails_from_the_start_is_waited_for_before_the_depth_counts() -> None:
    clock = Clock()
    finality = FinalityTracker(DEPTH, clock)
    assert finality.observe(heads(100, failing="busy")).finalized == -1
    clock.now = MISSING_TAG_S + 1
    assert finality.observe(heads(101, failing="busy"))[:3] == (91, 91, "depth")


@pytest.mark.parametrize("tag", [None, 10**12], ids=["by depth", "by tag"])
def test_a_final_block_that_no_head_reaches_is_forgotten(tag: int | None) -> None:
    clock = Clock()
    finality = FinalityTracker(DEPTH, clock)
    assert finality.observe(heads(100, 50 if tag else None)).finalized > 0
    finality.observe(heads(10**12, tag))
    assert finality.final.number >= 10**12 - DEPTH
    for n in range(3):
        clock.now = n * UNREACHED_S / 2
        assert finality.observe(heads(101 + n, 51 + n)).finalized == 101 + n
    clock.now += 1
    assert finality.observe(heads(104, 54))[:3] == (54, 54, "tag") and "forgotten" in finality.remark
    assert finality.final.number == 54
    assert finality.observe(heads(105, 55)).finalized == 55 and "forgotten" not in finality.remark


def test_a_final_block_that_some_head_reaches_stays() -> None:
    clock = Clock()
    finality = FinalityTracker(DEPTH, clock)
    finality.observe(heads(100, 90))
    for n in range(20):  # One endpoint lags, another does not.
        clock.now += UNREACHED_S / 2
        assert finality.observe(heads(60, 50)).finalized == 60
        clock.now += UNREACHED_S / 2
        assert finality.observe(heads(100 + n, 90)).finalized == 90
    assert finality.final.number == 90


def test_a_stuck_node_makes_nobody_forget_what_is_final() -> None:
    clock = Clock()
    finality = FinalityTracker(DEPTH, clock)
    finality.observe(heads(100, 90))
    for _ in range(20):  # On an orphaned branch, perhaps: whoever forgot the final block would follow it.
        clock.now += UNREACHED_S
        finality.observe(heads(60, 50))
    assert finality.final.number == 90


def test_what_a_false_head_said_is_forgotten_with_it() -> None:
    clock = Clock()
    finality = FinalityTracker(DEPTH, clock)
    finality.observe(heads(10**12, 10**12))
    for n in range(100):  # A node whose tag is its head: disbelieved, as without the false head.
        clock.now += UNREACHED_S / 3
        verdict = finality.observe(heads(100 + n, 100 + n))
    assert (verdict.source, verdict.finalized, finality.final.number) == ("depth", 199 - DEPTH, 199 - DEPTH)
    # And the next one is waited out for as long.
    finality.observe(heads(10**9, 10**9))
    clock.now += UNREACHED_S / 2
    finality.observe(heads(201, 150))
    clock.now += UNREACHED_S / 2
    finality.observe(heads(202, 150))
    assert finality.final.number > 10**8


def test_an_endpoint_without_the_tag_makes_nothing_final_while_another_serves_it() -> None:
    finality = FinalityTracker(DEPTH, Clock())
    for n in range(50):
        assert finality.observe(heads(1000 + 4 * n, 500 + 2 * n)).finalized == 500 + 2 * n
        assert finality.observe(heads(1002 + 4 * n)).finalized == 500 + 2 * n


def test_a_tag_that_hardly_moves_stands_still() -> None:
    verdicts = seen((100, 5), (110, 5), (120, 6), (140, 7))
    assert [v.source for v in verdicts] == ["tag", "tag", "depth", "depth"]
    assert verdicts[-1].finalized == 130


def test_a_tag_that_is_far_behind_is_used_and_said_to_be_so() -> None:
    finality = FinalityTracker(DEPTH)
    assert (finality.observe(heads(100, 95)).source, finality.remark) == ("tag", "")
    assert finality.observe(heads(200, 105)).source == "tag" and "more than 10 blocks below" in finality.remark


@given(
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 200), st.none() | st.integers(0, 220), st.none() | st.integers(0, 220))),
)
def test_safe_lies_between_finalized_and_latest_and_finalized_only_sinks_with_latest(
    depth: int, looks: list[tuple[int, int | None, int | None]]
) -> None:
    finality, highest = FinalityTracker(depth), -1
    for latest, tag, safe in looks:
        verdict = finality.observe(heads(latest, tag, safe))
        assert -1 <= verdict.finalized <= verdict.safe <= latest
        assert verdict.finalized >= min(highest, latest)
        assert (verdict.reason == "") == (verdict.source == "tag")
        assert tag is not None or verdict.source != "tag"
        highest = max(highest, verdict.finalized)


@given(st.integers(0, 20), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30))))
def test_a_tag_that_moves_below_the_head_is_believed_for_ever(depth: int, steps: list[tuple[int, int]]) -> None:
    finality, latest, tag = FinalityTracker(depth), 100, 10
    for ahead, distance in steps:
        latest += ahead
        tag = max(tag + 1, latest - distance)
        latest = max(latest, tag + 1)
        assert finality.observe(heads(latest, tag)) == FinalityStatus(tag, tag, "tag", "")
