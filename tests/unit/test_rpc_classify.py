"""What nodes really say when they refuse, and how it is understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import errors
from indexer.errors import RangeTooLarge, RateLimited, RpcError, RpcRefused, Transient
from indexer.rpc.classify import classify, hint

MESSAGES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "rpc_messages.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize("said", MESSAGES, ids=lambda said: f"{said['provider']}: {said['message'][:50]}")
def test_a_message_of_a_real_node_is_understood(said: dict[str, Any]) -> None:
    error = classify(said["code"], said["message"], "node", said["status"])
    assert type(error) is getattr(errors, said["expected"])
    assert (error.hint if isinstance(error, RangeTooLarge) else None) == said["hint"]
    assert error.endpoint == "node"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("86400", 60.0), ("", None), ("²", None), ("-1", None), ("nan", None)],
)
def test_retry_after_is_seconds_and_capped_at_a_minute(value: str, seconds: float | None) -> None:
    error = classify(0, "slow down", status=429, headers={"Retry-After": value})
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_an_empty_body_is_named_by_its_status() -> None:
    assert isinstance(classify(0, "", status=503), Transient)
    assert "HTTP 503" in str(classify(0, "", status=503))


def test_a_message_over_many_lines_becomes_one_short_line() -> None:
    error = classify(0, "<html>\n\n" + "x\n" * 5000, "node")
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("status", "message"), [(418, ""), (200, "execution reverted"), (200, "block 5 lies in the range of the merge")]
)
def test_an_unknown_error_stays_a_refusal(status: int, message: str) -> None:
    assert type(classify(-32000, message, status=status)) is RpcRefused


@given(st.integers(), st.text(), st.integers(100, 599), st.dictionaries(st.just("Retry-After"), st.text()))
def test_any_message_gives_exactly_one_rpc_error(code: int, text: str, status: int, headers: dict[str, str]) -> None:
    error = classify(code, text, "node", status, headers)
    assert isinstance(error, RpcError)
    if isinstance(error, RangeTooLarge):
        assert error.hint is None or error.hint > 0


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_a_named_window_is_counted_inclusively_or_not_at_all(low: int, high: int) -> None:
    blocks = high - low + 1
    assert hint(f"this block range should work: [{low:#x}, {high:#x}]") == (blocks if blocks > 0 else None)
