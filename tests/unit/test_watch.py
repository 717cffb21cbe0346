"""What is stuck is found within 60 seconds, by its name, and nothing else is; on a clock that the test holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from indexer.follow.watch import LONGEST, SHORTEST, STATEMENT, STILL, Signs, Watch

Sign = Callable[[float], Signs]
URL = "http://a"
BEGAN = 1000.0


def first_found(watch: Watch, signs: Sign, most: float = 300) -> tuple[str, float] | None:
    """The first thing that is found, and after how many seconds of looking each second."""
    for second in range(int(most)):
        found = watch.observe(signs(BEGAN + second))
        if found:
            return found[0].name, float(second)
    return None


def moving(watch: Watch, block_time: float, until: float = BEGAN) -> int:
    """A head that moved steadily for five minutes; its number."""
    number, at = 100, until - 300
    while at <= until:
        watch.observe(Signs(at, head=number))
        number, at = number + 1, at + max(block_time, 1)
    return number


STUCK: dict[str, Sign] = {
    "poll": lambda now: Signs(now, BEGAN, BEGAN, request=(URL, "eth_getLogs", BEGAN)),
    "step": lambda now: Signs(now, BEGAN, BEGAN),
    "queue": lambda now: Signs(now, BEGAN, BEGAN, full=BEGAN),
    "statement": lambda now: Signs(now, BEGAN, BEGAN, **_asked(now, "silent")),  # type: ignore[arg-type]
    "lock": lambda now: Signs(now, BEGAN, BEGAN, **_asked(now, "lock of psql (pid 7)")),  # type: ignore[arg-type]
    "websocket": lambda now: Signs(now, mute="ws://a" if now > BEGAN + 10 else ""),
}


def _asked(now: float, server: str) -> dict[str, object]:
    """As the watchdog asks: not before STATEMENT seconds."""
    return {"statement": ("UPDATE x", BEGAN), "server": server} if now - BEGAN >= STATEMENT else {}


@pytest.mark.parametrize("block_time", [0.25, 2, 12])
@pytest.mark.parametrize("name", STUCK)
def test_everything_that_is_stuck_is_named_within_60_seconds(name: str, block_time: float) -> None:
    watch = Watch()
    moving(watch, block_time)
    found = first_found(watch, STUCK[name])
    assert found is not None and found[0] == name and found[1] < 60


def test_a_chain_that_moved_steadily_and_stands_still_is_named_within_60_seconds() -> None:
    watch = Watch()
    head = moving(watch, 1)
    found = first_found(watch, lambda now: Signs(now, head=head, looked=now))
    assert found is not None and found[0] == "head" and STILL <= found[1] < 60


def test_a_chain_of_slow_or_uneven_blocks_is_waited_for_as_long_as_it_takes() -> None:
    watch = Watch()
    head = moving(watch, 25)
    assert first_found(watch, lambda now: Signs(now, head=head, looked=now), 70) is None
    quiet = Watch()  # three blocks since the start: a development chain that mines when asked
    for n in range(3):
        quiet.observe(Signs(BEGAN - 200 + n, head=n))
    assert first_found(quiet, lambda now: Signs(now, head=2, looked=now), 1000) is None


def test_what_goes_on_is_not_stuck() -> None:
    watch = Watch()
    moving(watch, 0.25)
    busy = Signs(0, BEGAN)
    going: Sign = lambda now: replace(busy, now=now, active=now - 5, request=(URL, "eth_getLogs", now - 10))  # noqa: E731
    assert first_found(watch, going) is None
    assert first_found(watch, lambda now: Signs(now, None, BEGAN), 29) is None  # between looks
    long = {"server": "working on what takes its time", "statement": ("CREATE INDEX", BEGAN)}
    assert first_found(watch, lambda now: Signs(now, BEGAN, **long)) is None  # type: ignore[arg-type]


def test_one_request_without_an_answer_is_named_though_others_are_answered() -> None:
    found = first_found(Watch(), lambda now: Signs(now, BEGAN, now, request=(URL, "eth_getLogs", BEGAN)))
    assert found is not None and found[0] == "poll" and found[1] < 60


def test_a_statement_that_the_server_works_on_is_slow_after_a_while() -> None:
    found = first_found(Watch(), lambda now: Signs(now, BEGAN, **_asked(now, "working")))  # type: ignore[arg-type]
    assert found is not None and found[0] == "statement" and found[1] < 60


def test_the_limit_follows_the_pace_of_the_chain_and_lets_a_request_end_first() -> None:
    fast, slow, unknown = Watch(least=1), Watch(least=1), Watch(least=1)
    moving(fast, 0.5)
    moving(slow, 12)
    assert (slow.limit, unknown.limit, Watch(least=50).limit) == (LONGEST, LONGEST, 60)
    assert SHORTEST < fast.limit < 22


def test_a_detail_names_the_endpoint_the_method_and_the_time() -> None:
    watch = Watch()
    (stuck,) = watch.observe(Signs(BEGAN + 55, BEGAN, BEGAN, request=(URL, "eth_getLogs", BEGAN + 1)))
    assert (stuck.subject, stuck.detail) == (URL, "http://a has not answered eth_getLogs for 54 s")
