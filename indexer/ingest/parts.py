"""A block that an endpoint refuses as a whole, put together from parts of that endpoint before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from indexer.chain.types import Header, Log
from indexer.errors import Inconsistent, RangeTooLarge, RpcRefused
from indexer.rpc.reader import Reader


async def logs_of_block(
    reader: Reader, number: int, addresses: Sequence[str], refusal: RangeTooLarge
) -> tuple[list[Log], Header]:
    """All logs of the addresses in block `number`, in their order, and its header; `refusal` is of all addresses.

    Each address is asked for alone; those refused even so are read from the block's receipts. Every part comes with the
    header, in one request, and all headers must be of one block. Raises RangeTooLarge when an address is refused and
    there are no receipts, Inconsistent when the parts contradict each other.
    """
    served: list[Log] = []
    headers: list[Header] = []
    refused = {addresses[0]: refusal} if len(addresses) == 1 else {}
    for address in addresses if not refused else ():
        try:
            logs, of_block = await reader.logs_with_headers(number, number, [address], [number])
        except RangeTooLarge as error:
            refused[address] = error
            continue
        served += logs
        headers += of_block
    found = served
    if refused:
        try:
            found, header = await reader.receipts(number, addresses)
        except RpcRefused as error:
            message = f"block {number} has more logs than are served at once, and its receipts are not: {error.message}"
            raise RangeTooLarge(message, reader.name, results=True) from error
        headers.append(header)
        _agree(found, served, refused, reader.name)
    return _of_one_block(found, headers, reader.name)


def _agree(read: Sequence[Log], served: Sequence[Log], refused: dict[str, RangeTooLarge], endpoint: str) -> None:
    """What eth_getLogs served must be in the receipts, all of it and no more, and an address that it had too many logs
    of must be there too: receipts that lack these may lack others."""
    lacking = {bytes.fromhex(a[2:]): error for a, error in refused.items()}
    told = [log for log in read if log.address not in lacking]
    if _places(told) != _places(served):
        raise Inconsistent("receipts and eth_getLogs disagree about a block's logs", endpoint)
    for address in lacking.keys() - {log.address for log in read}:
        if lacking[address].results:
            raise Inconsistent(f"no logs of 0x{address.hex()} in the receipts, though it has too many", endpoint)


def _places(logs: Iterable[Log]) -> list[tuple[int, bytes, bytes]]:
    return sorted((log.log_index, log.address, log.block_hash) for log in logs)


def _of_one_block(logs: Sequence[Log], headers: Sequence[Header], endpoint: str) -> tuple[list[Log], Header]:
    number, known = headers[0].number, {header.hash for header in headers}
    if len(known) > 1 or any(log.block_hash not in known for log in logs):
        raise Inconsistent(f"block {number} changed while its logs were read", endpoint)
    if len({log.log_index for log in logs}) != len(logs):
        raise Inconsistent(f"a log index of block {number} came twice", endpoint)
    return sorted(logs, key=lambda log: log.log_index), headers[0]
