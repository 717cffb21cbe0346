"""What an endpoint was like: why it is asked last, for how long, and what is counted."""

from __future__ import annotations

import pytest

from indexer.chain.types import Header
from indexer.rpc.health import (
    FAILING_S,
    HALF_LIFE_S,
    MAX_RETRY_S,
    MAX_SET_ASIDE_S,
    RETRY_S,
    SET_ASIDE_S,
    EndpointHealth,
    MethodSupport,
)


def header(number: int, timestamp: int) -> Header:
    return Header(number, bytes(32), bytes(32), timestamp)


def test_the_same_again_lasts_twice_as_long_and_after_a_good_while_as_long_as_at_first() -> None:
    score, now, lasted = EndpointHealth(), 0.0, []
    for _ in range(6):
        put = score.set_aside(now, "contradicting", "")
        assert put is not None
        lasted.append(put.until - now)
        now = put.until + 1
    assert lasted == [SET_ASIDE_S, 2 * SET_ASIDE_S, 4 * SET_ASIDE_S, 8 * SET_ASIDE_S, MAX_SET_ASIDE_S, MAX_SET_ASIDE_S]
    put = score.set_aside(now + 10 * SET_ASIDE_S, "contradicting", "")
    assert put is not None and put.until == now + 11 * SET_ASIDE_S


def test_a_lesser_reason_does_not_shorten_a_greater_one_and_a_greater_one_takes_its_place() -> None:
    score = EndpointHealth()
    score.set_aside(0, "wrong chain", "")
    assert score.set_aside(1, "failing", "", FAILING_S) is None
    assert score.state(2) == "wrong chain"
    other = EndpointHealth()
    other.set_aside(0, "lagging", "")
    other.set_aside(1, "contradicting", "")
    assert other.state(2) == "contradicting"
    assert not other.clear_set_aside(2, "lagging")
    assert other.clear_set_aside(2, "contradicting") and other.state(2) == "unknown"


def test_a_reason_of_one_purpose_leaves_the_others_alone() -> None:
    score = EndpointHealth()
    score.set_aside(0, "pruned", "no history", purpose="backfill")
    assert score.severity(1, "backfill") > 0 == score.severity(1, "follow")
    assert score.severity(SET_ASIDE_S + 1, "backfill") == 0


def test_errors_fade_and_one_failure_is_no_rate() -> None:
    score = EndpointHealth()
    score.failed(0, "time-out")
    assert score.error_rate(0) == 0.25
    for _ in range(7):
        score.failed(0, "time-out")
    assert score.error_rate(0) == 1
    for _ in range(8):
        score.answered(HALF_LIFE_S, 0.1)
    assert score.error_rate(HALF_LIFE_S) == pytest.approx(4 / 12)
    assert score.error_rate(50 * HALF_LIFE_S) < 0.001
    assert (score.counts["requests"], score.counts["failures"]) == (16, 8)


def test_a_refused_rate_is_no_failure() -> None:
    score = EndpointHealth()
    score.failed(0, "429", limited=True)
    assert (score.error_rate(0), score.counts["limited"], score.counts["failures"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("behind", "seconds", "lags"), [(3, 30, False), (20, 3, False), (20, 5, True), (0, 0, False), (-5, -5, False)]
)
def test_who_is_behind_in_blocks_and_in_time_lags(behind: int, seconds: int, lags: bool) -> None:
    score = EndpointHealth()
    assert score.observe_head(header(100 - behind, 1000 - seconds), 0, header(100, 1000)) is lags
    assert score.lag == max(0, behind)
    assert not score.observe_head(header(100, 1000), 0, None) and score.lag is None


def test_news_are_told_once() -> None:
    score = EndpointHealth()
    score.answered(0, 0.1)
    score.failed(0, "x")
    news = score.pending_counts()
    assert news == {"requests": 2, "failures": 1}
    score.answered(0, 0.1)  # while it is written
    score.mark_saved(news)
    assert score.pending_counts() == {"requests": 1}


def test_what_is_refused_rests_longer_each_time_and_is_forgotten_when_it_is_answered() -> None:
    support, now = MethodSupport(), 0.0
    assert support.refused("eth_getBlockReceipts", now, "not whitelisted")
    pauses: list[float] = []
    while len(pauses) < 9:
        known = support.get("eth_getBlockReceipts")
        assert known is not None and support.rests("eth_getBlockReceipts", known.until - 1)
        pauses.append(known.until - now)
        now = known.until
        assert not support.rests("eth_getBlockReceipts", now)
        assert not support.refused("eth_getBlockReceipts", now, "not whitelisted"), "no news"
    assert pauses == [min(RETRY_S * 2**n, MAX_RETRY_S) for n in range(9)]
    assert support.answered("eth_getBlockReceipts") and not support.answered("eth_getBlockReceipts")
    assert support.get("eth_getBlockReceipts") is None and support.reasons() == {}


def test_what_is_refused_is_said_unless_something_worse_is() -> None:
    health = EndpointHealth()
    assert health.reason(0) == ""
    health.support.refused("tag safe", 0, "unknown block")
    health.support.refused("eth_getBlockReceipts", 0, "upgrade your plan")
    assert health.reason(1) == "refuses eth_getBlockReceipts: upgrade your plan; tag safe: unknown block"
    health.set_aside(1, "omitting", "left out log 3")
    assert health.reason(2) == "left out log 3"
