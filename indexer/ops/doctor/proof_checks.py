"""Checks of what proofs and block times rely on at one endpoint: header hashes, receipts roots, the time in logs."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.chain.receipts_root import receipts_root
from indexer.chain.types import Header, Log
from indexer.errors import RpcError
from indexer.ops.doctor.findings import DoctorFindings
from indexer.rpc.reader import Reader
from indexer.rpc.receipt_source import BLOCK, SINGLE

_UNPROVABLE = (
    "Name a second endpoint, which cross-checks instead; if none proves, [attest] enabled = false saves requests"
)


async def examine_receipts(reader: Reader, found: DoctorFindings, number: int, addresses: Sequence[str]) -> None:
    """Check that a block's receipts are served, and that their logs are those of eth_getLogs.

    Args:
        reader: The endpoint.
        found: Where the findings go.
        number: The block.
        addresses: Contracts of the deployment (lower-case 0x).
    """
    try:
        logs, _ = await reader.receipts(number, addresses)
    except RpcError as error:
        detail = f"{BLOCK}: {error.message.removeprefix(f'{BLOCK}: ')}"
        found.note("receipts", f"{detail}; logs are not proven, an oversized block is not read", _UNPROVABLE)
        return
    by_logs, _ = await reader.logs_with_headers(number, number, addresses, [])
    refused = reader.endpoint.health.support.get(BLOCK)
    if [(g.log_index, g.data) for g in logs] != [(g.log_index, g.data) for g in by_logs]:
        found.fix("receipts", f"block {number}: other logs than eth_getLogs", "Use another endpoint")
    elif refused is not None:
        detail = f"{BLOCK} is refused ({refused.why}): each block takes one {SINGLE} per transaction"
        found.note("receipts", detail, "Lower [attest] recent_blocks, or name an endpoint that serves the method")
    else:
        found.good("receipts", f"block {number}: the same {len(logs)} logs")


async def examine_proof(reader: Reader, found: DoctorFindings, number: int, addresses: Sequence[str]) -> None:
    """Check that a block can be proven: its header has its hash, and its receipts have the header's root.

    Args:
        reader: The endpoint.
        found: Where the findings go.
        number: The block.
        addresses: Contracts of the deployment (lower-case 0x).
    """
    (sealed,) = await reader.sealed_headers([number])
    if isinstance(sealed, RpcError):
        found.note("header", f"block {number} is not proven: {sealed.message}", _UNPROVABLE)
        return
    if sealed.computed != sealed.header.hash:
        detail = f"the fields of header {number} do not have its hash: no block of this endpoint can be proven"
        found.note("header", detail, _UNPROVABLE)
        return
    found.good("header", f"header {number} has its hash")
    (receipts,) = await reader.block_receipts([sealed.header], addresses)
    if isinstance(receipts, RpcError):
        return  # Named by `examine_receipts`.
    if receipts_root(receipts.receipts) != sealed.header.receipts_root:
        detail = f"the receipts of block {number} have another root than its header: their logs prove nothing"
        found.note("receipts root", detail, _UNPROVABLE)
    else:
        found.good("receipts root", f"block {number}: as in the header")


def examine_log_times(found: DoctorFindings, logs: Sequence[Log], header: Header) -> None:
    """Check the time that logs of a block carry against its header."""
    times = {log.block_timestamp for log in logs}
    if not times:
        return
    if times == {header.timestamp}:
        found.good("log times", "logs carry the time of their block")
    elif times == {None}:
        found.note("log times", "logs carry no block time: catching up reads a header for each block with logs",
                   "Nothing is wrong; set `stamps = true` for contracts whose events carry the time")  # fmt: skip
    else:
        detail = f"logs of block {header.number} carry another time than its header: they are ignored"
        found.note(
            "log times", detail, "Nothing is stored from them; catching up reads more headers. Tell the provider"
        )
