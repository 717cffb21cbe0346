"""Answers of a JSON-RPC node: from parsed JSON to results and typed errors. Pure.

A spelling is not taken for a meaning: an id, an error code or a batch that is written in another way but equal in value
is read as what it says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from indexer.errors import (
    BatchUnsupportedError,
    InconsistentResponseError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
)
from indexer.rpc.error_classifier import classify, named_backoff

Call = tuple[str, Sequence[Any]]


class Results(NamedTuple):
    """Results in call order. `size`: bytes of the largest HTTP response among them."""

    values: list[Any]
    size: int


_NUMBER = re.compile(r"\s*(-?[0-9]{1,18})(?:\.0*)?\s*")
_HEX = re.compile(r"\s*0[xX]([0-9a-fA-F]{1,15})\s*")
# Keys of an answer to one call; an object without any of them may be a batch's answers by id.
_OF_ONE_ANSWER = frozenset(["jsonrpc", "id", "result", "error"])
# Statuses that single calls would get too; any other refusal of a whole batch may be a refusal of batches as such.
_NOT_ABOUT_BATCHES = (401, 403, 404, 407, 451)
MAX_BLOCKS_REMEDY = (
    "If this endpoint serves fewer blocks at once, set max_blocks under [ranges] in the deployment's file"
)
RPS_REMEDY = "Set rps under [rpc] in the deployment's file (`backfill --rps`) to what the plan allows"


def header_call(block: int | str) -> Call:
    """Return the call for a block without its transactions, by number or tag."""
    return "eth_getBlockByNumber", [block if isinstance(block, str) else hex(block), False]


def request_body(calls: Sequence[Call], first: int) -> bytes:
    """Return the JSON of a batch whose ids begin at `first`; of a call that is alone, its object."""
    body = [
        {"jsonrpc": "2.0", "id": first + i, "method": method, "params": list(params)}
        for i, (method, params) in enumerate(calls)
    ]
    return orjson.dumps(body[0] if len(body) == 1 else body)


def redact_text(text: str, url: str) -> str:
    """Return `text` without the secrets of `url`: errors of HTTP clients and of nodes quote URLs and keys."""
    parts = urlsplit(url)
    secrets = {*parts.path.split("/"), *(v for _, v in parse_qsl(parts.query)), parts.username, parts.password}
    for secret in sorted({s for s in secrets if s and len(s) >= 8}, key=len, reverse=True):
        text = text.replace(secret, "…").replace(unquote(secret), "…")
    return text


def describe(calls: Sequence[Call]) -> str:
    """Return what was asked, for people: method and blocks of the first call, and how many more there were."""
    method, params = calls[0]
    more = f" and {len(calls) - 1} more calls" if len(calls) > 1 else ""
    subject = params[0] if params else None
    if isinstance(subject, Mapping) and "fromBlock" in subject:
        return f"{method} of blocks {_block(subject['fromBlock'])} to {_block(subject.get('toBlock'))}{more}"
    if method.startswith("eth_getBlock") and isinstance(subject, str) and len(subject) < 20:
        return f"{method} of block {_block(subject)}{more}"
    return f"{method}{more}"


def _block(value: Any) -> str:
    number = integer(value)
    return str(value)[:20] if number is None else str(number)


def with_context(error: RpcError, calls: Sequence[Call]) -> RpcError:
    """Add to an error what was asked, and the setting that helps, unless it already says so."""
    if not error.remedy:
        remedy = ""
        if isinstance(error, RateLimitedError):
            remedy = RPS_REMEDY
        elif calls[0][0] == "eth_getLogs" and isinstance(error, RangeTooLargeError | RpcCallError):
            remedy = MAX_BLOCKS_REMEDY
        error.remedy = f"Asked for {describe(calls)}" + (f". {remedy}" if remedy else "")
    return error


def integer(value: Any) -> int | None:
    """Return the integer that a JSON value spells: 7, 7.0, "7" and "0x7" are equal. None if it is none."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float():
            return int(value) if value.is_integer() else None
        case str():
            decimal, hexadecimal = _NUMBER.fullmatch(value), _HEX.fullmatch(value)
            return int(decimal[1]) if decimal else int(hexadecimal[1], 16) if hexadecimal else None
    return None


def entries_of(parsed: Any) -> list[Any] | None:
    """Return the answers to a batch; None if it is a single answer to the batch as a whole.

    Some nodes answer with an object keyed by id.
    """
    if isinstance(parsed, list):
        return parsed
    if not isinstance(parsed, dict) or not parsed:
        return None
    if _OF_ONE_ANSWER.isdisjoint(parsed) and all(isinstance(entry, dict) for entry in parsed.values()):
        return [{"id": key} | entry for key, entry in parsed.items()]
    return None


class AnswerReader:
    """Reads the answers of one endpoint.

    `name`: display name for errors. `url`: returns the URL in use, whose secrets are removed from what the node says.
    """

    def __init__(self, name: str, url: Callable[[], str]) -> None:
        self.name, self.url = name, url
        self._longest = 0  # The longest batch answered as one.

    def result(self, entry: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
        """Return the result in an answer to one call. Raises RpcError."""
        if isinstance(entry, list) and len(entry) == 1:
            entry = entry[0]
        if not isinstance(entry, dict):
            raise TransientRpcError(f"an answer is not an object: {entry!r:.80}", self.name)
        error = entry.get("error")
        # An empty error beside a result is no error: "", false, 0 and {} are spellings of null.
        if error is not None and (error or "result" not in entry):
            raise self.error(error, status, headers)
        if "result" not in entry:
            raise self.no_answer(entry, "an answer has neither result nor error", status, headers)
        return entry["result"]

    def outcome(self, entry: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
        """Return the result in an answer of a batch, or its error as a value: the other answers are kept."""
        try:
            return self.result(entry, status, headers)
        except RpcError as error:
            return error

    def no_answer(
        self, entry: Any, problem: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> RpcError:  # fmt: skip
        """Return the error for what is no JSON-RPC answer; the words of a gateway may tell of a rate limit.

        Args:
            entry: what came instead.
            problem: what is wrong with it.
            status: HTTP status.
            headers: HTTP response headers.
        """
        if isinstance(entry, dict) and isinstance(entry.get("message"), str):
            error = self.error(entry, status, headers)
            if isinstance(error, RateLimitedError):
                return error
        return TransientRpcError(f"{problem}: {self._plain(entry)}", self.name)

    def _plain(self, value: Any) -> str:
        return redact_text(f"{value!r:.80}", self.url())

    def in_order(
        self, entries: Sequence[Any], first: int, count: int, status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> list[Any]:  # fmt: skip
        """Return result or error of each call, in the order of the calls, whose ids begin at `first`.

        Args:
            entries: answers, in any order.
            first: id of the first call.
            count: number of calls.
            status: HTTP status; of each entry only if it is 429, which makes any error in it a rate limit.
            headers: HTTP response headers.

        Raises:
            RpcError: `batch_refusal`'s for an entry that answers no call; InconsistentResponseError if a call was
                answered twice; TransientRpcError if all answers are missing.
        """
        status = 429 if status == 429 else 200  # Any other status says nothing about each entry.
        by_id: dict[int, Any] = {}
        for entry in entries:
            number = integer(entry.get("id")) if isinstance(entry, dict) else None
            if number is None:
                raise self.batch_refusal(entry, count, status)
            if number in by_id:
                raise InconsistentResponseError("duplicate answer in a batch", self.name)
            by_id[number] = entry
        missing = sum(i not in by_id for i in range(first, first + count))
        lacking = f"{missing} of {count} answers are missing from a batch"
        if missing == count:
            raise TransientRpcError(lacking, self.name)
        outcomes = [
            self.outcome(by_id[i], status, headers) if i in by_id else TransientRpcError(lacking, self.name)
            for i in range(first, first + count)
        ]
        if first_error(outcomes) is None:
            self._longest = max(self._longest, count)
        return outcomes

    def batch_refusal(
        self, entry: Any, count: int, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> RpcError:  # fmt: skip
        """Return the error for a single answer to a batch: nodes refuse batches in many ways.

        Args:
            entry: the answer.
            count: number of calls in the batch.
            status: HTTP status.
            headers: HTTP response headers.
        """
        if not isinstance(entry, dict) or (entry.get("error") is None and not isinstance(entry.get("message"), str)):
            return self.no_answer(entry, "no list for a batch")
        # Some nodes give the error itself where an answer belongs.
        error = self.error(entry.get("error") or entry, status, headers)
        if isinstance(error, RpcCallError):
            about_batches = status not in _NOT_ABOUT_BATCHES
            if about_batches and count <= self._longest:
                self._longest = 0  # A single odd answer is retried; twice in a row, it is believed.
                return TransientRpcError(error.message)
        else:
            # "Internal error" is a refusal too, unless a batch this long was answered before: then it is transient.
            passes = isinstance(error, RateLimitedError) or status >= 500 or status == 408 or count <= self._longest
            about_batches = isinstance(error, TransientRpcError) and not passes
        return BatchUnsupportedError(error.message) if about_batches else error

    def error(self, error: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> RpcError:
        """Return the typed error for the value of an answer's `error`, whatever its form."""
        if not isinstance(error, dict):
            return self._classified(0, error if isinstance(error, str) else _json(error), status, headers)
        code, extra = integer(error.get("code")), error.get("data")
        message = error.get("message")
        if isinstance(message, dict) and isinstance(message.get("message"), str):
            message = message["message"]
        # Without a message, all that the node said is shown.
        words = message if isinstance(message, str) else _json(error if message is None else message)
        if isinstance(extra, str) and not extra.startswith("0x"):
            words = f"{words}: {extra}"
        return self._classified(code or 0, words, status, headers, named_backoff(extra))

    def _classified(
        self, code: int, message: str, status: int, headers: Mapping[str, str] | None, backoff: float | None = None
    ) -> RpcError:
        redacted = redact_text(message, self.url())
        return classify(code, redacted, self.name, status, headers, now=time.time(), backoff=backoff)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value)[:2000].decode(errors="replace")
    except TypeError:  # Nested deeper than orjson writes.
        return f"{value!r:.2000}"


def first_error(outcomes: Sequence[Any]) -> RpcError | None:
    """Return the first error among the outcomes of calls; None if all were answered."""
    return next((outcome for outcome in outcomes if isinstance(outcome, RpcError)), None)
