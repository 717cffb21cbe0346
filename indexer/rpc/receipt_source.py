"""Receipts of whole blocks from one endpoint, by whichever method it serves them.

eth_getBlockReceipts gives a block's receipts at once, eth_getTransactionReceipt one by one. Which of them an endpoint
serves is found by what it does: a refusal is put down to the method only if the endpoint refuses the receipts of other
blocks too while it answers about headers. A pruned or missing block is not a missing method, and an answer that did not
come (a gateway's error, a timeout) is none until it fails to come several times in a row.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog

from indexer.chain.types import Header
from indexer.errors import (
    InconsistentResponseError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
)
from indexer.rpc.answers import Call, header_call
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.error_classifier import NO_METHOD
from indexer.rpc.health import MethodSupport

BLOCK, SINGLE = "eth_getBlockReceipts", "eth_getTransactionReceipt"
CONTROL_WAIT_S = 5.0  # For an answer that shows whether a method or the endpoint is at fault.
MAX_UNANSWERED = 3  # Rate limits or failed requests in a row after which a method counts as not served, for a while.

log = structlog.get_logger()


class ReceiptSource:
    """The receipts that one endpoint serves. `support` keeps what it refuses."""

    def __init__(self, endpoint: Endpoint, support: MethodSupport) -> None:
        self.endpoint, self.support = endpoint, support
        self._unanswered: Counter[str] = Counter()  # By method: rate limits and failed requests since the last answer.

    @property
    def whole_blocks(self) -> bool:
        """Whether the endpoint serves the receipts of a block at once, as far as is known."""
        return not self.support.rests(BLOCK, time.monotonic())

    @property
    def why_none(self) -> str:
        """Why the endpoint serves no receipts; "" if it does, as far as is known."""
        known = self.support.get(BLOCK)
        return "" if known is None else f"{BLOCK}: {known.why}"

    async def of_blocks(self, headers: Sequence[Header]) -> list[Any] | None:
        """Return what the endpoint answers about each block, or the error; None if it serves no receipts at all.

        Raises RpcError if it refuses these blocks together, or does not answer.
        """
        if self.whole_blocks:
            try:
                answers = await self.endpoint.batches.independent([_call(hex(h.number)) for h in headers], partial=True)
                refusal = answers[0] if all(isinstance(answer, RpcError) for answer in answers) else None
            except RpcError as error:
                if not await self._is_refused(error, headers[0]):
                    raise
                self._refuse(BLOCK, error)
            else:
                if any(isinstance(answer, list) for answer in answers):
                    self._answer(BLOCK)
                elif refusal is None:
                    self._unanswered.pop(BLOCK, None)  # It says that there are none, which is an answer, too.
                if refusal is None or not await self._is_refused(refusal, headers[0]):
                    return answers
                self._refuse(BLOCK, refusal)
        return await self._by_transaction(headers)

    async def _is_refused(self, error: RpcError, header: Header) -> bool:
        """Return whether the method is refused, and not only this block, or everything."""
        if isinstance(error, RateLimitedError):
            return self._is_lasting(BLOCK, error)
        if isinstance(error, RpcCallError) and error.code == NO_METHOD:
            return True
        if self.support.get(BLOCK) is None:
            # At the head the block below is old enough, in a pruned past the newest one is young enough.
            for block in (hex(max(0, header.number - 1)), "latest"):
                if isinstance(await self._control(_call(block)), list):
                    self._answer(BLOCK)
                    return False
        return await self._control(header_call("latest")) is not None and self._is_lasting(BLOCK, error)

    def _is_lasting(self, method: str, error: RpcError) -> bool:
        """Return whether an error says something about the method: at once if it is the node's own answer."""
        if not isinstance(error, TransientRpcError) or error.code:
            return True
        self._unanswered[method] += 1
        return self._unanswered[method] >= MAX_UNANSWERED

    async def _control(self, call: Call) -> Any:
        """Return the answer to a control question; None if there is none."""
        try:
            async with asyncio.timeout(CONTROL_WAIT_S):
                return await self.endpoint.call(*call)
        except (RpcError, TimeoutError):
            return None

    async def _by_transaction(self, headers: Sequence[Header]) -> list[Any] | None:
        if self.support.rests(SINGLE, time.monotonic()):
            return None
        found: list[Any] = []
        for header in headers:
            hashes = await self._transactions(header)
            try:
                receipts = await self.endpoint.batches.independent([(SINGLE, [hash_]) for hash_ in hashes])
            except RateLimitedError:
                raise
            except RpcError as error:  # The endpoint has just answered about the block.
                if not self._is_lasting(SINGLE, error):
                    raise
                self._refuse(SINGLE, error)
                return None
            if None in receipts:
                raise InconsistentResponseError(f"no receipt of a transaction of block {header.number}", self.name)
            if receipts:
                self._answer(SINGLE)
            found.append(receipts)
        return found

    async def _transactions(self, header: Header) -> list[str]:
        """Return the hashes of a block's transactions. Raises InconsistentResponseError if it is another block now."""
        block = await self.endpoint.call(*header_call(header.number))
        hashes = block.get("transactions") if isinstance(block, dict) else None
        if not isinstance(hashes, list) or not all(isinstance(hash_, str) for hash_ in hashes):
            raise InconsistentResponseError(f"block {header.number} does not name its transactions", self.name)
        if str(block.get("hash")).lower() != "0x" + header.hash.hex():
            raise InconsistentResponseError(f"block {header.number} changed while its receipts were read", self.name)
        return hashes

    @property
    def name(self) -> str:
        """The endpoint's display name."""
        return self.endpoint.name

    def _refuse(self, method: str, error: RpcError) -> None:
        if self.support.refused(method, time.monotonic(), error.words):
            log.warning("method_refused", endpoint=self.name, method=method, reason=error.words)

    def _answer(self, method: str) -> None:
        self._unanswered.pop(method, None)
        if self.support.answered(method):
            log.info("method_served_again", endpoint=self.name, method=method)


def _call(block: str) -> Call:
    return BLOCK, [block]
