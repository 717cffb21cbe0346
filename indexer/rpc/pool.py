"""Several endpoints of one chain: each log batch stays on one, errors move on to the next (one unit, one endpoint).

No endpoint is trusted for longer than it earns: its chain id is checked again and again, and an endpoint that lags,
lacks history, contradicts the others or serves another chain is set aside, with its reason, and tried again later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from indexer.chain.types import Header, Heads
from indexer.errors import (
    EndpointUnreachableError,
    InconsistentResponseError,
    RateLimitedError,
    RpcCallError,
    RpcError,
    TransientRpcError,
    WrongChainError,
    error_label,
)
from indexer.rpc.budget import Budgets
from indexer.rpc.endpoint import Endpoint
from indexer.rpc.error_classifier import pruned
from indexer.rpc.health import FAILING_S, FRESH_HEAD_S, Reason
from indexer.rpc.rate_limit import RequestPurpose, current_purpose, request_purpose
from indexer.rpc.reader import Reader
from indexer.rpc.transport import HttpTransport, TransportFactory
from indexer.runtime.secrets import redact

T = TypeVar("T")
log = structlog.get_logger()
CHECK_INTERVAL_S = 60.0  # Between checks of the chain id.
MAX_HEAD_AHEAD_S = 60.0  # A head may be this far ahead of this machine's clock.
RECHECK_INTERVAL_S = 5.0  # Between checks if each answer comes over a new connection.
_COUNTED_AS: dict[Reason, str] = {
    "contradicting": "disagreements",
    "omitting": "omissions",
    "wrong chain": "disagreements",
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests so far: HTTP requests, errors by class; `size`: blocks currently requested at once."""

    requests: int
    errors: Mapping[str, int]
    size: int


@dataclass(slots=True)
class _Check:
    """When the chain id was found to be right, and over which connection."""

    at: float
    connections: int


class Pool:
    """Endpoints in order of preference: the one that answered last is asked first, those set aside last.

    Args:
        urls: HTTP URLs of the endpoints.
        chain_id: chain id of the deployment.
        max_blocks: initial limit of an eth_getLogs request (blocks).
        timeout: limit of one request (s).
        rps: maximum requests per second to each endpoint; None: no limit.
        budgets: maximum requests per second by purpose, to all endpoints together; or the budgets of another pool.
        clock: monotonic clock (s).
        transport: what sends the requests to an endpoint.
    """

    def __init__(
        self, urls: Sequence[str], chain_id: int, *, max_blocks: int = 2000, timeout: float = 20.0,
        rps: float | None = None, budgets: Mapping[RequestPurpose, float] | Budgets | None = None,
        clock: Callable[[], float] = time.monotonic, transport: TransportFactory = HttpTransport,
    ) -> None:  # fmt: skip
        self.chain_id, self.clock = chain_id, clock
        self.budgets = budgets if isinstance(budgets, Budgets) else Budgets(budgets)
        self.readers = [
            Reader(
                Endpoint(url, timeout=timeout, rps=rps, name=name, budgets=self.budgets, transport=transport),
                max_blocks,
            )
            for url, name in zip(urls, display_names(urls), strict=True)
        ]
        for reader in self.readers:
            reader.peers = [other for other in self.readers if other is not reader]
        self._by_name = {reader.name: reader for reader in self.readers}
        self._checked: dict[Reader, _Check] = {}
        self._checking = {reader: asyncio.Lock() for reader in self.readers}
        self._current = 0

    @property
    def requests(self) -> int:
        """HTTP requests made so far."""
        return sum(reader.endpoint.requests for reader in self.readers)

    @property
    def errors(self) -> Counter[str]:
        """Errors so far, by class; a retry overcame most of them."""
        return sum((reader.endpoint.errors for reader in self.readers), Counter())

    @property
    def current(self) -> Reader:
        """The endpoint that is asked first."""
        return self.ordered()[0]

    def traffic(self) -> Traffic:
        """Return the traffic so far."""
        return Traffic(self.requests, dict(self.errors), self.current.ranges.size)

    async def close(self) -> None:
        """Close all connections."""
        for reader in self.readers:
            await reader.endpoint.close()

    async def open(self) -> None:
        """Check every endpoint's chain id before anything is written.

        Raises WrongChainError if any endpoint serves another chain, EndpointUnreachableError if none answers. An
        endpoint that does not answer now is checked before its first use.
        """
        outcomes = await asyncio.gather(*(self._check(r) for r in self.readers), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RpcError):
                raise outcome
        failures = [str(o) for o in outcomes if isinstance(o, RpcError)]
        if not self._checked:
            raise EndpointUnreachableError(
                f"no endpoint answers: {'; '.join(failures)}", "Check --rpc-url or the environment, and the network"
            )
        for failure in failures:
            log.warning("endpoint_unreachable", error=failure)
        self._current = next(i for i, r in enumerate(self.readers) if r in self._checked)

    async def _check(self, reader: Reader) -> None:
        """Ask for the chain id. Raises WrongChainError and RpcError."""
        self._checked.pop(reader, None)
        chain_id = await reader.chain_id()
        self.record_chain_id(reader, chain_id)
        if chain_id != self.chain_id:
            raise WrongChainError(
                f"{reader.name} serves chain {chain_id}, the deployment is chain {self.chain_id}",
                "Use an endpoint of the deployment's chain, or another --chain",
            )

    def record_chain_id(self, reader: Reader, chain_id: int) -> None:
        """Record the chain id that an endpoint has just reported."""
        reader.endpoint.health.chain_id = chain_id
        if chain_id == self.chain_id:
            self._checked[reader] = _Check(self.clock(), reader.endpoint.transport.connections)
            self.clear_set_aside(reader.name, "wrong chain")
        else:
            self._checked.pop(reader, None)

    def aside(self, name: str) -> float:
        """Return how much longer the endpoint is set aside (s); 0 if it is not."""
        entry = self._by_name[name].endpoint.health.aside
        return max(0.0, entry.until - self.clock()) if entry else 0.0

    async def ensure_checked(self, reader: Reader) -> None:
        """Check the chain id before a read: a new connection, or some time, may lead the same name to another machine.

        Raises TransientRpcError for another chain than the deployment's: since startup only the endpoint can have
        changed.
        """
        async with self._checking[reader]:
            if self._is_checked(reader):
                return
            try:
                await self._check(reader)
            except WrongChainError as error:
                self.set_aside(reader.name, error.message, "wrong chain")
                raise TransientRpcError(
                    f"serves chain {reader.endpoint.health.chain_id}, not {self.chain_id}", reader.name
                ) from error

    def _is_checked(self, reader: Reader) -> bool:
        check, endpoint = self._checked.get(reader), reader.endpoint
        if check is None:
            return False
        since = self.clock() - check.at
        if endpoint.transport.connections == check.connections:
            return since < CHECK_INTERVAL_S
        # An endpoint that closes the connection after each answer is not checked before every request.
        lasting = endpoint.requests < 20 or 2 * endpoint.transport.connections < endpoint.requests
        return not lasting and since < RECHECK_INTERVAL_S

    def set_aside(
        self, name: str, detail: str, reason: Reason = "contradicting", seconds: float | None = None,
        purpose: str | None = None,
    ) -> None:  # fmt: skip
        """Ask the endpoint only when no better one is left, for a minute; longer if it happens again and again.

        Omissions and contradictions count in the endpoint's health.

        Args:
            name: display name of the endpoint.
            detail: explanation for people.
            reason: why.
            seconds: duration (s); None: doubled each time in a row.
            purpose: only for this purpose; None: for all.
        """
        health = self._by_name[name].endpoint.health
        if reason in _COUNTED_AS:
            health.counts[_COUNTED_AS[reason]] += 1
        entry = health.set_aside(self.clock(), reason, detail, seconds, purpose)
        if entry and reason != "failing":
            log.warning(
                "endpoint_set_aside",
                endpoint=name,
                why=reason,
                reason=detail,
                seconds=round(entry.until - self.clock()),
            )

    def set_aside_wrong(self, name: str, detail: str) -> None:
        """Set aside an endpoint proven wrong, if it is one of these: old rows may have come from another."""
        if name in self._by_name:
            self.set_aside(name, detail, "omitting")

    def restore_set_aside(self, name: str, reason: Reason, detail: str, seconds: float) -> None:
        """Restore what an earlier process set aside, if it is one of these endpoints.

        Args:
            name: display name of the endpoint.
            reason: why.
            detail: explanation for people.
            seconds: time that is left (s).
        """
        if name in self._by_name:
            self._by_name[name].endpoint.health.restore(self.clock(), reason, detail, seconds)
            log.warning("endpoint_still_aside", endpoint=name, why=reason, reason=detail, seconds=round(seconds))

    def clear_set_aside(self, name: str, *reasons: Reason) -> None:
        """End being set aside early, if the reason is seen to be gone."""
        if self._by_name[name].endpoint.health.clear_set_aside(self.clock(), *reasons):
            log.info("endpoint_well_again", endpoint=name, was=reasons)

    def observe_head(self, name: str, head: Header) -> None:
        """Record a head of an endpoint: one that is behind a recent head of the others lags."""
        now, health = self.clock(), self._by_name[name].endpoint.health
        others = (r.endpoint.health for r in self.readers if r.name != name)
        # A head from the future is no measure for the others, or whoever claims one would be asked first.
        fresh = (s.head for s in others if s.head and now - s.head_at < FRESH_HEAD_S)
        best = max((h for h in fresh if h.timestamp < time.time() + MAX_HEAD_AHEAD_S), default=None)
        if health.observe_head(head, now, best):
            assert best is not None
            behind = f"at block {head.number}, another endpoint at {best.number}"
            self.set_aside(name, behind, "lagging")
        else:
            self.clear_set_aside(name, "lagging")

    def ordered(self, purpose: RequestPurpose | None = None) -> list[Reader]:
        """Return the endpoints in the order in which they would be asked now for a purpose."""
        rotated = [self.readers[(self._current + turn) % len(self.readers)] for turn in range(len(self.readers))]
        now, asked_for = self.clock(), purpose or current_purpose()
        return sorted(rotated, key=lambda reader: reader.endpoint.health.severity(now, asked_for))

    async def ask_all(
        self, question: Callable[[Reader], Awaitable[T]], purpose: RequestPurpose | None = None
    ) -> list[T | RpcError]:
        """Return the answer of every endpoint, in order of preference; its error if it gave none."""
        answers: list[T | RpcError] = []
        with request_purpose(purpose):
            for reader in self.ordered():
                try:
                    await self.ensure_checked(reader)
                    answers.append(await question(reader))
                except RpcError as error:
                    reader.endpoint.failed_work[error_label(error)] += 1
                    answers.append(error)
        return answers

    async def heads(self) -> Heads:
        """Return the heads of one endpoint, for a command that looks once. Raises RpcError.

        A request that failed as a whole may have failed at a tag: the second time `latest` is asked for alone.
        """
        try:
            return await self.with_failover(Reader.heads)
        except TransientRpcError:
            return await self.with_failover(Reader.heads)

    async def with_failover(
        self, work: Callable[[Reader], Awaitable[T]], prefer: str = "", purpose: RequestPurpose | None = None
    ) -> T:
        """Run `work` on one endpoint; if it fails there, run it from the start on the next. Raises the last RpcError.

        `prefer` names the endpoint to ask first; `purpose` says whose budget pays.
        """
        with request_purpose(purpose):
            return await self._run(work, prefer)

    async def _run(self, work: Callable[[Reader], Awaitable[T]], prefer: str) -> T:
        last: RpcError | None = None
        order = sorted(self.ordered(), key=lambda reader: reader.name != prefer)
        for turn, reader in enumerate(order):
            try:
                await self.ensure_checked(reader)
                result = await work(reader)
            except RpcError as error:
                self.failed(reader, error)
                # An endpoint that came back as another chain says nothing about the work: raise another's error.
                if last is None or reader.endpoint.health.chain_id in (None, self.chain_id):
                    last = error
                if turn + 1 < len(order):
                    log.warning("endpoint_failed", endpoint=reader.name, error=str(error))
                continue
            self.clear_set_aside(reader.name, "failing")
            if reader is not self.readers[self._current]:
                log.info("endpoint_changed", endpoint=reader.name)
                self._current = self.readers.index(reader)
            return result
        assert last is not None
        raise last

    def failed(self, reader: Reader, error: RpcError) -> None:
        """Apply a failure of work to the endpoint's health.

        No single call knows about answers that contradict each other: they are counted here or nowhere.
        """
        reader.endpoint.failed_work[error_label(error)] += 1
        if isinstance(error, RateLimitedError | InconsistentResponseError):
            return
        if isinstance(error, RpcCallError | TransientRpcError) and pruned(error.message):
            self.set_aside(reader.name, error.message, "pruned", purpose=current_purpose())
        elif isinstance(error, TransientRpcError):
            self.set_aside(reader.name, error.message, "failing", FAILING_S)
            self._checked.pop(reader, None)  # Another machine may come back.


def display_names(urls: Sequence[str]) -> list[str]:
    """Return unique names of the endpoints for people, without secrets: two keys at one provider are two endpoints."""
    seen: Counter[str] = Counter()
    names = []
    for url in urls:
        name = redact(url)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return names
