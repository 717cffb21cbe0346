"""What the indexer asks one endpoint for: heads, headers and logs, parsed and checked."""

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
from indexer.rpc.receipts import BlockReceipts, SealedHeader, logs_of_receipts
from indexer.rpc.transport import Call, Endpoint

T = TypeVar("T")
LOOKS_WITHOUT_TAG = 200
# Of a number it means "not yet", of a tag "none": a node without finality says no more, however often it is asked.
_NO_BLOCK = re.compile(r"(block|header) not (found|available)|unknown block", re.IGNORECASE)


class Reader:
    """One endpoint, read. Every error is an RpcError that names the endpoint."""

    def __init__(self, endpoint: Endpoint, max_blocks: int = 2000) -> None:
        self.endpoint, self.name = endpoint, endpoint.name
        self.ranges = AdaptiveRange(max_blocks)
        self._probing = asyncio.Lock()
        self._refused = {"safe": 0, "finalized": 0}  # looks for which a refused tag is not asked for again

    def export_limits(self) -> dict[str, Any]:
        """What the endpoint taught about its limits, as JSON: for other processes that ask it."""
        return {"ranges": asdict(self.ranges.snapshot()), "batch": self.endpoint.lengths.ceiling}

    def import_limits(self, learnt: Mapping[str, Any]) -> None:
        """Goes on from what `learnt` of the same endpoint told elsewhere; limits tighten only."""
        self.ranges.restore(LearnedLimits(**learnt["ranges"]))
        self.endpoint.lengths.learn(learnt["batch"])

    async def chain_id(self) -> int:
        result = await self.endpoint.call("eth_chainId", [])
        return self._named(lambda: wire.quantity(result, "chain id"))

    async def heads(self) -> Heads:
        """latest, safe and finalized in one request; None for a tag the node does not have now."""
        tags = ["latest", *(tag for tag, looks in self._refused.items() if not looks)]
        self._refused = {tag: max(0, looks - 1) for tag, looks in self._refused.items()}
        try:
            results = await self.endpoint.batch([_header_call(tag) for tag in tags])
        except (RpcCallError, TransientRpcError) as error:
            if isinstance(error, TransientRpcError) and not _NO_BLOCK.search(error.message):
                raise
            return await self._heads_apart()
        return self._heads(dict(zip(tags, results, strict=True)))

    async def _heads_apart(self) -> Heads:
        """A node without a tag refuses the request: each is asked for alone, a refused one not again for a while."""
        found: dict[str, Any] = {"latest": await self.endpoint.call(*_header_call("latest"))}
        for tag in self._refused:
            try:
                found[tag] = await self.endpoint.call(*_header_call(tag))
            except (RpcCallError, TransientRpcError) as error:
                if isinstance(error, TransientRpcError) and not _NO_BLOCK.search(error.message):
                    raise
                self._refused[tag] = LOOKS_WITHOUT_TAG
        return self._heads(found)

    def _heads(self, found: dict[str, Any]) -> Heads:
        def tagged(tag: str) -> Header | None:
            return wire.header(found[tag]) if found.get(tag) is not None else None

        return self._named(lambda: Heads(wire.header(found["latest"]), tagged("safe"), tagged("finalized")))

    async def probe(self, number: int | None) -> tuple[int, Header, Header | None]:
        """Chain id, latest block, and block `number` when one is named and the node has it: one request."""
        calls = [("eth_chainId", []), _header_call("latest"), *([] if number is None else [_header_call(number)])]
        results = await self.endpoint.batch(calls)
        kept = results[2] if number is not None else None
        return self._named(
            lambda: (
                wire.quantity(results[0], "chain id"),
                wire.header(results[1]),
                None if kept is None else wire.header(kept, number),
            )
        )

    async def header(self, number: int) -> Header | None:
        """None when the node has no such block."""
        result = await self.endpoint.call(*_header_call(number))
        return None if result is None else self._named(lambda: wire.header(result, number))

    async def headers(self, numbers: Sequence[int]) -> list[Header]:
        """In the order asked for. A missing one is Transient: the node may lag."""
        results = await self.endpoint.batch([_header_call(n) for n in numbers])
        return self._named(lambda: [wire.header(r, n) for r, n in zip(results, numbers, strict=True)])

    async def found(self, blocks: Sequence[int | str]) -> list[Header | None]:
        """Blocks by number or tag, in one request; None for one that the node does not have."""
        results = await self.endpoint.batch([_header_call(b) for b in blocks])
        return self._named(lambda: [_found(r, b) for r, b in zip(results, blocks, strict=True)])

    async def logs_with_headers(
        self, first: int, last: int, addresses: Sequence[str], numbers: Iterable[int], beside: Sequence[int | str] = ()
    ) -> tuple[list[Log], list[Header]]:
        """The logs of blocks first..last of the addresses, in chain order, and the headers of `numbers`: one request.
        Behind those come the headers of the blocks `beside`, a number or a tag each, that the node has.

        Raises RangeTooLargeError with the node's hint when it serves no such range at once. Any other failure may be
        a range too large in disguise (a time-out, a dropped connection), so that fewer blocks are asked for next.

        Of ranges larger than any served before one is under way at a time, and none is asked for that is known to be
        refused: however many fetchers there are, the endpoint refuses a size once.
        """
        blocks = last - first + 1
        if blocks > self.ranges.proven:
            async with self._probing:
                if blocks > self.ranges.proven:
                    return await self._logs_with_headers(first, last, addresses, numbers, beside)
        return await self._logs_with_headers(first, last, addresses, numbers, beside)

    async def _logs_with_headers(
        self, first: int, last: int, addresses: Sequence[str], numbers: Iterable[int], beside: Sequence[int | str]
    ) -> tuple[list[Log], list[Header]]:
        wanted, blocks = list(numbers), last - first + 1
        calls = [_header_call(n) for n in (*wanted, *beside)]
        if self.ranges.refuses(blocks):
            raise RangeTooLargeError(f"{blocks} blocks were refused before", self.name, self.ranges.ceiling)
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": list(addresses)}
        try:
            results, size = await self.endpoint.batch_with_size([("eth_getLogs", [asked]), *calls])
        except (RateLimitedError, InconsistentResponseError):
            raise
        except TransientRpcError:
            self.ranges.failed(blocks)
            raise
        except RangeTooLargeError as refusal:
            self._learn_from(refusal, blocks)
            raise
        self.ranges.observe_size(blocks, size)
        of_wanted, of_beside = results[1 : len(wanted) + 1], results[len(wanted) + 1 :]
        return self._named(
            lambda: (
                wire.logs(results[0], first, last, addresses),
                [wire.header(r, n) for r, n in zip(of_wanted, wanted, strict=True)]
                + [h for r, b in zip(of_beside, beside, strict=True) if (h := _found(r, b)) is not None],
            )
        )

    def _learn_from(self, refusal: RangeTooLargeError, blocks: int) -> None:
        """Limits that the refusal names, before the next request can be under way. From a number of logs follows about
        how many blocks to ask for: they hold at least as many."""
        logs = error_hints.max_results(refusal.message)
        self.ranges.learn(max_logs=logs, max_bytes=error_hints.max_bytes(refusal.message))
        if logs and refusal.hint is None:
            refusal.hint = max(1, blocks * self.ranges.target // logs)
        if blocks > 1:
            self.ranges.refused(blocks, refusal.hint, results=refusal.results)

    async def sealed_headers(self, numbers: Sequence[int]) -> list[SealedHeader]:
        """Whole headers, each with the hash that its fields have, in the order asked for."""
        results = await self.endpoint.batch([_header_call(n) for n in numbers])
        return self._named(lambda: [receipts.sealed_header(r, n) for r, n in zip(results, numbers, strict=True)])

    async def block_receipts(
        self, headers: Sequence[Header], addresses: Collection[str]
    ) -> list[BlockReceipts]:  # fmt: skip
        """All receipts of these blocks, in one request where the node takes batches."""
        results = await self.endpoint.batch([("eth_getBlockReceipts", [hex(h.number)]) for h in headers])
        return self._named(lambda: [receipts.receipts(r, h, addresses) for r, h in zip(results, headers, strict=True)])

    async def receipts(self, number: int, addresses: Collection[str]) -> tuple[list[Log], Header]:
        """The logs of the addresses in a block's receipts, and its header: one request.

        Raises RpcCallError when the node has no eth_getBlockReceipts, or not this block's.
        """
        results = await self.endpoint.batch([("eth_getBlockReceipts", [hex(number)]), _header_call(number)])
        header = self._named(lambda: wire.header(results[1], number))
        return self._named(lambda: logs_of_receipts(results[0], header, addresses)), header

    async def addresses_in_receipts(self, header: Header) -> set[bytes] | None:
        """The addresses that logged in a block, from its receipts; None when the node has no eth_getBlockReceipts.

        Raises InconsistentResponseError when it has the method but not this block's receipts.
        """
        try:
            result = await self.endpoint.call("eth_getBlockReceipts", [hex(header.number)])
        except RpcCallError as error:
            if error.code == -32601:
                return None
            raise InconsistentResponseError(
                f"no receipts of block {header.number}: {error.message}", self.name
            ) from error
        return self._named(lambda: receipts.addresses_logged(result, header))

    def _named(self, parse: Callable[[], T]) -> T:
        """Errors of the parser say which endpoint sent the answer."""
        try:
            return parse()
        except RpcError as error:
            self.endpoint.errors[error_label(error)] += 1
            raise type(error)(error.message, self.name) from error
        except IndexerError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise TransientRpcError(f"unreadable answer: {error}", self.name) from error


def _found(result: Any, block: int | str) -> Header | None:
    return None if result is None else wire.header(result, block if isinstance(block, int) else None)


def _header_call(block: int | str) -> Call:
    return "eth_getBlockByNumber", [block if isinstance(block, str) else hex(block), False]
