"""How many calls go into one batch: what a node refuses is learnt once, what was mere trouble is grown out of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.rpc.adaptive_size import ANSWERS_BEFORE_GROWTH, AdaptiveBatch


def test_a_named_limit_is_kept_for_good() -> None:
    control = AdaptiveBatch(250)
    control.refused(250, 100)
    assert (control.size, control.ceiling) == (100, 100)
    for _ in range(10 * ANSWERS_BEFORE_GROWTH):
        control.succeeded(control.size)
    assert control.size == 100


def test_without_a_number_it_sinks_to_a_quarter_and_at_last_to_single_calls() -> None:
    control = AdaptiveBatch(250)
    sizes = []
    while control.size > 1:
        control.refused(control.size)
        sizes.append(control.size)
    assert sizes == [62, 15, 3, 1]


def test_batches_under_way_together_are_refused_once() -> None:
    control = AdaptiveBatch(200)
    for _ in range(8):
        control.refused(200)
    assert control.size == 50
    control.refused(200, 10)  # a late one that names a number still teaches it
    assert control.size == 10


def test_after_trouble_it_grows_back_step_by_step() -> None:
    control = AdaptiveBatch(200)
    for _ in range(8):
        control.failed(200)
    assert (control.size, control.ceiling) == (100, 200)
    for _ in range(5 * ANSWERS_BEFORE_GROWTH):
        control.succeeded(control.size)
    assert control.size == 200


def test_a_refusal_that_may_have_meant_batches_is_tried_again_ever_more_seldom() -> None:
    control = AdaptiveBatch(100)
    answers = []
    for _ in range(3):
        while control.size > 1:
            control.refused(control.size, length=False)
        answers.append(0)
        while control.size == 1:
            control.succeeded(1)
            answers[-1] += 1
    assert control.ceiling == 100
    assert answers[0] >= ANSWERS_BEFORE_GROWTH and answers == sorted(set(answers))


@pytest.mark.parametrize("cap", [2, 3, 5, 30, 70])
def test_a_limit_on_length_in_words_of_a_rate_is_found_and_seldom_met_again(cap: int) -> None:
    control, answers, refusals = AdaptiveBatch(250), 0, 0
    while answers < 5_000:
        if control.size > cap:
            control.limited(control.size)
            refusals += 1
        else:
            control.succeeded(control.size)
            answers += 1
    assert cap // 2 <= control.size <= cap + 1
    assert refusals <= 60, "about one answer in a hundred"


def test_after_many_limits_a_grown_batch_that_is_answered_grows_on() -> None:
    control = AdaptiveBatch(250)
    for _ in range(20):
        while control.size > 4:
            control.limited(control.size)
        while control.size <= 4:
            control.succeeded(control.size)
    answers = 0
    while control.size < 250:
        control.succeeded(control.size)
        answers += 1
        assert answers < 10**8
    assert control.size == 250


@pytest.mark.parametrize("calls", [1, 2, 8])
def test_a_short_batch_without_an_answer_failed_for_another_reason(calls: int) -> None:
    control = AdaptiveBatch(8)
    control.failed(calls)
    assert control.size == 8


@given(st.integers(-1, 500), st.lists(st.tuples(st.integers(1, 500), st.none() | st.integers(-1, 500), st.booleans())))
def test_a_refused_length_is_not_asked_for_again_at_once(
    configured: int, refusals: list[tuple[int, int | None, bool]]
) -> None:
    control = AdaptiveBatch(configured)
    for calls, hint, length in refusals:
        before = control.ceiling
        control.refused(calls, hint, length=length)
        assert control.size < calls or control.size == 1
        assert 1 <= control.size <= control.ceiling <= before
