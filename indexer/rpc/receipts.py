"""The logs of one block out of its receipts, strictly. Pure.

For a block that eth_getLogs refuses even for a single contract: receipts are not limited by the number of logs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from indexer.chain.types import Header, Log
from indexer.errors import Inconsistent, Transient
from indexer.rpc.wire import data, quantity
from indexer.rpc.wire import logs as parse_logs


def logs_of_receipts(result: Any, header: Header, addresses: Collection[str]) -> list[Log]:
    """The logs of the watched addresses in eth_getBlockReceipts' answer about `header`'s block, in their order.

    Raises Inconsistent when the receipts are not this block's, when a receipt or a log came twice, or when a log names
    another transaction than its receipt; Transient when they are unreadable. That no receipt is missing is not proven:
    a header names no number of them.
    """
    if not isinstance(result, list) or not result:
        raise Inconsistent(f"no receipts of block {header.number}")
    entries: list[Any] = []
    transactions: set[int] = set()
    for receipt in result:
        if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
            raise Transient(f"a receipt is no object with logs: {receipt!r:.80}")
        if data(receipt.get("blockHash"), "blockHash", 32) != header.hash:
            raise Inconsistent(f"receipts of another block than {header.number} of this hash")
        index = quantity(receipt.get("transactionIndex"), "transactionIndex", 2**31)
        if index in transactions:
            raise Inconsistent(f"the receipt of transaction {index} of block {header.number} came twice")
        transactions.add(index)
        _check_owned(receipt, index)
        entries += receipt["logs"]
    everyone = {"0x" + data(entry.get("address"), "address", 20).hex() for entry in entries}
    watched = {bytes.fromhex(a[2:]) for a in addresses}
    # All are parsed, so that a doubled index is found wherever it is.
    logs = parse_logs(entries, header.number, header.number, everyone)
    if any(log.block_hash != header.hash for log in logs):
        raise Inconsistent(f"a log of another block than {header.number} of this hash in its receipts")
    return [log for log in logs if log.address in watched]


def _check_owned(receipt: dict[str, Any], index: int) -> None:
    for entry in receipt["logs"]:
        if not isinstance(entry, dict):
            raise Transient(f"a log is no object: {entry!r:.80}")
        if quantity(entry.get("transactionIndex"), "transactionIndex", 2**31) != index:
            raise Inconsistent(f"a log of another transaction in the receipt of transaction {index}")
