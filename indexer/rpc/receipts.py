"""Strict parsing of JSON-RPC headers and receipts into the form that consensus hashes. Pure.

Only the form is checked here; the caller compares the hashes with what the block says.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from indexer.chain.header_hash import FIELDS, LATER_FIELDS, header_hash
from indexer.chain.receipts_root import Receipt, ReceiptLog
from indexer.chain.types import Header, Log, address_bytes
from indexer.errors import InconsistentResponseError, TransientRpcError
from indexer.rpc.wire import data, quantity
from indexer.rpc.wire import header as read_header
from indexer.rpc.wire import logs as parse_logs

_ANY = 2**256


class SealedHeader(NamedTuple):
    """A header with its proof: `computed` is the hash of its fields, to be compared with `header.hash`."""

    header: Header
    computed: bytes


class BlockReceipts(NamedTuple):
    """All receipts of a block in order, and the logs in them of the watched addresses.

    Log indices are as reported by the node; `in_place`: for every log, the index equals the log's position in the
    block.
    """

    receipts: list[Receipt]
    logs: list[Log]
    in_place: bool


def sealed_header(result: Any, number: int) -> SealedHeader:
    """Parse a block object. Raises TransientRpcError, or InconsistentResponseError if it is not block `number`."""
    return _sealed(result, read_header(result, number))


def _sealed(result: Any, header: Header) -> SealedHeader:
    values: dict[str, bytes | int] = {name: _value(result.get(name), name, size) for name, size in FIELDS}
    values |= {name: _value(result[name], name, size) for name, size in LATER_FIELDS if result.get(name) is not None}
    root = values["receiptsRoot"]
    assert isinstance(root, bytes)
    return SealedHeader(header._replace(receipts_root=root), header_hash(values))


def verified_header(result: Any, number: int) -> Header:
    """Parse a block object; the header has its `receipts_root` only if its fields have its hash.

    A node that leaves fields out serves a header that is as good as any other, but proves nothing. Raises what
    `sealed_header` raises, except for the fields that only the hash needs.
    """
    header = read_header(result, number)
    try:
        sealed = _sealed(result, header)
    except TransientRpcError:
        return header
    return sealed.header if sealed.computed == header.hash else header


def _value(value: Any, name: str, size: int | None) -> bytes | int:
    return quantity(value, name, _ANY) if size == 0 else data(value, name, size)


def receipts(result: Any, header: Header, addresses: Collection[str]) -> BlockReceipts:
    """Parse eth_getBlockReceipts' answer about a block, in the order of transactions.

    Raises InconsistentResponseError if it has no receipts, or those of another block; TransientRpcError if they are
    unreadable.
    """
    if not isinstance(result, list):
        raise InconsistentResponseError(f"no receipts for block {header.number}")
    watched = {address_bytes(a) for a in addresses}
    ordered = sorted(((_transaction_index(receipt, header), receipt) for receipt in result), key=lambda pair: pair[0])
    if [tx_index for tx_index, _ in ordered] != list(range(len(ordered))):
        raise InconsistentResponseError(
            f"the receipts of block {header.number} are not those of transactions 0 to {len(ordered) - 1}"
        )
    parsed: list[Receipt] = []
    watched_logs: list[Log] = []
    position, in_place = 0, True
    for tx_index, receipt in ordered:
        tx_hash = data(receipt.get("transactionHash"), "transactionHash", 32)
        logs = []
        for entry in receipt["logs"]:
            log, index = _log(entry), quantity(entry.get("logIndex"), "logIndex")
            logs.append(log)
            in_place, position = in_place and index == position, position + 1
            if log.address in watched:
                watched_logs.append(
                    Log(header.number, index, log.address, tx_hash, tx_index, log.topics, log.data, header.hash)
                )
        parsed.append(_receipt(receipt, logs))
    return BlockReceipts(parsed, watched_logs, in_place)


def _transaction_index(receipt: Any, header: Header) -> int:
    if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
        raise TransientRpcError(f"a receipt is not an object with logs: {receipt!r:.80}")
    if data(receipt.get("blockHash"), "blockHash", 32) != header.hash:
        raise InconsistentResponseError(f"the receipts have a different block hash than block {header.number}")
    return quantity(receipt.get("transactionIndex"), "transactionIndex", 2**31)


def _receipt(receipt: dict[str, Any], logs: list[ReceiptLog]) -> Receipt:
    # Before Byzantium a receipt has a state root and no status; nodes give null or omit it.
    status = receipt.get("status")
    outcome: int | bytes
    outcome = data(receipt.get("root"), "root", 32) if status is None else quantity(status, "status", 2)
    return Receipt(
        quantity(receipt.get("type") or "0x0", "type", 0x80),
        outcome,
        quantity(receipt.get("cumulativeGasUsed"), "cumulativeGasUsed"),
        data(receipt.get("logsBloom"), "logsBloom", 256),
        logs,
    )


def _log(entry: Any) -> ReceiptLog:
    if not isinstance(entry, dict):
        raise TransientRpcError(f"a log is not an object: {entry!r:.80}")
    topics = entry.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise TransientRpcError(f"topics are not a list of at most four: {topics!r:.80}")
    return ReceiptLog(
        data(entry.get("address"), "address", 20),
        tuple([data(topic, "topic", 32) for topic in topics]),
        data(entry.get("data"), "data"),
    )


def logs_of_receipts(result: Any, header: Header, addresses: Collection[str]) -> list[Log]:
    """Return the logs of the watched addresses in eth_getBlockReceipts' answer about `header`'s block, in order.

    Raises InconsistentResponseError if the receipts are not this block's, if a receipt or a log occurs twice, or if a
    log names another transaction than its receipt; TransientRpcError if they are unreadable. It is not proven that no
    receipt is missing: a header does not state their number.
    """
    if not isinstance(result, list) or not result:
        raise InconsistentResponseError(f"no receipts for block {header.number}")
    entries: list[Any] = []
    transactions: set[int] = set()
    for receipt in result:
        if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
            raise TransientRpcError(f"a receipt is not an object with logs: {receipt!r:.80}")
        if data(receipt.get("blockHash"), "blockHash", 32) != header.hash:
            raise InconsistentResponseError(f"the receipts have a different block hash than block {header.number}")
        index = quantity(receipt.get("transactionIndex"), "transactionIndex", 2**31)
        if index in transactions:
            raise InconsistentResponseError(f"duplicate receipt for transaction {index} of block {header.number}")
        transactions.add(index)
        _check_owned(receipt, index)
        entries += receipt["logs"]
    everyone = {"0x" + data(entry.get("address"), "address", 20).hex() for entry in entries}
    watched = {address_bytes(a) for a in addresses}
    # All logs are parsed, so that a duplicate index is found wherever it is.
    logs = parse_logs(entries, header.number, header.number, everyone)
    if any(log.block_hash != header.hash for log in logs):
        raise InconsistentResponseError(f"the receipts of block {header.number} contain a log of a different block")
    return [log for log in logs if log.address in watched]


def _check_owned(receipt: dict[str, Any], index: int) -> None:
    for entry in receipt["logs"]:
        if not isinstance(entry, dict):
            raise TransientRpcError(f"a log is not an object: {entry!r:.80}")
        if quantity(entry.get("transactionIndex"), "transactionIndex", 2**31) != index:
            raise InconsistentResponseError(f"the receipt of transaction {index} contains a log of another transaction")


def addresses_logged(result: Any, header: Header) -> set[bytes]:
    """Return the addresses of all logs in a block's receipts.

    Raises InconsistentResponseError if they are not this block's.
    """
    if not isinstance(result, list) or not result:
        raise InconsistentResponseError(f"no receipts for block {header.number}")
    addresses: set[bytes] = set()
    for receipt in result:
        if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
            raise TransientRpcError(f"a receipt is not an object with logs: {receipt!r:.80}")
        if data(receipt.get("blockHash"), "blockHash", 32) != header.hash:
            raise InconsistentResponseError(f"the receipts have a different block hash than block {header.number}")
        for entry in receipt["logs"]:
            if not isinstance(entry, dict):
                raise TransientRpcError(f"a log is not an object: {entry!r:.80}")
            addresses.add(data(entry.get("address"), "address", 20))
    return addresses
