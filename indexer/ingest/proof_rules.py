"""When an answer proves a header or a block's logs, and else the reason why it does not. Pure.

The reasons have few names, which are part of the incidents that operators see: "no header", "unreadable header",
"header" (its fields do not have its hash), "chain" (it is another block), "no receipts", "unreadable receipts", "root"
(the receipts do not have the header's root), "log index" and "transaction hash".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from indexer.chain.receipts_root import receipts_root
from indexer.chain.types import Header, Log
from indexer.errors import InconsistentResponseError, MissingBlockError, RpcError, TransientRpcError
from indexer.rpc.receipts import BlockReceipts, SealedHeader


class ProofFailure(NamedTuple):
    """Why the answers of `endpoint` do not prove block `block`: `why` is one of a few names, `detail` a sentence."""

    endpoint: str
    block: int
    why: str
    detail: str


def hashes_to_itself(answer: SealedHeader | RpcError) -> bool:
    """Return whether an answer is a header whose fields have its hash."""
    return not isinstance(answer, RpcError) and answer.computed == answer.header.hash


def header_failure(endpoint: str, number: int, answer: SealedHeader | RpcError) -> ProofFailure | None:
    """Return why an answer does not prove itself a header of block `number`; None if its fields have its hash."""
    if isinstance(answer, RpcError):
        why = "no header" if isinstance(answer, MissingBlockError) else "unreadable header"
        return ProofFailure(endpoint, number, why, f"header {number}: {answer.words}")
    if not hashes_to_itself(answer):
        detail = f"the fields of header {number} do not have its hash, 0x{answer.header.hash.hex()}"
        return ProofFailure(endpoint, number, "header", detail)
    return None


def check_header(endpoint: str, block: Header, sealed: SealedHeader | RpcError) -> ProofFailure | None:
    """Return why an answer does not prove the header of a block whose hash is known; None if it does."""
    if not isinstance(sealed, RpcError) and sealed.header.hash != block.hash:
        return ProofFailure(endpoint, block.number, "chain", f"block {block.number} is stored with another hash")
    return header_failure(endpoint, block.number, sealed)


def check_receipts(
    endpoint: str, block: Header, read: BlockReceipts | RpcError, stored: Sequence[Log]
) -> ProofFailure | None:
    """Return why the receipts do not prove the logs of a block; None if they do.

    Args:
        endpoint: Who served the receipts.
        block: The block, with its receipts root.
        read: The receipts, or why there are none.
        stored: The logs that are believed so far.
    """
    number = block.number
    if isinstance(read, RpcError):
        unreadable = isinstance(read, TransientRpcError) and not isinstance(read, InconsistentResponseError)
        why = "unreadable receipts" if unreadable else "no receipts"
        return ProofFailure(endpoint, number, why, f"block {number}: {read.words}")
    if receipts_root(read.receipts) != block.receipts_root:
        same = [(g.identity, g.content) for g in read.logs] == [(g.identity, g.content) for g in stored]
        detail = f"the receipts of block {number} have another root than its header, their logs are "
        return ProofFailure(endpoint, number, "root", detail + ("the stored ones" if same else "not the stored ones"))
    if not read.in_place:
        return ProofFailure(endpoint, number, "log index", f"log indexes of block {number} are not the logs' positions")
    same = [_proven_part(log) for log in read.logs] == [_proven_part(log) for log in stored]
    if same and [log.transaction_hash for log in read.logs] != [log.transaction_hash for log in stored]:
        detail = f"a transaction of block {number} has another hash than stored, which no receipt proves"
        return ProofFailure(endpoint, number, "transaction hash", detail)
    return None


def _proven_part(log: Log) -> Log:
    """Return a log without the fields that its receipt does not prove."""
    return log._replace(transaction_hash=b"", block_hash=b"", block_timestamp=None)
