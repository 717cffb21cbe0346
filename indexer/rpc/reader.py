"""Typed queries to one endpoint: heads, headers, logs and receipts, parsed and checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
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
from indexer.rpc.answers import Call, Results, header_call
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.error_classifier import NO_METHOD, pruned
from indexer.rpc.head_tags import HeadTags
from indexer.rpc.receipt_source import BLOCK, ReceiptSource
from indexer.rpc.receipts import BlockReceipts, SealedHeader, logs_of_receipts

T = TypeVar("T")
PEER_WAIT_S = 5.0  # For receipts of another endpoint, while the head waits for them.
PEER_REST_S = 60.0  # Until a peer that did not answer is asked for receipts again.
_ASK_AGAIN_S = 0.2  # After which a refused question is asked once more.


class Reader:
    """Queries to one endpoint. Every error is an RpcError that names the endpoint."""

    def __init__(self, endpoint: Endpoint, max_blocks: int = 2000) -> None:
        self.endpoint, self.name = endpoint, endpoint.name
        self.ranges = AdaptiveRange(max_blocks)
        self.peers: Sequence[Reader] = ()  # The other endpoints of the chain, for receipts that this one refuses.
        self._peers_rest: dict[str, float] = {}  # Until when (monotonic, s) a peer that failed is not asked.
        self._probing = asyncio.Lock()
        self._tags = HeadTags(endpoint)
        self._receipts = ReceiptSource(endpoint, endpoint.health.support)

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

    async def latest(self) -> Header:
        """Return the newest block. Raises MissingBlockError if the node has none."""
        result = await self.endpoint.call(*header_call("latest"))
        return self._parse(lambda: wire.header(result))

    async def heads(self) -> Heads:
        """Return latest, safe and finalized, read in one request; None for a tag that the node does not give now.

        Only `latest` is needed: a tag that fails, in whichever way, never keeps the head from being seen.
        """
        blocks = await self._tags.read()
        latest = self._parse(lambda: wire.header(blocks["latest"]))
        safe, finalized = (self._tags.parsed(tag, blocks.get(tag)) for tag in ("safe", "finalized"))
        return Heads(latest, safe, finalized, self._tags.failing("finalized"))

    async def probe(self, number: int | None) -> tuple[int, Header, Header | None]:
        """Return chain id, latest block, and block `number` if given and present, read in one request."""
        calls = [("eth_chainId", []), header_call("latest"), *([] if number is None else [header_call(number)])]
        try:
            results = await self.endpoint.batch(calls)
        except RpcCallError:
            if number is None:
                raise
            results = [*await self.endpoint.batch(calls[:2]), None]  # A pruned node refuses an old block.
        chain_id = self._parse(lambda: wire.quantity(results[0], "chain id"))
        return chain_id, self._parse(lambda: wire.header(results[1])), self._readable(results[2:], number)

    def _readable(self, results: Sequence[Any], number: int | None) -> Header | None:
        """Return the header of an answer; None if there is none, or one that cannot be read."""
        if not results or results[0] is None:
            return None
        try:
            return self._parse(lambda: wire.header(results[0], number))
        except RpcError:
            return None

    async def header(self, number: int) -> Header | None:
        """Return the header of a block; None if the node has no such block."""
        result = await self.endpoint.call(*header_call(number))
        return None if result is None else self._parse(lambda: wire.header(result, number))

    async def headers(self, numbers: Sequence[int]) -> list[Header]:
        """Return headers in the order requested. Raises MissingBlockError, which is transient: the node may lag."""
        results = await self.endpoint.batches.independent([header_call(n) for n in numbers])
        return self._parse(lambda: [wire.header(r, n) for r, n in zip(results, numbers, strict=True)])

    async def found(self, blocks: Sequence[int | str]) -> list[Header | None]:
        """Return headers by number or tag, read in one request; None for a block that the node does not have."""
        results = await self.endpoint.batch([header_call(b) for b in blocks])
        return self._parse(lambda: [_optional_header(r, b) for r, b in zip(results, blocks, strict=True)])

    async def logs_with_headers(
        self, first: int, last: int, addresses: Sequence[str], numbers: Iterable[int],
        extra_blocks: Sequence[int | str] = (), *, verified: bool = False, whole: bool = False,
    ) -> tuple[list[Log], list[Header]]:  # fmt: skip
        """Read logs and headers in one request.

        Only one request larger than anything answered so far is in flight at a time, and sizes known to be refused are
        never sent, so an endpoint refuses each size at most once, however many fetchers there are.

        Args:
            first: first block of the logs.
            last: last block of the logs, included.
            addresses: contracts whose logs to read (lower-case 0x).
            numbers: blocks whose headers are required.
            extra_blocks: blocks, by number or tag, whose headers are returned only if the node has them.
            verified: whether to compute the hashes of the headers of `numbers`, as `receipts.verified_header` does.
            whole: whether to raise RangeTooLargeError rather than to split so many headers over several answers.

        Returns:
            The logs in chain order, and the headers of `numbers` followed by those of `extra_blocks`.

        Raises:
            RangeTooLargeError: the node does not serve such a range at once; carries the node's hint.
            RpcError: any other failure. It may be a range too large in disguise (a timeout, a dropped connection), so
                fewer blocks are requested next.
        """
        blocks, parse = last - first + 1, receipts.verified_header if verified else wire.header
        read = partial(self._logs_with_headers, first, last, addresses, numbers, extra_blocks, parse, whole=whole)
        if blocks > self.ranges.max_answered:
            async with self._probing:
                if blocks > self.ranges.max_answered:
                    return await read()
        return await read()

    async def _logs_with_headers(
        self, first: int, last: int, addresses: Sequence[str], numbers: Iterable[int],
        extra_blocks: Sequence[int | str], parse: Callable[[Any, int], Header],
        *, whole: bool,
    ) -> tuple[list[Log], list[Header]]:  # fmt: skip
        wanted, blocks = list(numbers), last - first + 1
        calls = [header_call(n) for n in (*wanted, *extra_blocks)]
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
            if pruned(refusal.message) or not self.ranges.doubted(blocks, repeated=isinstance(refusal, RpcCallError)):
                raise
            raise RangeTooLargeError(f"refuses {blocks} blocks: {refusal.words}", self.name, results=True) from refusal
        except TransientRpcError:
            self.ranges.failed(blocks)
            raise
        except RangeTooLargeError as refusal:
            if not whole or self.endpoint.batches.fits(len(calls) + 1):  # Else the number of headers is to blame.
                self._learn_from(refusal, blocks)
            raise
        self.ranges.observe_size(blocks, size)
        of_wanted, of_extra = results[1 : len(wanted) + 1], results[len(wanted) + 1 :]
        return self._parse(
            lambda: (
                wire.logs(results[0], first, last, addresses),
                [parse(r, n) for r, n in zip(of_wanted, wanted, strict=True)]
                + [h for r, b in zip(of_extra, extra_blocks, strict=True) if (h := _optional_header(r, b)) is not None],
            )
        )

    async def _asked_twice(self, calls: Sequence[Call], *, whole: bool) -> Results:
        """Return the results of one answer. A refusal is asked once more: a moment later some nodes answer the same."""
        try:
            return await self.endpoint.batches.in_order(calls, whole=whole)
        except RpcCallError as refusal:
            if refusal.code == NO_METHOD:
                raise
            await asyncio.sleep(_ASK_AGAIN_S)
            return await self.endpoint.batches.in_order(calls, whole=whole)

    def _learn_from(self, refusal: RangeTooLargeError, blocks: int) -> None:
        """Apply the limits that a refusal names before the next request can be in flight.

        A limit on logs also suggests a number of blocks: the refused blocks hold at least that many logs.
        """
        logs = error_hints.max_results(refusal.message)
        self.ranges.learn(max_logs=logs, max_bytes=error_hints.max_bytes(refusal.message))
        if logs and refusal.hint is None:
            refusal.hint = max(1, blocks * self.ranges.target // logs)
        if blocks > 1:
            # A busy hour must not slow the endpoint for good.
            results = refusal.results or error_hints.is_about_time(refusal.message)
            self.ranges.refused(blocks, refusal.hint, results=results)

    async def sealed_headers(self, numbers: Sequence[int]) -> list[SealedHeader | RpcError]:
        """Return whole headers in the order requested, each with the hash computed from its fields.

        A header that is missing or unreadable is returned as its error: it says nothing about the others.
        """
        results = await self.endpoint.batches.independent([header_call(n) for n in numbers])
        return [
            self._parsed(partial(receipts.sealed_header, r, n)) for r, n in zip(results, numbers, strict=True)
        ]  # fmt: skip

    async def block_receipts(
        self, headers: Sequence[Header], addresses: Collection[str]
    ) -> list[BlockReceipts | RpcError]:  # fmt: skip
        """Return all receipts of each block, read in one request if the node takes batches.

        Receipts that are missing, unreadable or not served are returned as their error.
        """
        results = await self._receipts.of_blocks(headers)
        if results is None:
            return [RpcCallError(self._receipts.why_none, self.name, NO_METHOD)] * len(headers)
        return [
            r if isinstance(r, RpcError) else self._parsed(partial(receipts.receipts, r, h, addresses))
            for r, h in zip(results, headers, strict=True)
        ]  # fmt: skip

    async def receipts(self, number: int, addresses: Collection[str]) -> tuple[list[Log], Header]:
        """Return the logs of the addresses in a block's receipts, and its header, in one request where that is served.

        Raises RpcCallError if the node has no receipts at all, or not this block's.
        """
        call = header_call(number)
        if self._receipts.whole_blocks:
            try:
                results = await self.endpoint.batch([(BLOCK, [hex(number)]), call])
            except RpcCallError:
                pass  # Asked again below, where it is found out what is refused.
            else:
                header = self._parse(lambda: wire.header(results[1], number))
                return self._parse(lambda: logs_of_receipts(results[0], header, addresses)), header
        block = await self.endpoint.call(*call)
        header = self._parse(lambda: wire.header(block, number))
        answers = await self._receipts.of_blocks([header])
        if answers is None:
            raise RpcCallError(self._receipts.why_none, self.name, NO_METHOD)
        if isinstance(answers[0], RpcError):
            raise answers[0]
        return self._parse(lambda: logs_of_receipts(answers[0], header, addresses)), header

    async def addresses_in_receipts(self, header: Header) -> set[bytes] | None:
        """Return the addresses that logged in a block, from its receipts; None if no endpoint shows any to prove it.

        Where this endpoint does not show them, its peers are asked: receipts name the hash of their block. Raises
        InconsistentResponseError if this endpoint serves receipts, but not this block's, and no peer does.
        """
        refusal: RpcError | None = None
        try:
            logged = await self._logged(header)
        except RpcError as error:
            refusal = error
        else:
            if isinstance(logged, set):
                return logged
            refusal = logged if isinstance(logged, InconsistentResponseError) else None
        elsewhere = await self._addresses_from_peers(header)
        if elsewhere is None and refusal is not None:
            raise InconsistentResponseError(
                f"no receipts for block {header.number}: {refusal.words}", self.name
            ) from refusal
        return elsewhere

    async def _logged(self, header: Header) -> set[bytes] | RpcError | None:
        """Return the addresses in this endpoint's receipts of a block, or what is wrong with them; None if it has none.

        Raises RpcError if it does not answer about the block.
        """
        results = await self._receipts.of_blocks([header])
        if results is None:
            return None
        if isinstance(results[0], RpcError):
            raise results[0]
        return self._parsed(partial(receipts.addresses_logged, results[0], header))

    async def _addresses_from_peers(self, header: Header) -> set[bytes] | None:
        for peer in self.peers:
            if self._peers_rest.get(peer.name, 0.0) > time.monotonic():
                continue
            try:
                async with asyncio.timeout(PEER_WAIT_S):
                    logged = await peer._logged(header)
            except (RpcError, TimeoutError):
                self._peers_rest[peer.name] = time.monotonic() + PEER_REST_S
                continue
            if isinstance(logged, set):
                return logged
        return None

    def _parsed(self, parse: Callable[[], T]) -> T | RpcError:
        """Run a parser of one part of an answer, and return its error instead of raising it."""
        try:
            return self._parse(parse)
        except RpcError as error:
            return error

    def _parse(self, parse: Callable[[], T]) -> T:
        """Run a parser; its errors name the endpoint that sent the answer."""
        try:
            return parse()
        except RpcError as error:
            self.endpoint.errors[error_label(error)] += 1
            raise _unreadable(type(error)(error.message, self.name)) from error
        except IndexerError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise _unreadable(TransientRpcError(f"unreadable answer: {error}", self.name)) from error


def _unreadable(error: RpcError) -> RpcError:
    """Mark an error as one about the form of an answer; a missing or contradictory answer has its own class."""
    if type(error) is TransientRpcError:
        error.unreadable = True
    return error


def _optional_header(result: Any, block: int | str) -> Header | None:
    return None if result is None else wire.header(result, block if isinstance(block, int) else None)
