"""Several endpoints of one chain: each unit of work stays on one, trouble moves to the next (rule 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from indexer.errors import EndpointUnreachable, RpcError, WrongChain
from indexer.rpc.reader import Reader
from indexer.rpc.transport import Endpoint

T = TypeVar("T")
log = structlog.get_logger()


class Pool:
    """Endpoints in order of preference; the one that served last is asked first."""

    def __init__(self, urls: Sequence[str], chain_id: int, *, max_blocks: int = 2000, timeout: float = 20.0) -> None:
        self.chain_id = chain_id
        self.readers = [Reader(Endpoint(url, timeout=timeout), max_blocks) for url in urls]
        self._checked: set[Reader] = set()
        self._current = 0

    @property
    def requests(self) -> int:
        """HTTP requests made so far."""
        return sum(reader.endpoint.requests for reader in self.readers)

    async def close(self) -> None:
        for reader in self.readers:
            await reader.endpoint.close()

    async def open(self) -> None:
        """Checks every endpoint's chain id before anything is written.

        Raises WrongChain when any endpoint serves another chain, EndpointUnreachable when none answers. One that does
        not answer now is checked before its first use.
        """
        outcomes = await asyncio.gather(*(self._check(r) for r in self.readers), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RpcError):
                raise outcome
        failures = [str(o) for o in outcomes if isinstance(o, RpcError)]
        if not self._checked:
            raise EndpointUnreachable(
                f"no endpoint answers: {'; '.join(failures)}", "Check --rpc-url or the environment, and the network"
            )
        for failure in failures:
            log.warning("endpoint_unreachable", error=failure)
        self._current = next(i for i, r in enumerate(self.readers) if r in self._checked)

    async def _check(self, reader: Reader) -> None:
        found = await reader.chain_id()
        if found != self.chain_id:
            raise WrongChain(
                f"{reader.name} serves chain {found}, the deployment is chain {self.chain_id}",
                "Give an endpoint of that chain, or another --chain",
            )
        self._checked.add(reader)

    async def run(self, unit: Callable[[Reader], Awaitable[T]]) -> T:
        """Does a unit of work on one endpoint; what fails there is done whole on the next. Raises the last RpcError.

        RangeTooLarge and RpcRefused go to the caller at once when there is no other endpoint.
        """
        last: RpcError | WrongChain | None = None
        for turn in range(len(self.readers)):
            index = (self._current + turn) % len(self.readers)
            reader = self.readers[index]
            try:
                if reader not in self._checked:
                    await self._check(reader)
                result = await unit(reader)
            except (RpcError, WrongChain) as error:
                # One that was away at the start and came back as another chain is passed over, never read.
                if last is None or isinstance(error, RpcError):
                    last = error
                if turn + 1 < len(self.readers):
                    log.warning("endpoint_failed", endpoint=reader.name, error=error.message)
                continue
            if index != self._current:
                log.info("endpoint_changed", endpoint=reader.name)
                self._current = index
            return result
        assert last is not None
        raise last
