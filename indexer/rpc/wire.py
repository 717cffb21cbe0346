"""JSON-RPC results to headers and logs, strictly. Pure.

A node's answer that is not what it should be raises TransientRpcError or InconsistentResponseError, never KeyError:
such an answer is asked for again, it does not end the program and is not written.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Collection
from itertools import pairwise
from operator import itemgetter
from typing import Any

import orjson

from indexer.chain.types import Header, Log, made_log
from indexer.errors import InconsistentResponseError, MissingBlockError, TransientRpcError

LOGS_PER_BLOCK = 100_000
YEAR_10000 = 253_402_300_800  # seconds; neither datetime nor we go on from there
# int() alone would take signs, spaces, underscores and digits of other scripts.
_HEX = re.compile(r"0x[0-9a-fA-F]+")


def quantity(value: Any, what: str, below: int = 2**63) -> int:
    """A hex quantity `below` a bound; a bigint ends at 63 bits. JSON numbers are refused: floats to many parsers."""
    if not isinstance(value, str) or len(value) > 66 or not _HEX.fullmatch(value):
        raise TransientRpcError(f"{what} is not a hex quantity: {value!r:.80}")
    number = int(value, 16)
    if number >= below:
        raise TransientRpcError(f"{what} is too large: {value}")
    return number


def data(value: Any, what: str, size: int | None = None) -> bytes:
    """0x hex of whole bytes, of `size` bytes when given."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise TransientRpcError(f"{what} is not 0x hex: {value!r:.80}")
    try:
        raw = unhexlify(value[2:])
    except ValueError as error:
        raise TransientRpcError(f"{what} is not 0x hex: {value!r:.80}") from error
    if size is not None and len(raw) != size:
        raise TransientRpcError(f"{what} has {len(raw)} bytes, not {size}")
    return raw


def header(result: Any, number: int | None = None) -> Header:
    """A header from a block object. Raises MissingBlockError, TransientRpcError; InconsistentResponseError when it
    is not block `number`."""
    if result is None:
        raise MissingBlockError(f"block {number} is missing" if number is not None else "a block is missing")
    if not isinstance(result, dict):
        raise TransientRpcError(f"a block is no object: {result!r:.80}")
    found = quantity(result.get("number"), "block number", 2**63 // LOGS_PER_BLOCK)  # unique_id is a bigint
    if number is not None and found != number:
        raise InconsistentResponseError(f"asked for block {number}, got block {found}")
    bloom = result.get("logsBloom")
    return Header(
        found,
        data(result.get("hash"), "block hash", 32),
        data(result.get("parentHash"), "parentHash", 32),
        quantity(result.get("timestamp"), "timestamp", YEAR_10000),
        data(bloom, "logsBloom", 256) if bloom is not None else b"",
    )


def logs(result: Any, first: int, last: int, addresses: Collection[str]) -> list[Log]:
    """Logs of blocks first..last in chain order, each of a watched address.

    Raises InconsistentResponseError when the answer contradicts itself or the question: removed or doubled logs,
    blocks outside the range, two hashes for one block.
    """
    if not isinstance(result, list):
        raise TransientRpcError(f"eth_getLogs did not answer with a list: {result!r:.80}")
    try:
        return _read(result, _Texts(first, last, addresses))
    except TypeError as error:
        raise TransientRpcError(f"a field of a log is neither text nor absent: {error}") from error


_FIELDS = (
    "blockHash", "blockNumber", "transactionHash", "transactionIndex", "logIndex", "address", "topics", "data",
)  # fmt: skip
_fields = itemgetter(*_FIELDS)


def _read(result: list[Any], read: _Texts) -> list[Log]:
    address_of, word_of, index_of = read.addresses.get, read.words.get, read.indices.get
    parsed: list[Log] = []
    in_order, number, newest = True, -1, -1
    # No text of an entry is a tuple: what the first one lacks is seen, too.
    block_texts: tuple[Any, ...] = ()
    transaction_text: Any = ()
    transaction_index_text: Any = ()
    for entry in result:
        if entry.__class__ is not dict:
            raise TransientRpcError(f"a log is no object: {entry!r:.80}")
        get = entry.get
        if get("removed"):
            raise InconsistentResponseError("a removed log in an answer of eth_getLogs")
        try:
            fields = _fields(entry)
        except KeyError:
            fields = tuple(map(get, _FIELDS))  # what is absent is refused where it is read
        hash_text, number_text, sent, sent_index, index_text, address_text, topics, data_text = fields
        texts = (hash_text, number_text, get("blockTimestamp"))
        if texts != block_texts:
            before = number
            block_hash, number, stamp = read.block(*texts)
            block_texts = texts
            if number != before:
                in_order, newest = in_order and number > before, -1
        if sent != transaction_text or sent_index != transaction_index_text:
            hash_, position = data(sent, "transactionHash", 32), read.position(sent_index)
            transaction_text, transaction_index_text = sent, sent_index
        if topics.__class__ is not list or len(topics) > 4:
            raise TransientRpcError(f"topics are not a list of at most four: {topics!r:.80}")
        index = index_of(index_text)
        if index is None:
            index = read.index(index_text, number)
        if index <= newest:
            in_order = False
        newest = index
        address = address_of(address_text) or read.address(address_text)
        words = tuple([word_of(topic) or read.word(topic) for topic in topics])
        body = data(data_text, "data")
        parsed.append(made_log((number, index, address, hash_, position, words, body, block_hash, stamp)))
    return parsed if in_order else _sorted(parsed)


class _Texts:
    """The texts of one answer. Most of them come again from log to log: each is checked and converted once."""

    def __init__(self, first: int, last: int, addresses: Collection[str]) -> None:
        self._first, self._last = first, last
        self.addresses = {a: bytes.fromhex(a[2:]) for a in addresses}
        self._watched = frozenset(self.addresses.values())
        self.words: dict[Any, bytes] = {}
        self.indices: dict[Any, int] = {}
        self._positions: dict[Any, int] = {}
        self._hashes: dict[int, bytes] = {}

    def block(self, block_hash: Any, number: Any, stamp: Any) -> tuple[bytes, int, int | None]:
        if number is None or block_hash is None:
            raise _pending()
        at = quantity(number, "blockNumber")
        read = data(block_hash, "blockHash", 32)
        if not self._first <= at <= self._last:
            raise InconsistentResponseError(f"a log of block {at} in an answer about {self._first} to {self._last}")
        if self._hashes.setdefault(at, read) != read:
            raise InconsistentResponseError(f"two hashes for block {at} in one answer")
        return read, at, _optional_time(stamp)

    def index(self, text: Any, number: int) -> int:
        if text is None:
            raise _pending()
        index = quantity(text, "logIndex")
        if index >= LOGS_PER_BLOCK:
            # unique_id = block * 100000 + index would collide with the next block's.
            raise InconsistentResponseError(
                f"block {number} has a log index of {index}: unique_id has room for 100,000 logs a block"
            )
        self.indices[text] = index
        return index

    def position(self, text: Any) -> int:
        position = self._positions.get(text)
        if position is None:
            position = self._positions[text] = quantity(text, "transactionIndex", 2**31)
        return position

    def address(self, text: Any) -> bytes:
        address = data(text, "address", 20)
        if address not in self._watched:
            raise InconsistentResponseError(f"a log of 0x{address.hex()}, which was not asked for")
        self.addresses[text] = address
        return address

    def word(self, text: Any) -> bytes:
        word = self.words[text] = data(text, "topic", 32)
        return word


def _optional_time(stamp: Any) -> int | None:
    """A log's `blockTimestamp` in seconds, None where it is absent or unreadable.

    Nothing is stored on its word alone, so that a form which cannot be read (decimal text, a time beyond year 10000)
    is no reason to refuse the logs, which would stop all work at this endpoint.
    """
    if not isinstance(stamp, str) or len(stamp) > 66 or not _HEX.fullmatch(stamp):
        return None
    time = int(stamp, 16)
    return time if time < YEAR_10000 else None


def _pending() -> InconsistentResponseError:
    return InconsistentResponseError("a log without its block: it is pending")


def _sorted(logs: list[Log]) -> list[Log]:
    """In chain order. Raises InconsistentResponseError when one came twice."""
    logs.sort(key=lambda g: (g.block_number, g.log_index))
    for below, above in pairwise(logs):
        if below[:2] == above[:2]:
            raise InconsistentResponseError(f"log {above.log_index} of block {above.block_number} came twice")
    return logs


SMALL_BODY = (
    2 << 20
)  # bytes; up to it nothing grows beyond 40 MiB, and an answer of usual size need not be looked through
BYTES_EACH_VALUE, BYTES_EACH_CONTAINER = 20, 40  # a log has one value in 60 bytes, one container in 250


def parse_json(body: bytes) -> Any:
    """The JSON value. Raises ValueError: not JSON, nested too deep, or too many values for its size."""
    if len(body) > SMALL_BODY:
        values = body.count(b",")
        containers = body.count(b"[") + body.count(b"{")
        if values * BYTES_EACH_VALUE > len(body) or containers * BYTES_EACH_CONTAINER > len(body):
            raise ValueError(f"{values:,} values and {containers:,} containers in {len(body):,} bytes")
    return orjson.loads(body)
