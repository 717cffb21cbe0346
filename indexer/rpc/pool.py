"""Several endpoints of one chain: each unit of work stays on one, trouble moves to the next (rule 7)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from indexer.errors import EndpointUnreachable, RpcError, WrongChain
from indexer.rpc.reader import Reader
from indexer.rpc.transport import Endpoint

T = TypeVar("T")
log = structlog.get_logger()
ASIDE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was asked so far: HTTP requests, failures by class; `size`: blocks asked for at once now."""

    requests: int
    errors: Mapping[str, int]
    size: int


class Pool:
    """Endpoints in order of preference; the one that served last is asked first."""

    def __init__(
        self, urls: Sequence[str], chain_id: int, *, max_blocks: int = 2000, timeout: float = 20.0,
        rps: float | None = None,
    ) -> None:  # fmt: skip
        """`max_blocks` an eth_getLogs at first, `timeout` in seconds, `rps`: the most requests a second to each."""
        self.chain_id = chain_id
        self.readers = [Reader(Endpoint(url, timeout=timeout, rps=rps), max_blocks) for url in urls]
        self._checked: set[Reader] = set()
        self._current = 0
        self._aside: dict[str, float] = {}  # endpoint -> monotonic time until which it is asked last

    @property
    def requests(self) -> int:
        """HTTP requests made so far."""
        return sum(reader.endpoint.requests for reader in self.readers)

    @property
    def errors(self) -> Counter[str]:
        """What went wrong so far, by class; most of it another try overcame."""
        return sum((reader.endpoint.errors for reader in self.readers), Counter())

    def traffic(self) -> Traffic:
        return Traffic(self.requests, dict(self.errors), self.ordered()[0].ranges.size)

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

    def set_aside(self, name: str, reason: str) -> None:
        """Asks the endpoint only when no other is left, for a minute: one that contradicts the others."""
        log.warning("endpoint_set_aside", endpoint=name, reason=reason, seconds=ASIDE)
        self._aside[name] = time.monotonic() + ASIDE

    def aside(self, name: str) -> float:
        """For how many seconds more the endpoint is asked last; 0 when it is not."""
        return max(0.0, self._aside.get(name, 0.0) - time.monotonic())

    def ordered(self) -> list[Reader]:
        """Endpoints as they would be asked now."""
        turns = [self.readers[(self._current + turn) % len(self.readers)] for turn in range(len(self.readers))]
        now = time.monotonic()
        return sorted(turns, key=lambda reader: self._aside.get(reader.name, 0.0) > now)

    async def each(self, question: Callable[[Reader], Awaitable[T]]) -> list[T | RpcError | WrongChain]:
        """The answer of every endpoint, in order of preference; its error where it gave none."""
        answers: list[T | RpcError | WrongChain] = []
        for reader in self.ordered():
            try:
                await self._ensure_checked(reader)
                answers.append(await question(reader))
            except (RpcError, WrongChain) as error:
                answers.append(error)
        return answers

    async def _ensure_checked(self, reader: Reader) -> None:
        if reader not in self._checked:
            await self._check(reader)

    async def run(self, unit: Callable[[Reader], Awaitable[T]], prefer: str = "") -> T:
        """Does a unit of work on one endpoint; what fails there is done whole on the next. Raises the last RpcError.

        `prefer` names the endpoint to ask first.
        """
        last: RpcError | WrongChain | None = None
        order = sorted(self.ordered(), key=lambda reader: reader.name != prefer)
        for turn, reader in enumerate(order):
            try:
                await self._ensure_checked(reader)
                result = await unit(reader)
            except (RpcError, WrongChain) as error:
                # One that was away at the start and came back as another chain is passed over, never read.
                if last is None or isinstance(error, RpcError):
                    last = error
                if turn + 1 < len(order):
                    log.warning("endpoint_failed", endpoint=reader.name, error=error.message)
                continue
            if reader is not self.readers[self._current]:
                log.info("endpoint_changed", endpoint=reader.name)
                self._current = self.readers.index(reader)
            return result
        assert last is not None
        raise last
