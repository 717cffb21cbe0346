"""Numbers in a node's refusal: how much it would serve, or when. Pure.

Only words that are known to surround such a number count, because messages also quote the request.
"""

from __future__ import annotations

import re


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


OF_RESULTS = _any(r"results", r"logs matched", r"too many logs", r"more than [\d,]+ logs", r"bytes", r"response")
_WINDOW = _any(r"\[\s*(0x[0-9a-f]+)\s*,\s*(0x[0-9a-f]+)\s*\]", r"range[^\d]{0,40}?(\d[\d,]*)\s*-\s*(\d[\d,]*)")
_NOT_BLOCKS = r"(?![\d,]*\s*(?:k\b)?\s*(?:results|logs|mb|kb|bytes|seconds|s\b|ms\b|requests))"
# Numbers of blocks by the words around them; "from 17 to 5000" quotes the requested range and is no limit.
_BLOCKS = (
    _any(r"(\d[\d,]*)\s*(k\b)?[\s-]*(?:blocks?\b|range)"),
    _any(rf"(?:range|blocks?)(?:(?!\bfrom\b|\bto\b)[^\d]){{0,48}}?{_NOT_BLOCKS}(\d[\d,]*)\s*(k\b)?"),
    _any(r"\d\s*>\s*(\d[\d,]*)\s*(k\b)?"),
)
_LIMIT = _any(rf"(?:max(?:imum)?|limit|smaller than size)(?: is)?(?: set to| of|:)?\s*{_NOT_BLOCKS}(\d[\d,]*)\s*(k\b)?")
_RESULTS = (
    _any(r"(?:more than|cap of|at most|limited to) (\d[\d,]*)\s*(k\b)? *(?:results|logs)"),
    _any(r"(?:max(?:imum)? results|(?:logs matched|results)[^\d]{0,30}limit(?: of)?) (\d[\d,]*)\s*(k\b)?"),
    _any(r"too many (?:logs|results)[^\d]{0,30} (\d[\d,]*)\s*(k\b)?"),
)
_SIZE = _any(r"(?<![\d.,])(\d[\d,]*)\s*(bytes|[km]i?b)\b")
_SIZE_UNNAMED = _any(r"response is too (?:big|large)[^\d]{0,40}limit of (\d[\d,]*)\b")
_UNITS = {"bytes": 1, "kb": 1000, "kib": 1 << 10, "mb": 10**6, "mib": 1 << 20}
_CALLS = (
    _any(r"batch (?:size )?limit(?: of| is|:)? (\d[\d,]*)"),
    _any(r"(?:calls|requests) in (?:a |one |the |this )?batch(?: is|:| to)? (\d[\d,]*)"),
    _any(r"batch(?:es)? of more than (\d[\d,]*)"),
    _any(r"batch request was too large[^\d]{0,30}limit of (\d[\d,]*)"),
    _any(r"max(?:imum)? batch (?:size|length)(?: is| of|:)? (\d[\d,]*)"),
    _any(r"max(?:imum)?(?: of)? (\d[\d,]*) (?:calls|requests) (?:in|per) (?:a |one |1 )?batch"),
)
_NO_BATCHES = _any(r"batch(ed|es|ing)?( requests?| calls?)? (is |are )?(not (supported|allowed|enabled)|disabled)")
_OF_LENGTH = _any(r"batch(?!.{0,20}response)")
QUERY_TIME = r"query time(?:out|d out)"
_OF_TIME = _any(QUERY_TIME)
_SPAN = r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)(?![a-z])"
_WAIT = _any(rf"(?:retry|again|wait)(?: (?:in|after|for))? {_SPAN}")
_GO_WAIT = _any(r"(?:retry|again|wait)(?: (?:in|after|for))? (?:(\d{1,6})h)?(?:(\d{1,6})m)?(\d{1,6}(?:\.\d{1,9})?)s\b")
_SECONDS = {"ms": 0.001, "mil": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hou": 3600.0}


def suggested_blocks(message: str) -> int | None:
    """Return how many blocks the message says would work; None if it names no number.

    A window that the node computed for the request takes precedence; of several numbers the smallest counts, which is
    safe.
    """
    window = _WINDOW.search(message)
    if window:
        low, high = (window[1], window[2]) if window[1] else (window[3], window[4])
        count = _number(high) - _number(low) + 1
        return count if count > 0 else None
    # A limit on results is not a number of blocks.
    patterns = _BLOCKS if OF_RESULTS.search(message) else (*_BLOCKS, _LIMIT)
    return _smallest(message, patterns)


def max_results(message: str) -> int | None:
    """Return how many logs an answer may have; None if the message names no number."""
    return _smallest(message, _RESULTS)


def max_bytes(message: str) -> int | None:
    """Return how many bytes an answer may have; megabytes count as millions, which is safe."""
    if not OF_RESULTS.search(message) and "answer" not in message:
        return None
    sizes = [_number(m[1]) * _UNITS[m[2].lower()] for m in _SIZE.finditer(message)]
    sizes += [_number(m[1]) for m in _SIZE_UNNAMED.finditer(message)]
    return min((n for n in sizes if n > 0), default=None)


def max_batch_calls(message: str) -> int | None:
    """Return how many calls a batch may have; 1 if the node takes no batches."""
    return 1 if _NO_BATCHES.search(message) else _smallest(message, _CALLS)


def is_about_batch_length(message: str) -> bool:
    """Return whether a refusal is about batches, and not about the size of a batch's response."""
    return _OF_LENGTH.search(message) is not None


def is_about_time(message: str) -> bool:
    """Return whether a query took too long, which depends on the node's load as much as on the number of blocks."""
    return _OF_TIME.search(message) is not None


def retry_after(message: str) -> float | None:
    """Return the wait (s) after which the message says to ask again."""
    go_duration = _GO_WAIT.search(message)
    if go_duration:
        return int(go_duration[1] or 0) * 3600 + int(go_duration[2] or 0) * 60 + float(go_duration[3])
    match = _WAIT.search(message)
    if not match:
        return None
    return float(match[1]) * _SECONDS[match[2].lower()[:3]]


def _smallest(message: str, patterns: tuple[re.Pattern[str], ...]) -> int | None:
    numbers = (
        _number(m[1]) * (1000 if len(m.groups()) > 1 and m[2] else 1) for p in patterns for m in p.finditer(message)
    )
    return min((n for n in numbers if n > 0), default=None)


def _number(text: str) -> int:
    return int(text, 16) if text.lower().startswith("0x") else int(text.replace(",", ""))
