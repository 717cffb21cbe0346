"""What is stuck is found within 60 seconds, by its name, and nothing else is; on a clock that the test holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from indexer.follow.stall_detector import (
    MAX_LIMIT_S,
    MIN_LIMIT_S,
    MIN_STILL_S,
    STATEMENT_LIMIT_S,
    LivenessSignals,
    StallDetector,
)

Sign = Callable[[float], LivenessSignals]
URL = "http://a"
BEGAN = 1000.0


def first_found(watch: StallDetector, signs: Sign, most: float = 300) -> tuple[str, float] | None:
    """The first thing that is found, and after how many seconds of looking each second."""
    for second in range(int(most)):
        found = watch.observe(signs(BEGAN + second))
        if found:
            return found[0].name, float(second)
    return None


def moving(watch: StallDetector, block_time: float, until: float = BEGAN) -> int:
    """A head that moved steadily for five minutes; its number."""
    number, at = 100, until - 300
    while at <= until:
        watch.observe(LivenessSignals(at, head=number))
        number, at = number + 1, at + max(block_time, 1)
    return number


STUCK: dict[str, Sign] = {
    "poll": lambda now: LivenessSignals(now, BEGAN, BEGAN, request=(URL, "eth_getLogs", BEGAN)),
    "step": lambda now: LivenessSignals(now, BEGAN, BEGAN),
    "queue": lambda now: LivenessSignals(now, BEGAN, BEGAN, full=BEGAN),
    "statement": lambda now: LivenessSignals(now, BEGAN, BEGAN, **_asked(now, "silent")),  # type: ignore[arg-type]
    "lock": lambda now: LivenessSignals(now, BEGAN, BEGAN, **_asked(now, "lock of psql (pid 7)")),  # type: ignore[arg-type]
    "websocket": lambda now: LivenessSignals(now, mute="ws://a" if now > BEGAN + 10 else ""),
}


def _asked(now: float, server: str) -> dict[str, object]:
    """As the watchdog asks: not before STATEMENT seconds."""
    return {"statement": ("UPDATE x", BEGAN), "server": server} if now - BEGAN >= STATEMENT_LIMIT_S else {}


@pytest.mark.parametrize("block_time", [0.25, 2, 12])
@pytest.mark.parametrize("name", STUCK)
def test_everything_that_is_stuck_is_named_within_60_seconds(name: str, block_time: float) -> None:
    watch = StallDetector()
    moving(watch, block_time)
    found = first_found(watch, STUCK[name])
    assert found is not None and found[0] == name and found[1] < 60


def test_a_chain_that_moved_steadily_and_stands_still_is_named_within_60_seconds() -> None:
    watch = StallDetector()
    head = moving(watch, 1)
    found = first_found(watch, lambda now: LivenessSignals(now, head=head, looked=now))
    assert found is not None and found[0] == "head" and MIN_STILL_S <= found[1] < 60


def test_a_chain_of_slow_or_uneven_blocks_is_waited_for_as_long_as_it_takes() -> None:
    watch = StallDetector()
    head = moving(watch, 25)
    assert first_found(watch, lambda now: LivenessSignals(now, head=head, looked=now), 70) is None
    quiet = StallDetector()  # three blocks since the start: a development chain that mines when asked
    for n in range(3):
        quiet.observe(LivenessSignals(BEGAN - 200 + n, head=n))
    assert first_found(quiet, lambda now: LivenessSignals(now, head=2, looked=now), 1000) is None


def test_what_goes_on_is_not_stuck() -> None:
    watch = StallDetector()
    moving(watch, 0.25)
    busy = LivenessSignals(0, BEGAN)
    going: Sign = lambda now: replace(busy, now=now, active=now - 5, request=(URL, "eth_getLogs", now - 10))  # noqa: E731
    assert first_found(watch, going) is None
    assert first_found(watch, lambda now: LivenessSignals(now, None, BEGAN), 29) is None  # between looks
    long = {"server": "working on what takes its time", "statement": ("CREATE INDEX", BEGAN)}
    assert first_found(watch, lambda now: LivenessSignals(now, BEGAN, **long)) is None  # type: ignore[arg-type]


def test_one_request_without_an_answer_is_named_though_others_are_answered() -> None:
    found = first_found(
        StallDetector(), lambda now: LivenessSignals(now, BEGAN, now, request=(URL, "eth_getLogs", BEGAN))
    )
    assert found is not None and found[0] == "poll" and found[1] < 60


def test_a_statement_that_the_server_works_on_is_slow_after_a_while() -> None:
    found = first_found(StallDetector(), lambda now: LivenessSignals(now, BEGAN, **_asked(now, "working")))  # type: ignore[arg-type]
    assert found is not None and found[0] == "statement" and found[1] < 60


def test_the_limit_follows_the_pace_of_the_chain_and_lets_a_request_end_first() -> None:
    fast, slow, unknown = StallDetector(least=1), StallDetector(least=1), StallDetector(least=1)
    moving(fast, 0.5)
    moving(slow, 12)
    assert (slow.limit, unknown.limit, StallDetector(least=50).limit) == (MAX_LIMIT_S, MAX_LIMIT_S, 60)
    assert MIN_LIMIT_S < fast.limit < 22


def test_a_detail_names_the_endpoint_the_method_and_the_time() -> None:
    watch = StallDetector()
    (stuck,) = watch.observe(LivenessSignals(BEGAN + 55, BEGAN, BEGAN, request=(URL, "eth_getLogs", BEGAN + 1)))
    assert (stuck.subject, stuck.detail) == (URL, "http://a has not answered eth_getLogs for 54 s")
