"""JSON-RPC results to headers and logs, strictly. Pure.

A node's answer that is not what it should be raises Transient or Inconsistent, never KeyError: such an answer is asked
for again, it does not end the program and is not written.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from indexer.chain.types import Header, Log
from indexer.errors import Inconsistent, Transient

LOGS_PER_BLOCK = 100_000
YEAR_10000 = 253_402_300_800  # seconds; neither datetime nor we go on from there
# int() alone would take signs, spaces, underscores and digits of other scripts.
_HEX = re.compile(r"0x[0-9a-fA-F]+")


def quantity(value: Any, what: str, below: int = 2**63) -> int:
    """A hex quantity `below` a bound; a bigint ends at 63 bits. JSON numbers are refused: floats to many parsers."""
    if not isinstance(value, str) or len(value) > 66 or not _HEX.fullmatch(value):
        raise Transient(f"{what} is not a hex quantity: {value!r:.80}")
    number = int(value, 16)
    if number >= below:
        raise Transient(f"{what} is too large: {value}")
    return number


def data(value: Any, what: str, size: int | None = None) -> bytes:
    """0x hex of whole bytes, of `size` bytes when given."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise Transient(f"{what} is not 0x hex: {value!r:.80}")
    try:
        raw = bytes.fromhex(value[2:])
    except ValueError as error:
        raise Transient(f"{what} is not 0x hex: {value!r:.80}") from error
    if len(value) != 2 + 2 * len(raw):  # fromhex skips spaces
        raise Transient(f"{what} is not 0x hex: {value!r:.80}")
    if size is not None and len(raw) != size:
        raise Transient(f"{what} has {len(raw)} bytes, not {size}")
    return raw


def header(result: Any, number: int | None = None) -> Header:
    """A header from a block object. Raises Transient; Inconsistent when it is not block `number`."""
    if not isinstance(result, dict):
        raise Transient(f"a block is missing or no object: {result!r:.80}")
    found = quantity(result.get("number"), "block number")
    if number is not None and found != number:
        raise Inconsistent(f"asked for block {number}, got block {found}")
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

    Raises Inconsistent when the answer contradicts itself or the question: removed or doubled logs, blocks outside the
    range, two hashes for one block.
    """
    if not isinstance(result, list):
        raise Transient(f"eth_getLogs did not answer with a list: {result!r:.80}")
    watched = {bytes.fromhex(a[2:]) for a in addresses}
    parsed = sorted((_log(entry) for entry in result), key=lambda g: (g.block_number, g.log_index))
    hashes: dict[int, bytes] = {}
    for at, log in enumerate(parsed):
        if not first <= log.block_number <= last:
            raise Inconsistent(f"a log of block {log.block_number} in an answer about {first} to {last}")
        if log.address not in watched:
            raise Inconsistent(f"a log of 0x{log.address.hex()}, which was not asked for")
        if hashes.setdefault(log.block_number, log.block_hash) != log.block_hash:
            raise Inconsistent(f"two hashes for block {log.block_number} in one answer")
        if at and parsed[at - 1][:2] == log[:2]:
            raise Inconsistent(f"log {log.log_index} of block {log.block_number} came twice")
    return parsed


def logged(result: Any, header: Header) -> set[bytes]:
    """The addresses of all logs in a block's receipts. Raises Inconsistent when they are not this block's."""
    if not isinstance(result, list) or not result:
        raise Inconsistent(f"no receipts of block {header.number}")
    addresses: set[bytes] = set()
    for receipt in result:
        if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
            raise Transient(f"a receipt is no object with logs: {receipt!r:.80}")
        if data(receipt.get("blockHash"), "blockHash", 32) != header.hash:
            raise Inconsistent(f"receipts of another block than {header.number} of this hash")
        addresses.update(data(entry.get("address"), "address", 20) for entry in receipt["logs"])
    return addresses


def _log(entry: Any) -> Log:
    if not isinstance(entry, dict):
        raise Transient(f"a log is no object: {entry!r:.80}")
    if entry.get("removed"):
        raise Inconsistent("a removed log in an answer of eth_getLogs")
    if entry.get("blockNumber") is None or entry.get("blockHash") is None or entry.get("logIndex") is None:
        raise Inconsistent("a log without its block: it is pending")
    topics = entry.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise Transient(f"topics are not a list of at most four: {topics!r:.80}")
    stamp = entry.get("blockTimestamp")
    number, index = quantity(entry["blockNumber"], "blockNumber"), quantity(entry["logIndex"], "logIndex")
    if index >= LOGS_PER_BLOCK:
        # unique_id = block * 100000 + index would collide with the next block's.
        raise Inconsistent(f"block {number} has a log index of {index}: unique_id has room for 100,000 logs a block")
    return Log(
        number,
        index,
        data(entry.get("address"), "address", 20),
        data(entry.get("transactionHash"), "transactionHash", 32),
        quantity(entry.get("transactionIndex"), "transactionIndex", 2**31),
        tuple(data(t, "topic", 32) for t in topics),
        data(entry.get("data"), "data"),
        data(entry["blockHash"], "blockHash", 32),
        quantity(stamp, "blockTimestamp", YEAR_10000) if isinstance(stamp, str) else None,
    )
