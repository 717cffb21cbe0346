"""What a node's refusal means: one error class per reaction. Pure.

Providers share no codes: the message decides, and where it names a range that would work, that is the hint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from indexer.errors import BatchRefused, RangeTooLarge, RateLimited, RpcError, RpcRefused, Transient


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_RANGE = _any(
    r"range (is )?(too (large|wide|big)|limit|exceed)",
    r"exceeds? (the )?(max(imum)? )?(block )?range",
    r"too many (results|logs|blocks)",
    r"more than [\d,]+ (results|logs)",
    r"logs? (response )?size exceed",
    r"response (size )?(is )?(too (big|large)|exceed|should not)",
    r"limited to (a )?(0 ?- ?)?[\d,]+k?( blocks?)?",
    r"max(imum)? (allowed )?(number of )?(block|result|range|\[?from)",
    r"block range",
    r"query timeout exceeded",
    r"up to a [\d,]+ block",
    r"exceed maximum block",
    r"query exceeds",
    r"(backend response|content) too large",
    r"is greater than the limit",
)
_RATE = _any(
    r"rate.?limit",
    r"too many requests",
    r"request limit",
    r"throttl",
    r"exceeded.{0,30}(quota|capacity|compute units|credits)",
    r"slow down",
    r"\b429\b",
)
_BATCH = _any(
    r"batch.{0,60}(not (supported|allowed|enabled)|too (large|many)|limit|exceed|disabled)", r"batch requests? "
)
# A tag that the node does not know now: not a block that will come in a moment.
_TAG = _any(r"(safe|finalized)( block)? (is )?not found", r"(safe|finalized).{0,20}not supported")
_LATER = _any(
    r"(header|block) not found",
    r"unknown block",
    r"not (yet )?available",
    r"timed? ?out",
    r"temporar",
    r"unavailable",
    r"busy",
    r"try again",
    r"(internal|server) error",
    r"overloaded",
    r"upstream",
    r"bad gateway",
    r"connection",
    r"beyond.{0,20}head",
    r"block is out of range",
)
_WINDOW = _any(r"\[\s*(0x[0-9a-f]+)\s*,\s*(0x[0-9a-f]+)\s*\]", r"range[^\d]{0,40}?(\d[\d,]*)\s*-\s*(\d[\d,]*)")
_COUNT = re.compile(
    r"(?:limited to|max(?:imum)?(?: is| of|:| allowed| block range)?[^\d]{0,30}|up to|at most|than the limit"
    r"|less than|limit(?: is| of|:)?)\s*(?:a |an |0 ?- ?)?(\d[\d,]*)\s*(k\b)?"
    r"(?!\s*(?:results|logs|mb|kb|bytes|seconds|s\b|requests))",
    re.IGNORECASE,
)


def classify(
    code: int, message: str, endpoint: str = "", status: int = 200, headers: Mapping[str, str] | None = None
) -> RpcError:
    """The error for a JSON-RPC error object, or for an HTTP status without one (then `message` is the body's start)."""
    text = " ".join(message.split())[:300] or f"HTTP {status}"
    ranged = _RANGE.search(text) is not None
    if status == 429 or (not ranged and (code in (-32005, -32029, 429) or _RATE.search(text))):
        return RateLimited(text, endpoint, _retry_after(headers or {}))
    if _BATCH.search(text):
        return BatchRefused(text, endpoint)
    if status == 413 or ranged:
        return RangeTooLarge(text, endpoint, hint(text))
    if not _TAG.search(text) and (status >= 500 or status == 408 or code == -32603 or _LATER.search(text)):
        return Transient(text, endpoint)
    return RpcRefused(text, endpoint, code or status)


def hint(message: str) -> int | None:
    """How many blocks the message says would work; None when it names no number."""
    window = _WINDOW.search(message)
    if window:
        low, high = (window[1], window[2]) if window[1] else (window[3], window[4])
        blocks = _number(high) - _number(low) + 1
        return blocks if blocks > 0 else None
    count = _COUNT.search(message)
    if count:
        blocks = _number(count[1]) * (1000 if count[2] else 1)
        return blocks if blocks > 0 else None
    return None


def _number(text: str) -> int:
    return int(text, 16) if text.lower().startswith("0x") else int(text.replace(",", ""))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.isdigit() else None
