"""How many blocks are asked for at once: up to what is allowed, about as many logs as aimed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.rpc.ranges import TARGET_LOGS, RangeControl


@pytest.mark.parametrize("configured", [2000, 2001, 10_000, 1_000_000])
def test_on_a_node_of_2000_blocks_no_request_is_refused_after_the_first(configured: int) -> None:
    control, refused = RangeControl(configured), 0
    for _ in range(100):
        if control.size > 2000:
            refused += 1
            control.refused(control.size, 2000)
        else:
            control.served(control.size, 0)
    assert refused == (configured > 2000)
    assert control.size == 2000


def test_without_a_number_in_the_message_a_refusal_halves() -> None:
    control = RangeControl(10_000)
    control.refused(10_000, None)
    assert (control.size, control.ceiling) == (5000, 5000)


@pytest.mark.parametrize("hint", [0, -5, 2000, 5000])
def test_a_number_that_would_not_help_is_not_believed(hint: int) -> None:
    control = RangeControl(2000)
    control.refused(2000, hint)
    assert control.size == 1000


def test_one_block_that_is_refused_stays_one_block() -> None:
    control = RangeControl(1)
    control.refused(1, None)
    assert (control.size, control.ceiling) == (1, 1)


def test_dense_blocks_shrink_the_next_request_and_sparse_ones_let_it_grow() -> None:
    control = RangeControl(2000)
    control.served(2000, 10 * TARGET_LOGS)
    assert control.size == 200
    for _ in range(4):
        control.served(control.size, 0)
    assert control.size == 2000


def test_a_short_last_range_does_not_let_it_grow() -> None:
    control = RangeControl(2000)
    control.served(2000, 10 * TARGET_LOGS)
    control.served(3, 0)
    assert control.size == 200


def test_after_no_answer_fewer_blocks_are_asked_for_but_not_for_good() -> None:
    control = RangeControl(2000)
    control.failed(2000)
    assert (control.size, control.ceiling) == (1000, 2000)
    for _ in range(20):
        control.failed(control.size)
    assert control.size == 1
    for _ in range(11):
        control.served(control.size, 5)
    assert control.size == 2000


STEPS = st.tuples(
    st.sampled_from(["refused", "served", "failed"]),
    st.integers(1, 5000),
    st.none() | st.integers(-1, 5000),
    st.integers(0, 50_000),
)


@given(st.integers(-1, 10_000), st.lists(STEPS))
def test_the_ceiling_only_sinks_and_size_stays_between_one_and_it(
    configured: int, steps: list[tuple[str, int, int | None, int]]
) -> None:
    control = RangeControl(configured)
    for kind, blocks, hint, logs in steps:
        before = control.ceiling
        if kind == "refused":
            control.refused(blocks, hint)
            assert control.size <= max(1, blocks - 1)  # the same question is never asked again
        elif kind == "served":
            control.served(blocks, logs)
        else:
            control.failed(blocks)
        assert 1 <= control.size <= control.ceiling <= before


@given(st.integers(1, 5000), st.integers(1, 100_000), st.integers(0, 50))
def test_every_node_is_learnt_within_few_refusals(cap: int, configured: int, density: int) -> None:
    control, refused = RangeControl(configured), 0
    for _ in range(60):
        asked = control.size
        if asked > cap:
            refused += 1
            control.refused(asked, None)
        else:
            control.served(asked, asked * density)
    assert refused <= 17
    assert control.size <= cap


def test_a_limit_on_results_shrinks_the_range_but_not_for_good() -> None:
    control = RangeControl(2000)
    control.refused(2000, 16, results=True)
    assert (control.size, control.ceiling) == (16, 2000)
    for _ in range(10):
        control.served(control.size, 0)
    assert control.size == 2000
