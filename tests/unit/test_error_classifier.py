"""What nodes really say when they refuse, and how it is understood: class, blocks, logs, bytes, calls, seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import errors
from indexer.errors import (
    BatchUnsupportedError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
)
from indexer.rpc import error_hints
from indexer.rpc.error_classifier import classify

MESSAGES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "rpc_messages.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize("said", MESSAGES, ids=lambda said: f"{said['provider']}: {said['message'][:50]}")
def test_a_message_of_a_real_node_is_understood(said: dict[str, Any]) -> None:
    error = classify(said["code"], said["message"], "node", said["status"])
    assert type(error) is getattr(errors, said["expected"])
    assert (error.hint if isinstance(error, RangeTooLargeError) else None) == said["hint"]
    assert error.endpoint == "node"
    assert (error.results if isinstance(error, RangeTooLargeError) else None) == said.get("results")
    numbers = error_hints.max_results(said["message"]), error_hints.max_bytes(said["message"])
    assert numbers == (
        (said.get("max_logs"), said.get("bytes")) if isinstance(error, RangeTooLargeError) else (None, None)
    )
    if isinstance(error, BatchUnsupportedError):
        assert error_hints.max_batch_calls(said["message"]) == said.get("calls")
        assert error_hints.is_about_batch_length(said["message"])
    if isinstance(error, RateLimitedError):
        assert error.retry_after == said.get("retry_after")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("86400", 60.0), ("", None), ("²", None), ("-1", None), ("nan", None)],
)
def test_retry_after_is_seconds_and_capped_at_a_minute(value: str, seconds: float | None) -> None:
    error = classify(0, "slow down", status=429, headers={"Retry-After": value})
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("value", "date", "now", "seconds"),
    [
        ("Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 30.0),  # the node's clock, not ours
        ("Wed, 21 Oct 2015 07:28:30 GMT", "", 1445412500.0, 10.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", "", 1445412500.0, 10.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "", 1445419999.0, 0.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "", 1.0, 60.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "never", None, None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", "", 1.0, None),
    ],
)
def test_retry_after_may_be_a_date(value: str, date: str, now: float | None, seconds: float | None) -> None:
    error = classify(0, "slow down", status=429, headers={"Retry-After": value, "Date": date}, now=now)
    assert isinstance(error, RateLimitedError) and error.retry_after == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("rate limit exceeded, try again in 350ms", 0.35),
        ("too many requests, retry in 10s", 10),
        ("too many requests, retry in 1m30s", 90),
        ("please wait 1min and retry", 60),
        ("try again in 2 seconds", 2),
        ("retry after 1.5 s", 1.5),
        ("query exceeds max results 20000, retry with the range 3600741-3620740", None),
        ("try again later", None),
        ("If you have retries enabled, you can safely ignore this message.", None),
    ],
)
def test_a_time_to_ask_again_is_read_from_the_message(said: str, seconds: float | None) -> None:
    assert error_hints.retry_after(said) == (seconds and pytest.approx(seconds))


def test_a_header_counts_before_the_data_and_the_data_before_the_message() -> None:
    said = "rate limit exceeded, try again in 30s"
    for headers, backoff, seconds in (({"Retry-After": "2"}, 7.0, 2.0), ({}, 7.0, 7.0), ({}, None, 30.0)):
        error = classify(-32005, said, headers=headers, backoff=backoff)
        assert isinstance(error, RateLimitedError) and error.retry_after == seconds


def test_an_empty_body_is_named_by_its_status() -> None:
    assert isinstance(classify(0, "", status=503), TransientRpcError)
    assert "HTTP 503" in str(classify(0, "", status=503))


def test_a_message_over_many_lines_becomes_one_short_line() -> None:
    error = classify(0, "<html>\n\n" + "x\n" * 5000, "node")
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("status", "message"), [(418, ""), (200, "execution reverted"), (200, "block 5 lies in the range of the merge")]
)
def test_an_unknown_error_stays_a_refusal(status: int, message: str) -> None:
    assert type(classify(-32000, message, status=status)) is RpcCallError


@given(st.integers(), st.text(), st.integers(100, 599), st.dictionaries(st.just("Retry-After"), st.text()))
def test_any_message_gives_exactly_one_rpc_error(code: int, text: str, status: int, headers: dict[str, str]) -> None:
    error = classify(code, text, "node", status, headers)
    assert isinstance(error, RpcError)
    if isinstance(error, RangeTooLargeError):
        assert error.hint is None or error.hint > 0


@given(st.text() | st.text("0123456789,.-[]x> kKmMbB"))
def test_numbers_of_any_message_are_positive(text: str) -> None:
    for said in (
        text,
        f"batch limit {text}",
        f"response {text} bytes",
        f"block range {text}",
        f"more than {text} logs",
    ):
        for read in (
            error_hints.suggested_blocks,
            error_hints.max_results,
            error_hints.max_bytes,
            error_hints.max_batch_calls,
            error_hints.retry_after,
        ):
            found = read(said)
            assert found is None or found >= (0 if read is error_hints.retry_after else 1)


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_a_named_window_is_counted_inclusively_or_not_at_all(low: int, high: int) -> None:
    blocks = high - low + 1
    assert error_hints.suggested_blocks(f"this block range should work: [{low:#x}, {high:#x}]") == (
        blocks if blocks > 0 else None
    )
