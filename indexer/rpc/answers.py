"""Answers of a JSON-RPC node: from bytes to results and typed errors. No I/O; the clock only for a Retry-After date.

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
from indexer.rpc.wire import parse_json

Call = tuple[str, Sequence[Any]]


class Results(NamedTuple):
    """Results in call order. `size`: bytes of the largest HTTP response among them."""

    values: list[Any]
    size: int


class HttpAnswer(NamedTuple):
    """An HTTP answer as it came."""

    body: bytes
    status: int
    headers: Mapping[str, str]


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


def _entries_of(parsed: Any) -> list[Any] | None:
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

    def outcomes(self, answer: HttpAnswer, first: int, count: int) -> list[Any]:
        """Return the result or the error of each call in a request, in the order of the calls.

        Args:
            answer: answer to the request.
            first: id of the first call.
            count: number of calls.

        Raises:
            RpcError: the answer says nothing about single calls: it cannot be read, or refuses the request as a whole.
        """
        parsed = self._parsed(answer)
        if count == 1:
            return [self._outcome(parsed, answer)]
        entries = _entries_of(parsed)
        if entries is None:
            raise self._batch_refusal(parsed, count, answer)
        return self._in_order(entries, first, count, answer)

    def _parsed(self, answer: HttpAnswer) -> Any:
        """Return the JSON of an answer. If its status is not 200, it is a list, or an object with an error."""
        try:
            parsed = parse_json(answer.body)
        except ValueError as error:
            if answer.status == 200:
                raise TransientRpcError(f"the answer is not JSON, or is too large: {error!s:.80}", self.name) from error
            parsed = None
        if answer.status != 200 and not (
            (isinstance(parsed, list) and parsed) or (isinstance(parsed, dict) and parsed.get("error"))
        ):
            # Wrapped as a JSON-RPC error, so that there is a single shape.
            return {"error": {"message": answer.body[:2000].decode(errors="replace")}}
        return parsed

    def _in_order(self, entries: Sequence[Any], first: int, count: int, answer: HttpAnswer) -> list[Any]:
        """Return result or error of each call of a batch.

        Raises `_batch_refusal`'s error for an entry that answers no call, InconsistentResponseError if a call was
        answered twice, TransientRpcError if all answers are missing.
        """
        if answer.status != 429:  # It makes any error in an entry a rate limit; others say nothing about each entry.
            answer = answer._replace(status=200)
        by_id: dict[int, Any] = {}
        for entry in entries:
            number = integer(entry.get("id")) if isinstance(entry, dict) else None
            if number is None:
                raise self._batch_refusal(entry, count, answer)
            if number in by_id:
                raise InconsistentResponseError("duplicate answer in a batch", self.name)
            by_id[number] = entry
        missing = sum(i not in by_id for i in range(first, first + count))
        lacking = f"{missing} of {count} answers are missing from a batch"
        if missing == count:
            raise TransientRpcError(lacking, self.name)
        outcomes = [
            self._outcome(by_id[i], answer) if i in by_id else TransientRpcError(lacking, self.name)
            for i in range(first, first + count)
        ]
        if first_error(outcomes) is None:
            self._longest = max(self._longest, count)
        return outcomes

    def _outcome(self, entry: Any, answer: HttpAnswer) -> Any:
        """Return the result in the answer to one call, or its error as a value: the other answers are kept."""
        if isinstance(entry, list) and len(entry) == 1:
            entry = entry[0]
        if not isinstance(entry, dict):
            return TransientRpcError(f"an answer is not an object: {entry!r:.80}", self.name)
        error = entry.get("error")
        # An empty error beside a result is no error: "", false, 0 and {} are spellings of null.
        if error is not None and (error or "result" not in entry):
            return self._classified(error, answer)
        if "result" in entry:
            return entry["result"]
        # The words of a gateway may tell of a rate limit.
        if isinstance(entry.get("message"), str):
            refusal = self._classified(entry, answer)
            if isinstance(refusal, RateLimitedError):
                return refusal
        return self._malformed(entry, "an answer has neither result nor error")

    def _batch_refusal(self, entry: Any, count: int, answer: HttpAnswer) -> RpcError:
        """Return the error for a single answer to a batch: nodes refuse batches in many ways.

        Args:
            entry: what came for the batch.
            count: number of calls in the batch.
            answer: HTTP answer that holds it.
        """
        if not isinstance(entry, dict) or (entry.get("error") is None and not isinstance(entry.get("message"), str)):
            return self._malformed(entry, "no list for a batch")
        # Some nodes give the error itself where an answer belongs.
        error = self._classified(entry.get("error") or entry, answer)
        if isinstance(error, RpcCallError):
            about_batches = answer.status not in _NOT_ABOUT_BATCHES
            if about_batches and count <= self._longest:
                self._longest = 0  # A single odd answer is retried; twice in a row, it is believed.
                return TransientRpcError(error.message)
        else:
            # "Internal error" is a refusal too, unless a batch this long was answered before: then it is transient.
            failed = answer.status >= 500 or answer.status == 408
            passes = isinstance(error, RateLimitedError) or failed or count <= self._longest
            about_batches = isinstance(error, TransientRpcError) and not passes
        return BatchUnsupportedError(error.message) if about_batches else error

    def _malformed(self, entry: Any, problem: str) -> TransientRpcError:
        return TransientRpcError(f"{problem}: {redact_text(f'{entry!r:.80}', self.url())}", self.name)

    def _classified(self, error: Any, answer: HttpAnswer) -> RpcError:
        """Return the typed error for the value of an answer's `error`, whatever its form."""
        code, backoff = 0, None
        if isinstance(error, dict):
            code, extra, message = integer(error.get("code")) or 0, error.get("data"), error.get("message")
            if isinstance(message, dict) and isinstance(message.get("message"), str):
                message = message["message"]
            # Without a message, all that the node said is shown.
            words = message if isinstance(message, str) else _json(error if message is None else message)
            if isinstance(extra, str) and not extra.startswith("0x"):
                words = f"{words}: {extra}"
            backoff = named_backoff(extra)
        else:
            words = error if isinstance(error, str) else _json(error)
        redacted = redact_text(words, self.url())
        return classify(
            code, redacted, self.name, answer.status, answer.headers, now=time.time(), backoff=backoff
        )  # fmt: skip


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value)[:2000].decode(errors="replace")
    except TypeError:  # Nested deeper than orjson writes.
        return f"{value!r:.2000}"


def first_error(outcomes: Sequence[Any]) -> RpcError | None:
    """Return the first error among the outcomes of calls; None if all were answered."""
    return next((outcome for outcome in outcomes if isinstance(outcome, RpcError)), None)
