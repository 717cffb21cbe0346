"""What a node's refusal means: one error class per reaction. Pure.

Providers share no codes: the message decides, and where it names a range that would work, that is the hint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from indexer.errors import BatchRefused, RangeTooLarge, RateLimited, RpcError, RpcRefused, Transient


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
    r"\b429\b",
)
# A tag that the node does not know now: not a block that will come in a moment.
_TAG = _any(
    r"(safe|finalized)( block)?( is|:)? (not found|not supported|unknown|not (yet )?available)",
    r"(not found|unknown block|unsupported|invalid)\W{1,3}(tag )?\W?(safe|finalized)\b",
)
# A node that lags behind the question. "block range" is in some of these, but fewer blocks would not help.
_LAGS = _any(
    r"beyond.{0,20}(head|latest)",
    r"still syncing",
    r"block is out of range",
    r"(blocks?|header).{0,60}(cannot|could not) be found",
)
_RANGE = _any(
    r"ranges? (is )?(too (large|wide|big)|limit|exceed|over [\d,]+)",
    r"exceeds? (the )?(max(imum)? )?(block )?range",
    r"too many (results|logs|blocks)",
    r"more than [\d,]+ (results|logs)",
    r"logs? (response )?size exceed",
    r"logs matched by query exceed",
    r"response (size )?(is )?(too (big|large)|exceed|should not)",
    r"limit(ed)? (the query )?to (a |at most )?(0 ?- ?)?(?![\d,]+ *(requests|calls|per\b|/))[\d,]+k?( blocks?)?",
    r"max(imum)? (allowed )?(number of )?(requested )?(block|result|range|\[?from)",
    r"(?<!invalid )block range",
    r"query time(out|d out)",
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
_NO_METHOD, _UNKNOWN_TAG = -32601, -39001
_WINDOW = _any(r"\[\s*(0x[0-9a-f]+)\s*,\s*(0x[0-9a-f]+)\s*\]", r"range[^\d]{0,40}?(\d[\d,]*)\s*-\s*(\d[\d,]*)")
_NOT_BLOCKS = r"(?![\d,]*\s*(?:k\b)?\s*(?:results|logs|mb|kb|bytes|seconds|s\b|ms\b|requests))"
# Numbers of blocks by the words around them; "from 17 to 5000" is where was asked, not how much.
_BLOCKS = (
    _any(r"(\d[\d,]*)\s*(k\b)?[\s-]*(?:blocks?\b|range)"),
    _any(rf"(?:range|blocks?)(?:(?!\bfrom\b|\bto\b)[^\d]){{0,40}}?{_NOT_BLOCKS}(\d[\d,]*)\s*(k\b)?"),
    _any(r"\d\s*>\s*(\d[\d,]*)\s*(k\b)?"),
)
_LIMIT = _any(rf"(?:max(?:imum)?|limit|smaller than size)(?: is)?(?: set to| of|:)?\s*{_NOT_BLOCKS}(\d[\d,]*)\s*(k\b)?")
_OF_RESULTS = re.compile(r"results|logs matched|bytes|response", re.IGNORECASE)
_SECONDS = re.compile(r"\s*[0-9]{1,9}(\.[0-9]{1,9})?\s*")


def classify(
    code: int, message: str, endpoint: str = "", status: int = 200, headers: Mapping[str, str] | None = None
) -> RpcError:
    """The error for a JSON-RPC error object, or for an HTTP status without one (then `message` is the body's start)."""
    # The numbers stand at the end of long messages: all of it is read, its start is shown.
    words = " ".join(message[:2000].split())
    text = words[:300] or f"HTTP {status}"
    rate = _RATE.search(words) is not None
    ranged = _RANGE.search(words) is not None
    if status == 429:
        return RateLimited(text, endpoint, _retry_after(headers or {}))
    if not rate and _BATCH.search(words):
        return BatchRefused(text, endpoint)
    if not ranged and (rate or code in (-32005, -32029, 429)):
        return RateLimited(text, endpoint, _retry_after(headers or {}))
    if code in (_NO_METHOD, _UNKNOWN_TAG) or _TAG.search(words):
        return RpcRefused(text, endpoint, code or status)
    if _LAGS.search(words):
        return Transient(text, endpoint)
    if status == 413 or ranged:
        return RangeTooLarge(text, endpoint, hint(words), results=_OF_RESULTS.search(words) is not None)
    if status >= 500 or status == 408 or code == -32603 or _LATER.search(words):
        return Transient(text, endpoint)
    return RpcRefused(text, endpoint, code or status)


def hint(message: str) -> int | None:
    """How many blocks the message says would work; None when it names no number.

    A window that the node computed for the request counts first; of several numbers the smallest, which is safe.
    """
    window = _WINDOW.search(message)
    if window:
        low, high = (window[1], window[2]) if window[1] else (window[3], window[4])
        blocks = _number(high) - _number(low) + 1
        return blocks if blocks > 0 else None
    # A limit of results is no number of blocks.
    patterns = _BLOCKS if _OF_RESULTS.search(message) else (*_BLOCKS, _LIMIT)
    found = (_number(m[1]) * (1000 if m[2] else 1) for pattern in patterns for m in pattern.finditer(message))
    return min((blocks for blocks in found if blocks > 0), default=None)


def _number(text: str) -> int:
    return int(text, 16) if text.lower().startswith("0x") else int(text.replace(",", ""))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return min(float(value), 60.0) if _SECONDS.fullmatch(value) else None
