"""Classification of a node's refusals: one error class per reaction. Pure.

Providers share no error codes, so the message decides. `error_hints` extracts the numbers that it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from indexer.errors import (
    BatchUnsupportedError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
)
from indexer.rpc.error_hints import OF_RESULTS, QUERY_TIME, retry_after, suggested_blocks


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_BATCH = _any(
    r"batch.{0,60}(not (supported|allowed|enabled)|too (large|many)|limit|exceed|disabled)",
    r"batch requests? ",
    r"(calls|requests) in (a |one |the |this )?batch",
    r"max(imum)? batch size",
)
_RATE = _any(
    r"rate.?limit",
    r"too many requests",
    r"request limit",
    r"throttl",
    r"exceeded.{0,30}(quota|capacity|compute units|credits)",
    r"slow down",
    r"per (\d+ ?)?(s|sec|second|minute|day)s?\b",
    r"limited to [\d,]+ requests",
    r"\d ?/ ?(s|sec|second|min|minute|day)\b",
    r"\b429\b",
)
# A tag that the node does not know now, as opposed to a block that will exist in a moment.
_TAG = _any(
    r"(safe|finalized)( block)?( is|:)? (not found|not supported|unknown|not (yet )?available)",
    r"(not found|unknown block|unsupported|invalid)\W{1,3}(tag )?\W?(safe|finalized)\b",
)
# The node lags behind the request. Some of these mention "block range", but fewer blocks would not help.
_LAGS = _any(
    r"beyond.{0,20}(head|latest)",
    r"still syncing",
    r"block is out of range",
    r"(blocks?|header).{0,60}(cannot|could not) be found",
)
_RANGE = _any(
    r"ranges? (is )?(too (large|wide|big)|limit|exceed|over [\d,]+)",
    r"too (large|wide|big)( a| of a)? (blocks? )?range",
    r"exceeds? (the )?(max(imum)? )?(block )?range",
    r"too many (results|logs|blocks)",
    r"more than [\d,]+ (results|logs)",
    r"logs? (response )?size exceed",
    r"logs matched by query exceed",
    r"response (size )?(is )?(too (big|large)|larger than|exceed|should not)",
    r"range [\d,]+ exceeds",
    r"limit(ed)? (the query )?to (a |at most )?(0 ?- ?)?(?![\d,]+ *(requests|calls|per\b|/))[\d,]+k?( blocks?)?",
    r"max(imum)? (allowed )?(number of )?(requested )?(block|result|range|\[?from)",
    r"(?<!invalid )block range",
    QUERY_TIME,
    r"query exceeds",
    r"query must be smaller",
    r"(backend response|content|entity) too large",
    r"request exceeds defined limit",
    r"is greater than the limit",
)
_LATER = _any(
    r"(header|block) not found",
    r"unknown block",
    r"not (yet )?available",
    r"timed? ?out",
    r"deadline exceeded",
    r"temporar",
    r"unavailable",
    r"no backend",
    r"busy",
    r"try again",
    r"(internal|server) error",
    r"overloaded",
    r"upstream",
    r"bad gateway",
    r"connection",
)
_PRUNED = _any(
    r"prun(ed|ing)",
    r"missing trie node",
    r"(history|receipts?|logs?|state)( \w+){0,3} (is |are )?(unavailable|not available)",
    r"code 4444",
)
NO_METHOD = -32601  # The one code that the standard has for a missing method; many providers use others.
_UNKNOWN_TAG = -39001
WAIT_FOR_ANSWER = "an endpoint that answers"
WAIT_FOR_RATE = "an endpoint within its rate limit"
WAIT_FOR_SERVICE = "an endpoint that serves what is asked"
MAX_RETRY_AFTER_S = 60.0  # However long a node asks for, one pause is never longer.
_SECONDS = re.compile(r"\s*[0-9]{1,9}(\.[0-9]{1,9})?\s*")


def classify(
    code: int, message: str, endpoint: str = "", status: int = 200, headers: Mapping[str, str] | None = None,
    *, now: float | None = None, backoff: float | None = None,
) -> RpcError:  # fmt: skip
    """Return the error for a JSON-RPC error object, or for an HTTP status without one.

    Args:
        code: code of the JSON-RPC error object; 0 if there is none.
        message: its message, or the start of the HTTP body.
        endpoint: display name of the endpoint.
        status: HTTP status.
        headers: HTTP response headers.
        now: Unix time (s), for a Retry-After that is a date.
        backoff: wait that the error's data names (s).
    """
    # Long messages have their numbers at the end: match all of it, show only its start.
    words = " ".join(message[:2000].split())
    text = words[:300] or f"HTTP {status}"
    rate = _RATE.search(words) is not None
    ranged = _RANGE.search(words) is not None
    if status == 429:
        return RateLimitedError(text, endpoint, _retry_after(words, headers or {}, now, backoff))
    if not rate and _BATCH.search(words):
        return BatchUnsupportedError(text, endpoint)
    if not ranged and (rate or code in (-32005, -32029, 429)):
        return RateLimitedError(text, endpoint, _retry_after(words, headers or {}, now, backoff))
    if code in (NO_METHOD, _UNKNOWN_TAG) or _TAG.search(words):
        return RpcCallError(text, endpoint, code or status)
    if _LAGS.search(words):
        return _transient(text, endpoint, code, status)
    if status == 413 or ranged:
        return RangeTooLargeError(text, endpoint, suggested_blocks(words), results=OF_RESULTS.search(words) is not None)
    # What is no longer kept is "not available", too, but not later either.
    discarded = code != -32603 and _PRUNED.search(words) is not None
    if status >= 500 or status == 408 or code == -32603 or (not discarded and _LATER.search(words)):
        return _transient(text, endpoint, code, status)
    return RpcCallError(text, endpoint, code or status)


def _transient(text: str, endpoint: str, code: int, status: int) -> TransientRpcError:
    error = TransientRpcError(text, endpoint)
    error.code = code if status < 500 else 0  # Of a gateway, whatever its body looks like.
    return error


def endpoint_wait_name(error: RpcError) -> str:
    """Return the name of the wait for an endpoint that this error causes; docs/runbook.md explains each."""
    if isinstance(error, RateLimitedError):
        return WAIT_FOR_RATE
    return WAIT_FOR_ANSWER if isinstance(error, TransientRpcError) else WAIT_FOR_SERVICE


def pruned(message: str) -> bool:
    """Return whether a refusal says that the node no longer keeps the requested data."""
    return _PRUNED.search(message[:2000]) is not None


def named_backoff(extra: Any) -> float | None:
    """Return the wait (s) named in the data of a rate refusal, as Infura's is; None if it names none."""
    rate = extra.get("rate") if isinstance(extra, dict) else None
    seconds = rate.get("backoff_seconds") if isinstance(rate, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None


def _retry_after(words: str, headers: Mapping[str, str], now: float | None, backoff: float | None) -> float | None:
    """Return the time to wait (s): from the header, else from the error's data, else from its message."""
    value = headers.get("Retry-After", "")
    if _SECONDS.fullmatch(value):
        named: float | None = float(value)
    else:
        named = _until(value, headers.get("Date", ""), now) if value else None
    if named is None:
        named = retry_after(words) if backoff is None else backoff
    return None if named is None else max(0.0, min(named, MAX_RETRY_AFTER_S))


def _until(value: str, answer_date: str, now: float | None) -> float | None:
    """Return the time until an HTTP date (s), by the clock that wrote it if the answer contains that clock's time."""
    until, answered = _date(value), _date(answer_date)
    since = now if answered is None else answered
    return None if until is None or since is None else until - since


def _date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # A date without a zone is UTC, like every HTTP date.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
