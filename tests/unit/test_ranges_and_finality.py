"""Range control and finality: pure, so their rules are checked as properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.finality import Finality
from indexer.chain.types import Header, Heads
from indexer.rpc.ranges import TARGET_LOGS, RangeControl


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_node_that_names_its_limit_refuses_once(ceiling: int, limit: int) -> None:
    control, refused = RangeControl(ceiling), 0
    for _ in range(30):
        asked = control.size
        if asked > limit:
            refused += 1
            control.refused(asked, limit)
        else:
            control.served(asked, 0)
    assert refused == (1 if ceiling > limit else 0)
    assert control.size == min(ceiling, limit)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_without_a_hint_the_ceiling_only_sinks_and_never_below_one_block(ceiling: int, limit: int) -> None:
    control, ceilings = RangeControl(ceiling), []
    for _ in range(40):
        ceilings.append(control.ceiling)
        if control.size > limit:
            control.refused(control.size, None)
        else:
            control.served(control.size, 0)
    assert ceilings == sorted(ceilings, reverse=True) and 1 <= control.size <= max(1, limit)


def test_dense_blocks_shrink_the_range_towards_the_target_and_empty_ones_grow_it_again() -> None:
    control = RangeControl(2000)
    control.served(2000, 40_000)
    assert control.size * 20 <= 2 * TARGET_LOGS
    for _ in range(10):
        control.served(control.size, 0)
    assert control.size == 2000


def header(number: int) -> Header:
    return Header(number, bytes(32), bytes(32), number)


def heads(latest: int, finalized: int | None, safe: int | None = None) -> Heads:
    return Heads(
        header(latest), None if safe is None else header(safe), None if finalized is None else header(finalized)
    )


def test_a_tag_below_latest_is_used() -> None:
    finality = Finality(20)
    assert finality.observe(heads(100, 90, 95))[:3] == (90, 95, "tag")
    assert finality.observe(heads(101, 91, 96))[:3] == (91, 96, "tag")


def test_without_a_tag_the_depth_is_used_and_the_reason_named() -> None:
    verdict = Finality(20).observe(heads(100, None))
    assert (verdict.finalized, verdict.source) == (80, "depth") and "no finalized tag" in verdict.reason
    assert Finality(20).observe(heads(5, None)).finalized == -1


def test_a_tag_that_is_always_latest_is_believed_until_latest_moved_more_than_the_depth() -> None:
    finality = Finality(20)
    assert all(finality.observe(heads(n, n)).source == "tag" for n in range(100, 121))
    verdict = finality.observe(heads(121, 121))
    assert verdict.source == "depth" and "equals latest" in verdict.reason
    assert verdict.finalized == 120  # what was final stays final: before-images below it are gone


def test_a_tag_that_stands_still_is_disbelieved_and_believed_again_when_it_moves() -> None:
    finality = Finality(20)
    assert all(finality.observe(heads(n, 50)).source == "tag" for n in range(100, 121))
    assert "stands still" in finality.observe(heads(121, 50)).reason
    assert finality.observe(heads(122, 110))[:3] == (110, 110, "tag")


def test_an_archive_copy_whose_latest_stands_still_may_call_its_head_final() -> None:
    finality = Finality(20)
    assert all(finality.observe(heads(1000, 1000))[:3] == (1000, 1000, "tag") for _ in range(100))


@given(st.lists(st.tuples(st.integers(0, 300), st.none() | st.integers(0, 300), st.none() | st.integers(0, 300))))
def test_finalized_is_never_above_latest_and_never_returns_below_while_latest_allows(
    seen: list[tuple[int, int | None, int | None]],
) -> None:
    finality, highest = Finality(20), -1
    for latest, finalized, safe in seen:
        verdict = finality.observe(heads(latest, finalized, safe))
        highest = max(highest, verdict.finalized)
        assert verdict.finalized == min(highest, latest)
        assert verdict.finalized <= verdict.safe <= max(latest, verdict.finalized)
