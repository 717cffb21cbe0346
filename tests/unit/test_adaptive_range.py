"""How many blocks are asked for at once: up to what is allowed, about as many logs as aimed at."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.rpc.adaptive_size import REACH, TARGET_BYTES, TARGET_LOGS, AdaptiveRange, LearnedLimits


@pytest.mark.parametrize("configured", [2000, 2001, 10_000, 1_000_000])
def test_on_a_node_of_2000_blocks_no_request_is_refused_after_the_first(configured: int) -> None:
    control, refused = AdaptiveRange(configured), 0
    for _ in range(100):
        if control.size > 2000:
            refused += 1
            control.refused(control.size, 2000)
        else:
            control.succeeded(control.size, 0)
    assert refused == (configured > 2000)
    assert control.size == 2000


def test_without_a_number_in_the_message_a_refusal_halves() -> None:
    control = AdaptiveRange(10_000)
    control.refused(10_000, None)
    assert (control.size, control.ceiling) == (5000, 5000)


@pytest.mark.parametrize("hint", [0, -5, 2000, 5000])
def test_a_number_that_would_not_help_is_not_believed(hint: int) -> None:
    control = AdaptiveRange(2000)
    control.refused(2000, hint)
    assert control.size == 1000


def test_one_block_that_is_refused_stays_one_block() -> None:
    control = AdaptiveRange(1)
    control.refused(1, None)
    assert (control.size, control.ceiling) == (1, 1)


def test_dense_blocks_shrink_the_next_request_and_sparse_ones_let_it_grow() -> None:
    control = AdaptiveRange(2000)
    control.succeeded(2000, 10 * TARGET_LOGS)
    assert control.size == 200
    for _ in range(4):
        control.succeeded(control.size, 0)
    assert control.size == 2000


def test_a_short_last_range_does_not_let_it_grow() -> None:
    control = AdaptiveRange(2000)
    control.succeeded(2000, 10 * TARGET_LOGS)
    control.succeeded(3, 0)
    assert control.size == 200


def test_after_no_answer_fewer_blocks_are_asked_for_but_not_for_good() -> None:
    control = AdaptiveRange(2000)
    control.failed(2000)
    assert (control.size, control.ceiling) == (1000, 2000)
    for _ in range(20):
        control.failed(control.size)
    assert control.size == 1
    for _ in range(11):
        control.succeeded(control.size, 5)
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
    control = AdaptiveRange(configured)
    for kind, blocks, hint, logs in steps:
        before = control.ceiling
        if kind == "refused":
            control.refused(blocks, hint)
            assert control.size <= max(1, blocks - 1)  # the same question is never asked again
        elif kind == "served":
            control.succeeded(blocks, logs)
        else:
            control.failed(blocks)
        assert 1 <= control.size <= control.ceiling <= before


@given(st.integers(1, 5000), st.integers(1, 100_000), st.integers(0, 50))
def test_every_node_is_learnt_within_few_refusals(cap: int, configured: int, density: int) -> None:
    control, refused = AdaptiveRange(configured), 0
    for _ in range(60):
        asked = control.size
        if asked > cap:
            refused += 1
            control.refused(asked, None)
        else:
            control.succeeded(asked, asked * density)
    assert refused <= 17
    assert control.size <= cap


def test_a_limit_on_results_shrinks_the_range_but_not_for_good() -> None:
    control = AdaptiveRange(2000)
    control.refused(2000, 16, results=True)
    assert (control.size, control.ceiling) == (16, 2000)
    for _ in range(10):
        control.succeeded(control.size, 0)
    assert control.size == 2000


def fetched(control: AdaptiveRange, cap: int, fetchers: int, named: bool, density: float, turns: int = 200) -> int:
    """Refusals of a node that serves `cap` blocks, with so many requests under way, answered in any order."""
    chance, refused = random.Random(7), 0
    asked: list[int] = []
    for _ in range(turns):
        asked += [control.size] * (fetchers - len(asked))
        blocks = asked.pop(chance.randrange(fetchers))
        if control.refuses(blocks):
            control.refused(blocks, control.ceiling)
        elif blocks > cap:
            refused += 1
            control.refused(blocks, cap if named else None)
        else:
            control.succeeded(blocks, int(blocks * density))
    assert control.size <= cap
    return refused


@pytest.mark.parametrize("start", [2000, 2001, 5000, 10_000, 64_000])
def test_a_node_of_2000_blocks_refuses_one_size_when_it_names_its_limit_and_the_halvings_when_not(start: int) -> None:
    halvings = 0
    while start // 2**halvings > 2000:
        halvings += 1
    for density in (0, 0.1, 3):
        assert fetched(AdaptiveRange(start), 2000, 1, True, density) == min(1, halvings)
        assert fetched(AdaptiveRange(start), 2000, 1, False, density) <= halvings


def test_requests_under_way_together_shrink_the_size_once() -> None:
    for trouble in ("refused", "results", "failed"):
        control = AdaptiveRange(8000)
        for _ in range(16):
            if trouble == "failed":
                control.failed(8000)
            else:
                control.refused(8000, None, results=trouble == "results")
        assert control.size == 4000
        assert control.ceiling == (4000 if trouble == "refused" else 8000)


def test_a_late_refusal_that_names_less_is_believed_and_one_that_names_more_changes_nothing() -> None:
    control = AdaptiveRange(8000)
    control.refused(8000, 2000)
    control.refused(8000, 500)
    control.refused(8000, 3000)
    assert (control.size, control.ceiling) == (500, 500)


@pytest.mark.parametrize("density", [0.3, 1, 20, 333])
@pytest.mark.parametrize("start", [10_000, 300, 7])
def test_the_target_is_reached_in_two_answers_where_the_density_is_known(start: int, density: float) -> None:
    control = AdaptiveRange(10_000)
    control.size = start
    logs = int(start * density)
    if logs < TARGET_LOGS // REACH:
        return
    for _ in range(2):
        control.succeeded(control.size, int(control.size * density))
    assert 0.6 * TARGET_LOGS <= control.size * density <= 1.6 * TARGET_LOGS or control.size == 1


def test_from_one_block_of_an_empty_chain_it_grows_in_a_few_answers() -> None:
    control = AdaptiveRange(2000)
    control.size = 1
    for _ in range(4):
        control.succeeded(control.size, 0)
    assert control.size == 2000


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_at_an_even_density_the_size_does_not_swing(density: int, seed: int) -> None:
    control, chance, sizes = AdaptiveRange(10_000), random.Random(seed), list[int]()
    for _ in range(60):
        mean = control.size * density
        control.succeeded(control.size, max(0, round(chance.gauss(mean, 1.5 * mean**0.5))))
        sizes.append(control.size)
    settled = sizes[2:]
    assert max(settled) <= 1.5 * min(settled) + 1
    assert sum(a != b for a, b in pairwise(settled)) <= 3
    assert 0.6 * TARGET_LOGS <= settled[-1] * density <= 1.6 * TARGET_LOGS


def test_beyond_what_met_trouble_it_probes_in_small_steps_and_ever_more_patiently() -> None:
    control, limit, failures, answers = AdaptiveRange(2000), 700, list[int](), 0
    for turn in range(300):
        if control.size > limit:
            failures.append(turn)
            control.failed(control.size)
        else:
            before = control.size
            control.succeeded(before, 1)
            assert control.size <= max(1.15 * before, 500)
            answers += 1
    assert len(failures) <= 14 and answers >= 280
    pauses = [b - a for a, b in pairwise(failures)]
    assert pauses[-1] > pauses[1]
    assert control.ceiling == 2000


def test_a_limit_on_logs_is_stayed_well_under() -> None:
    control, refused = AdaptiveRange(2000), 0
    for _ in range(100):
        logs = control.size * 3
        if logs > 500:
            refused += 1
            control.learn(max_logs=500)
            control.refused(control.size, control.size * control.target // 500, results=True)
        else:
            control.succeeded(control.size, logs)
    assert refused <= 5 and 50 <= control.size <= 500 // 3


def test_heavy_answers_shrink_the_next_request() -> None:
    control = AdaptiveRange(2000)
    control.observe_size(2000, 10 * TARGET_BYTES)
    control.succeeded(2000, 10)
    assert control.size == 200
    for _ in range(5):
        control.observe_size(control.size, control.size * TARGET_BYTES // 200)
        control.succeeded(control.size, 1)
    assert control.size == 200
    control.learn(max_bytes=TARGET_BYTES)
    control.observe_size(200, TARGET_BYTES)
    assert control.size == 100


def test_a_small_answer_of_a_heavy_header_does_not_shrink_the_range() -> None:
    control = AdaptiveRange(2000)
    control.observe_size(1, 100_000)
    control.succeeded(1, 3)
    assert control.size == 2000


def test_what_was_learnt_goes_to_other_processes_as_json_and_only_tightens() -> None:
    control = AdaptiveRange(10_000)
    control.refused(10_000, 2000)
    control.learn(max_logs=10_000, max_bytes=5_000_000)
    told = json.loads(json.dumps(asdict(control.snapshot())))
    other = AdaptiveRange(10_000)
    other.restore(LearnedLimits(**told))
    assert other.snapshot() == control.snapshot() == LearnedLimits(2000, 2000, 10_000, 5_000_000)
    tighter = AdaptiveRange(500)
    tighter.learn(max_logs=100)
    tighter.restore(LearnedLimits(**told))
    assert tighter.snapshot() == LearnedLimits(500, 500, 100, 5_000_000)


@given(st.integers(1, 10_000), st.lists(STEPS), st.integers(1, 8))
def test_with_any_requests_under_way_it_stays_within_its_bounds(
    configured: int, steps: list[tuple[str, int, int | None, int]], fetchers: int
) -> None:
    control, asked = AdaptiveRange(configured), list[int]()
    for kind, pick, hint, logs in steps:
        asked += [control.size] * (fetchers - len(asked))
        blocks, size = asked.pop(pick % fetchers), control.size
        if kind == "served":
            control.observe_size(blocks, logs * 700)
            control.succeeded(blocks, logs)
        elif kind == "failed":
            control.failed(blocks)
        else:
            control.refused(blocks, hint, results=bool(logs % 2))
        if kind != "served" and blocks > size and not (hint and 0 < hint < blocks):
            assert control.size == min(size, control.ceiling)
        assert 1 <= control.size <= control.ceiling
