"""Strict parsing of JSON-RPC results into headers and logs. Pure.

An answer that is not what it should be raises TransientRpcError or InconsistentResponseError, never KeyError: it is
requested again, and neither ends the program nor is written.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Collection
from itertools import pairwise
from operator import itemgetter
from typing import Any

import orjson

from indexer.chain.types import LOGS_PER_BLOCK, Header, Log, address_bytes, made_log
from indexer.errors import InconsistentResponseError, MissingBlockError, TransientRpcError

YEAR_10000 = 253_402_300_800  # Unix time (s); datetime ends there, and so does this program.
# int() alone would accept signs, spaces, underscores and digits of other scripts.
_HEX = re.compile(r"0[xX][0-9a-fA-F]+")


def quantity(value: Any, field: str, below: int = 2**63) -> int:
    """Parse a hex quantity less than `below`; a bigint ends at 63 bits.

    JSON numbers are refused, because many parsers read them as floats. Raises TransientRpcError.
    """
    if not isinstance(value, str) or len(value) > 66 or not _HEX.fullmatch(value):
        raise TransientRpcError(f"{field} is not a hex quantity: {value!r:.80}")
    number = int(value, 16)
    if number >= below:
        raise TransientRpcError(f"{field} is too large: {value}")
    return number


def data(value: Any, field: str, size: int | None = None) -> bytes:
    """Parse 0x hex of whole bytes, exactly `size` of them if given (bytes). Raises TransientRpcError."""
    if not isinstance(value, str) or (not value.startswith("0x") and not value.startswith("0X")):
        raise TransientRpcError(f"{field} is not 0x hex: {value!r:.80}")
    try:
        raw = unhexlify(value[2:])
    except ValueError as error:
        raise TransientRpcError(f"{field} is not 0x hex: {value!r:.80}") from error
    if size is not None and len(raw) != size:
        raise TransientRpcError(f"{field} has {len(raw)} bytes, not {size}")
    return raw


def header(result: Any, number: int | None = None) -> Header:
    """Parse the header in a block object.

    Raises MissingBlockError, TransientRpcError, or InconsistentResponseError if it is not block `number`.
    """
    if result is None:
        raise MissingBlockError(f"block {number} is missing" if number is not None else "a block is missing")
    if not isinstance(result, dict):
        raise TransientRpcError(f"a block is not an object: {result!r:.80}")
    actual = quantity(result.get("number"), "block number", 2**63 // LOGS_PER_BLOCK)  # unique_id is a bigint.
    if number is not None and actual != number:
        raise InconsistentResponseError(f"asked for block {number}, got block {actual}")
    return Header(
        actual,
        data(result.get("hash"), "block hash", 32),
        data(result.get("parentHash"), "parentHash", 32),
        quantity(result.get("timestamp"), "timestamp", YEAR_10000),
        _optional_bloom(result.get("logsBloom")),
    )


def _optional_bloom(value: Any) -> bytes:
    """Return a header's bloom filter; empty if it is absent or unreadable.

    Here it only raises suspicion of logs that did not come. A proof reads it strictly, with all other fields.
    """
    try:
        return data(value, "logsBloom", 256)
    except TransientRpcError:
        return b""


def logs(result: Any, first: int, last: int, addresses: Collection[str]) -> list[Log]:
    """Parse the logs of blocks first..last, all of watched addresses, into chain order.

    Args:
        result: answer of eth_getLogs.
        first: first block of the request.
        last: last block of the request, included.
        addresses: contracts in the request (lower-case 0x).

    Raises:
        InconsistentResponseError: the answer contradicts itself or the request: removed or duplicate logs, blocks
            outside the range, two hashes for one block.
        TransientRpcError: the answer is unreadable.
    """
    if not isinstance(result, list):
        raise TransientRpcError(f"eth_getLogs did not return a list: {result!r:.80}")
    try:
        return _read(result, _Texts(first, last, addresses))
    except TypeError as error:
        raise TransientRpcError(f"a field of a log is neither a string nor absent: {error}") from error


_FIELDS = (
    "blockHash", "blockNumber", "transactionHash", "transactionIndex", "logIndex", "address", "topics", "data",
)  # fmt: skip
_fields = itemgetter(*_FIELDS)
_NO_TEXT: Any = ()  # No text of an entry equals a tuple, so a field that is missing in the first entry is noticed too.


def _read(result: list[Any], read: _Texts) -> list[Log]:
    address_of, word_of, index_of = read.addresses.get, read.words.get, read.indices.get
    parsed: list[Log] = []
    in_order, number, newest = True, -1, -1
    last_block_texts, last_tx_text, last_tx_index_text = _NO_TEXT, _NO_TEXT, _NO_TEXT
    for entry in result:
        if entry.__class__ is not dict:
            raise TransientRpcError(f"a log is not an object: {entry!r:.80}")
        get = entry.get
        if get("removed") and entry["removed"] != "false":
            raise InconsistentResponseError("a removed log in an answer to eth_getLogs")
        try:
            fields = _fields(entry)
        except KeyError:
            fields = tuple(map(get, _FIELDS))  # A missing field is refused where it is read.
        hash_text, number_text, tx_text, tx_index_text, index_text, address_text, topics, data_text = fields
        texts = (hash_text, number_text, get("blockTimestamp"))
        if texts != last_block_texts:
            previous = number
            block_hash, number, stamp = read.block(*texts)
            last_block_texts = texts
            if number != previous:
                in_order, newest = in_order and number > previous, -1
        if tx_text != last_tx_text or tx_index_text != last_tx_index_text:
            tx_hash, tx_index = data(tx_text, "transactionHash", 32), read.transaction_index(tx_index_text)
            last_tx_text, last_tx_index_text = tx_text, tx_index_text
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
        parsed.append(made_log((number, index, address, tx_hash, tx_index, words, body, block_hash, stamp)))
    return parsed if in_order else _sorted(parsed)


class _Texts:
    """The texts of one answer: most of them recur from log to log, so each is checked and converted once."""

    def __init__(self, first: int, last: int, addresses: Collection[str]) -> None:
        self._first, self._last = first, last
        self.addresses = {a: address_bytes(a) for a in addresses}
        self._watched = frozenset(self.addresses.values())
        self.words: dict[Any, bytes] = {}
        self.indices: dict[Any, int] = {}
        self._transaction_indices: dict[Any, int] = {}
        self._hashes: dict[int, bytes] = {}

    def block(self, block_hash: Any, number: Any, stamp: Any) -> tuple[bytes, int, int | None]:
        if number is None or block_hash is None:
            raise _pending()
        height = quantity(number, "blockNumber")
        parsed_hash = data(block_hash, "blockHash", 32)
        if not self._first <= height <= self._last:
            raise InconsistentResponseError(
                f"a log of block {height} in an answer for blocks {self._first} to {self._last}"
            )
        if self._hashes.setdefault(height, parsed_hash) != parsed_hash:
            raise InconsistentResponseError(f"two hashes for block {height} in one answer")
        return parsed_hash, height, _optional_time(stamp)

    def index(self, text: Any, number: int) -> int:
        if text is None:
            raise _pending()
        index = quantity(text, "logIndex")
        if index >= LOGS_PER_BLOCK:
            # unique_id = block * 100000 + index would collide with one of the next block.
            raise InconsistentResponseError(
                f"block {number} has a log index of {index}: unique_id has room for 100,000 logs per block"
            )
        self.indices[text] = index
        return index

    def transaction_index(self, text: Any) -> int:
        index = self._transaction_indices.get(text)
        if index is None:
            index = self._transaction_indices[text] = quantity(text, "transactionIndex", 2**31)
        return index

    def address(self, text: Any) -> bytes:
        address = data(text, "address", 20)
        if address not in self._watched:
            raise InconsistentResponseError(f"a log of 0x{address.hex()}, which was not requested")
        self.addresses[text] = address
        return address

    def word(self, text: Any) -> bytes:
        word = self.words[text] = data(text, "topic", 32)
        return word


def _optional_time(stamp: Any) -> int | None:
    """Return a log's `blockTimestamp` (s); None if it is absent or unreadable.

    Nothing is stored on its word alone. An unreadable form (decimal text, a time beyond year 10000) is therefore no
    reason to refuse the logs, which would stop all work at this endpoint.
    """
    if not isinstance(stamp, str) or len(stamp) > 66 or not _HEX.fullmatch(stamp):
        return None
    time = int(stamp, 16)
    return time if time < YEAR_10000 else None


def _pending() -> InconsistentResponseError:
    return InconsistentResponseError("a log without its block: it is pending")


def _sorted(logs: list[Log]) -> list[Log]:
    """Sort into chain order. Raises InconsistentResponseError if a log occurs twice."""
    logs.sort(key=lambda g: (g.block_number, g.log_index))
    for below, above in pairwise(logs):
        if below[:2] == above[:2]:
            raise InconsistentResponseError(f"duplicate log {above.log_index} in block {above.block_number}")
    return logs


# Bytes. Up to this size the parsed value stays below 40 MiB, so that answers of usual size need no scan.
SMALL_BODY = 2 << 20
BYTES_EACH_VALUE, BYTES_EACH_CONTAINER = 20, 40  # A log has one value per 60 bytes, one container per 250.


def parse_json(body: bytes) -> Any:
    """Parse JSON. Raises ValueError: not JSON, nested too deep, or too many values for its size."""
    if len(body) > SMALL_BODY:
        values = body.count(b",")
        containers = body.count(b"[") + body.count(b"{")
        if values * BYTES_EACH_VALUE > len(body) or containers * BYTES_EACH_CONTAINER > len(body):
            raise ValueError(f"{values:,} values and {containers:,} containers in {len(body):,} bytes")
    return orjson.loads(body)
