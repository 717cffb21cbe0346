"""Typed queries to one endpoint: heads, headers, logs and receipts, parsed and checked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from indexer.chain.types import Header, Heads, Log
from indexer.errors import (
    InconsistentResponseError,
    IndexerError,
    RangeTooLargeError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
    error_label,
)
from indexer.rpc import error_hints, receipts, wire
from indexer.rpc.adaptive_size import AdaptiveRange, LearnedLimits
from indexer.rpc.answers import Call
from indexer.rpc.receipts import BlockReceipts, SealedHeader, logs_of_receipts
from indexer.rpc.transport import Endpoint, Results

T = TypeVar("T")
CHECKS_WITHOUT_TAG = 200
_NO_METHOD = -32601
_ASK_AGAIN_S = 0.2  # After which a refused question is asked once more.
# For a number it means "not yet", for a tag "none": a node without finality gives no other answer, however often asked.
_NO_BLOCK = re.compile(r"(block|header) not (found|available)|unknown block", re.IGNORECASE)


class Reader:
    """Queries to one endpoint. Every error is an RpcError that names the endpoint."""

    def __init__(self, endpoint: Endpoint, max_blocks: int = 2000) -> None:
        self.endpoint, self.name = endpoint, endpoint.name
        self.ranges = AdaptiveRange(max_blocks)
        self._probing = asyncio.Lock()
        self._refused = {"safe": 0, "finalized": 0}  # Calls left until a refused tag is asked for again.

    def export_limits(self) -> dict[str, Any]:
        """Return the limits learned from the endpoint, as JSON, for other processes that use it."""
        return {"ranges": asdict(self.ranges.snapshot()), "batch": self.endpoint.lengths.ceiling}

    def import_limits(self, limits: Mapping[str, Any]) -> None:
        """Continue from limits that another process learned from the same endpoint; they only tighten."""
        self.ranges.restore(LearnedLimits(**limits["ranges"]))
        self.endpoint.lengths.learn(limits["batch"])

    async def chain_id(self) -> int:
        """Return the chain id that the endpoint reports."""
        result = await self.endpoint.call("eth_chainId", [])
        return self._parse(lambda: wire.quantity(result, "chain id"))

    async def heads(self) -> Heads:
        """Return latest, safe and finalized, read in one request; None for a tag that the node does not have now."""
        tags = ["latest", *(tag for tag, calls_left in self._refused.items() if not calls_left)]
        self._refused = {tag: max(0, calls_left - 1) for tag, calls_left in self._refused.items()}
        try:
            results = await self.endpoint.batch([_header_call(tag) for tag in tags])
        except (RpcCallError, TransientRpcError) as error:
            if isinstance(error, TransientRpcError) and not _NO_BLOCK.search(error.message):
                raise
            return await self._heads_one_by_one()
        return self._heads(dict(zip(tags, results, strict=True)))

    async def _heads_one_by_one(self) -> Heads:
        """Ask for each tag alone, because a node without a tag refuses the whole request.

        A refused tag is left out of the next CHECKS_WITHOUT_TAG calls of `heads`.
        """
        blocks: dict[str, Any] = {"latest": await self.endpoint.call(*_header_call("latest"))}
        for tag in self._refused:
            try:
                blocks[tag] = await self.endpoint.call(*_header_call(tag))
            except (RpcCallError, TransientRpcError) as error:
                if isinstance(error, TransientRpcError) and not _NO_BLOCK.search(error.message):
                    raise
                self._refused[tag] = CHECKS_WITHOUT_TAG
        return self._heads(blocks)

    def _heads(self, blocks: dict[str, Any]) -> Heads:
        def tagged(tag: str) -> Header | None:
            return wire.header(blocks[tag]) if blocks.get(tag) is not None else None

        return self._parse(lambda: Heads(wire.header(blocks["latest"]), tagged("safe"), tagged("finalized")))

    async def probe(self, number: int | None) -> tuple[int, Header, Header | None]:
        """Return chain id, latest block, and block `number` if given and present, read in one request."""
        calls = [("eth_chainId", []), _header_call("latest"), *([] if number is None else [_header_call(number)])]
        results = await self.endpoint.batch(calls)
        block = results[2] if number is not None else None
        return self._parse(
            lambda: (
                wire.quantity(results[0], "chain id"),
                wire.header(results[1]),
                None if block is None else wire.header(block, number),
            )
        )

    async def header(self, number: int) -> Header | None:
        """Return the header of a block; None if the node has no such block."""
        result = await self.endpoint.call(*_header_call(number))
        return None if result is None else self._parse(lambda: wire.header(result, number))

    async def headers(self, numbers: Sequence[int]) -> list[Header]:
        """Return headers in the order requested. Raises MissingBlockError, which is transient: the node may lag."""
        results = await self.endpoint.independent([_header_call(n) for n in numbers])
        return self._parse(lambda: [wire.header(r, n) for r, n in zip(results, numbers, strict=True)])

    async def found(self, blocks: Sequence[int | str]) -> list[Header | None]:
        """Return headers by number or tag, read in one request; None for a block that the node does not have."""
        results = await self.endpoint.batch([_header_call(b) for b in blocks])
        return self._parse(lambda: [_optional_header(r, b) for r, b in zip(results, blocks, strict=True)])

    async def logs_with_headers(
        self,
        first: int,
        last: int,
        addresses: Sequence[str],
        numbers: Iterable[int],
        extra_blocks: Sequence[int | str] = (),
        *,
        whole: bool = False,
    ) -> tuple[list[Log], list[Header]]:
        """Read logs and headers in one request.

        Only one request larger than anything answered so far is in flight at a time, and sizes known to be refused are
        never sent, so an endpoint refuses each size at most once, however many fetchers there are.

        Args:
            first: first block of the logs.
            last: last block of the logs, included.
            addresses: contracts whose logs to read (lower-case 0x).
            numbers: blocks whose headers are required.
            extra_blocks: blocks, by number or tag, whose headers are returned only if the node has them.
            whole: whether to raise RangeTooLargeError rather than to split so many headers over several answers.

        Returns:
            The logs in chain order, and the headers of `numbers` followed by those of `extra_blocks`.

        Raises:
            RangeTooLargeError: the node does not serve such a range at once; carries the node's hint.
            RpcError: any other failure. It may be a range too large in disguise (a timeout, a dropped connection), so
                fewer blocks are requested next.
        """
        blocks = last - first + 1
        if blocks > self.ranges.max_answered:
            async with self._probing:
                if blocks > self.ranges.max_answered:
                    return await self._logs_with_headers(first, last, addresses, numbers, extra_blocks, whole=whole)
        return await self._logs_with_headers(first, last, addresses, numbers, extra_blocks, whole=whole)

    async def _logs_with_headers(
        self, first: int, last: int, addresses: Sequence[str], numbers: Iterable[int],
        extra_blocks: Sequence[int | str], *, whole: bool,
    ) -> tuple[list[Log], list[Header]]:  # fmt: skip
        wanted, blocks = list(numbers), last - first + 1
        calls = [_header_call(n) for n in (*wanted, *extra_blocks)]
        whole = whole and 1 < blocks == len(wanted)  # Fewer blocks make a shorter batch.
        if self.ranges.refuses(blocks):
            raise RangeTooLargeError(f"a range of {blocks} blocks was refused before", self.name, self.ranges.ceiling)
        log_filter = {"fromBlock": hex(first), "toBlock": hex(last), "address": list(addresses)}
        try:
            results, size = await self._asked_twice([("eth_getLogs", [log_filter]), *calls], whole=whole)
        except InconsistentResponseError:
            raise
        except (RateLimitedError, RpcCallError) as refusal:
            # Whatever its words, it may mean the number of blocks.
            if not self.ranges.doubted(blocks, repeated=isinstance(refusal, RpcCallError)):
                raise
            said = refusal.message.removeprefix(f"{self.name}: ")
            raise RangeTooLargeError(f"refuses {blocks} blocks: {said}", self.name, results=True) from refusal
        except TransientRpcError:
            self.ranges.failed(blocks)
            raise
        except RangeTooLargeError as refusal:
            if not whole or self.endpoint.fits(len(calls) + 1):  # Else the number of headers is to blame.
                self._learn_from(refusal, blocks)
            raise
        self.ranges.observe_size(blocks, size)
        of_wanted, of_extra = results[1 : len(wanted) + 1], results[len(wanted) + 1 :]
        return self._parse(
            lambda: (
                wire.logs(results[0], first, last, addresses),
                [wire.header(r, n) for r, n in zip(of_wanted, wanted, strict=True)]
                + [h for r, b in zip(of_extra, extra_blocks, strict=True) if (h := _optional_header(r, b)) is not None],
            )
        )

    async def _asked_twice(self, calls: Sequence[Call], *, whole: bool) -> Results:
        """Return the results of one answer. A refusal is asked once more: a moment later some nodes answer the same."""
        try:
            return await self.endpoint.batch_with_size(calls, whole=whole)
        except RpcCallError as refusal:
            if refusal.code == _NO_METHOD:
                raise
            await asyncio.sleep(_ASK_AGAIN_S)
            return await self.endpoint.batch_with_size(calls, whole=whole)

    def _learn_from(self, refusal: RangeTooLargeError, blocks: int) -> None:
        """Apply the limits that a refusal names before the next request can be in flight.

        A limit on logs also suggests a number of blocks: the refused blocks hold at least that many logs.
        """
        logs = error_hints.max_results(refusal.message)
        self.ranges.learn(max_logs=logs, max_bytes=error_hints.max_bytes(refusal.message))
        if logs and refusal.hint is None:
            refusal.hint = max(1, blocks * self.ranges.target // logs)
        if blocks > 1:
            self.ranges.refused(blocks, refusal.hint, results=refusal.results)

    async def sealed_headers(self, numbers: Sequence[int]) -> list[SealedHeader]:
        """Return whole headers in the order requested, each with the hash computed from its fields."""
        results = await self.endpoint.independent([_header_call(n) for n in numbers])
        return self._parse(lambda: [receipts.sealed_header(r, n) for r, n in zip(results, numbers, strict=True)])

    async def block_receipts(
        self, headers: Sequence[Header], addresses: Collection[str]
    ) -> list[BlockReceipts]:  # fmt: skip
        """Return all receipts of these blocks, read in one request if the node takes batches."""
        results = await self.endpoint.independent([("eth_getBlockReceipts", [hex(h.number)]) for h in headers])
        return self._parse(lambda: [receipts.receipts(r, h, addresses) for r, h in zip(results, headers, strict=True)])

    async def receipts(self, number: int, addresses: Collection[str]) -> tuple[list[Log], Header]:
        """Return the logs of the addresses in a block's receipts, and its header, read in one request.

        Raises RpcCallError if the node has no eth_getBlockReceipts, or not this block's receipts.
        """
        results = await self.endpoint.batch([("eth_getBlockReceipts", [hex(number)]), _header_call(number)])
        header = self._parse(lambda: wire.header(results[1], number))
        return self._parse(lambda: logs_of_receipts(results[0], header, addresses)), header

    async def addresses_in_receipts(self, header: Header) -> set[bytes] | None:
        """Return the addresses that logged in a block, from its receipts; None if the node has no eth_getBlockReceipts.

        Raises InconsistentResponseError if the node has the method but not this block's receipts.
        """
        try:
            result = await self.endpoint.call("eth_getBlockReceipts", [hex(header.number)])
        except RpcCallError as error:
            if error.code == -32601:
                return None
            raise InconsistentResponseError(
                f"no receipts for block {header.number}: {error.message}", self.name
            ) from error
        return self._parse(lambda: receipts.addresses_logged(result, header))

    def _parse(self, parse: Callable[[], T]) -> T:
        """Run a parser; its errors name the endpoint that sent the answer."""
        try:
            return parse()
        except RpcError as error:
            self.endpoint.errors[error_label(error)] += 1
            raise type(error)(error.message, self.name) from error
        except IndexerError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise TransientRpcError(f"unreadable answer: {error}", self.name) from error


def _optional_header(result: Any, block: int | str) -> Header | None:
    return None if result is None else wire.header(result, block if isinstance(block, int) else None)


def _header_call(block: int | str) -> Call:
    return "eth_getBlockByNumber", [block if isinstance(block, str) else hex(block), False]
