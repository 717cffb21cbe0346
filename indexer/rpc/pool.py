"""Several endpoints of one chain: each unit of work stays on one, trouble moves to the next (one unit, one endpoint).

None is trusted for longer than it earns it: the chain id is asked for again and again, and an endpoint that lags, lacks
history, contradicts the others or serves another chain is set aside, with its reason, and tried again later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from indexer.chain.types import Header
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
from indexer.rpc.error_classifier import pruned
from indexer.rpc.health import FAILING_S, FRESH, Reason
from indexer.rpc.rate_limit import RequestPurpose, current_purpose, request_purpose
from indexer.rpc.reader import Reader
from indexer.rpc.transport import Endpoint
from indexer.runtime.secrets import redact

T = TypeVar("T")
log = structlog.get_logger()
CHECK_INTERVAL_S = 60.0  # seconds between questions for the chain id
FUTURE = 60.0  # seconds that a head may be ahead of this machine's clock
RECHECK_INTERVAL_S = 5.0  # the same where each answer comes over a new connection
_BLAMED: dict[Reason, str] = {"contradicting": "disagreements", "omitting": "omissions", "wrong chain": "disagreements"}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was asked so far: HTTP requests, failures by class; `size`: blocks asked for at once now."""

    requests: int
    errors: Mapping[str, int]
    size: int


@dataclass(slots=True)
class _Check:
    """When the chain id was found right, and over which connection."""

    at: float
    connections: int


class Pool:
    """Endpoints in order of preference; the one that served last is asked first, one that is set aside last."""

    def __init__(
        self, urls: Sequence[str], chain_id: int, *, max_blocks: int = 2000, timeout: float = 20.0,
        rps: float | None = None, budgets: Mapping[RequestPurpose, float] | Budgets | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`max_blocks` an eth_getLogs at first, `timeout` in seconds, `rps`: the most requests a second to each,
        `budgets`: the most requests a second for each purpose, to all of them together, or those of another pool."""
        self.chain_id, self.clock = chain_id, clock
        self.budgets = budgets if isinstance(budgets, Budgets) else Budgets(budgets)
        self.readers = [
            Reader(Endpoint(url, timeout=timeout, rps=rps, name=name, budgets=self.budgets), max_blocks)
            for url, name in zip(urls, display_names(urls), strict=True)
        ]
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
        """What went wrong so far, by class; most of it another try overcame."""
        return sum((reader.endpoint.errors for reader in self.readers), Counter())

    @property
    def current(self) -> Reader:
        """The one that is asked first."""
        return self.ordered()[0]

    def traffic(self) -> Traffic:
        return Traffic(self.requests, dict(self.errors), self.current.ranges.size)

    async def close(self) -> None:
        for reader in self.readers:
            await reader.endpoint.close()

    async def open(self) -> None:
        """Checks every endpoint's chain id before anything is written.

        Raises WrongChainError when any endpoint serves another chain, EndpointUnreachableError when none answers.
        One that does not answer now is checked before its first use.
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
        """Raises WrongChainError and RpcError."""
        self._checked.pop(reader, None)
        found = await reader.chain_id()
        self.record_chain_id(reader, found)
        if found != self.chain_id:
            raise WrongChainError(
                f"{reader.name} serves chain {found}, the deployment is chain {self.chain_id}",
                "Give an endpoint of that chain, or another --chain",
            )

    def record_chain_id(self, reader: Reader, found: int) -> None:
        """What an endpoint said its chain id is, just now."""
        reader.endpoint.health.chain_id = found
        if found == self.chain_id:
            self._checked[reader] = _Check(self.clock(), reader.endpoint.connections)
            self.clear_set_aside(reader.name, "wrong chain")
        else:
            self._checked.pop(reader, None)

    def aside(self, name: str) -> float:
        """For how many seconds more the endpoint is asked last; 0 when it is not."""
        held = self._by_name[name].endpoint.health.aside
        return max(0.0, held.until - self.clock()) if held else 0.0

    async def ensure_checked(self, reader: Reader) -> None:
        """Before it is read: the same name may lead to another machine over a new connection, or after a while.

        Raises TransientRpcError for another chain than the deployment's: since the start only the endpoint can have
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
        if endpoint.connections == check.connections:
            return since < CHECK_INTERVAL_S
        # One that closes the connection after each answer is not asked twice for everything.
        lasting = endpoint.requests < 20 or 2 * endpoint.connections < endpoint.requests
        return not lasting and since < RECHECK_INTERVAL_S

    def set_aside(
        self, name: str, detail: str, reason: Reason = "contradicting", seconds: float | None = None,
        purpose: str | None = None,
    ) -> None:  # fmt: skip
        """Asks the endpoint only when no better one is left, for a minute; longer when it comes to it again and again.

        `purpose`: only for that one. Omissions and contradictions count in its score.
        """
        score = self._by_name[name].endpoint.health
        if reason in _BLAMED:
            score.counts[_BLAMED[reason]] += 1
        put = score.set_aside(self.clock(), reason, detail, seconds, purpose)
        if put and reason != "failing":
            log.warning(
                "endpoint_set_aside", endpoint=name, why=reason, reason=detail, seconds=round(put.until - self.clock())
            )

    def restore_set_aside(self, name: str, reason: Reason, detail: str, seconds: float) -> None:
        """What an earlier process set aside, if it is one of these endpoints, for the seconds that are left."""
        if name in self._by_name:
            self._by_name[name].endpoint.health.restore(self.clock(), reason, detail, seconds)
            log.warning("endpoint_still_aside", endpoint=name, why=reason, reason=detail, seconds=round(seconds))

    def clear_set_aside(self, name: str, *reasons: Reason) -> None:
        """Ends it early, where the reason is seen to be gone."""
        if self._by_name[name].endpoint.health.clear_set_aside(self.clock(), *reasons):
            log.info("endpoint_well_again", endpoint=name, was=reasons)

    def observe_head(self, name: str, head: Header) -> None:
        """A head that an endpoint showed: one that is behind what others showed lately lags."""
        now, score = self.clock(), self._by_name[name].endpoint.health
        others = (r.endpoint.health for r in self.readers if r.name != name)
        # One from the future is no measure for the others: whoever claims it would be asked first.
        fresh = (s.head for s in others if s.head and now - s.head_at < FRESH)
        best = max((h for h in fresh if h.timestamp < time.time() + FUTURE), default=None)
        if score.observe_head(head, now, best):
            assert best is not None
            behind = f"at block {head.number}, another endpoint at {best.number}"
            self.set_aside(name, behind, "lagging")
        else:
            self.clear_set_aside(name, "lagging")

    def ordered(self, on: RequestPurpose | None = None) -> list[Reader]:
        """Endpoints as they would be asked now, for a purpose."""
        turns = [self.readers[(self._current + turn) % len(self.readers)] for turn in range(len(self.readers))]
        now, what = self.clock(), on or current_purpose()
        return sorted(turns, key=lambda reader: reader.endpoint.health.severity(now, what))

    async def ask_all(
        self, question: Callable[[Reader], Awaitable[T]], purpose: RequestPurpose | None = None
    ) -> list[T | RpcError]:
        """The answer of every endpoint, in order of preference; its error where it gave none."""
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

    async def with_failover(
        self, unit: Callable[[Reader], Awaitable[T]], prefer: str = "", purpose: RequestPurpose | None = None
    ) -> T:
        """Does a unit of work on one endpoint; what fails there is done whole on the next. Raises the last RpcError.

        `prefer` names the endpoint to ask first; `purpose`: whose budget pays.
        """
        with request_purpose(purpose):
            return await self._run(unit, prefer)

    async def _run(self, unit: Callable[[Reader], Awaitable[T]], prefer: str) -> T:
        last: RpcError | None = None
        order = sorted(self.ordered(), key=lambda reader: reader.name != prefer)
        for turn, reader in enumerate(order):
            try:
                await self.ensure_checked(reader)
                result = await unit(reader)
            except RpcError as error:
                self.failed(reader, error)
                # One that came back as another chain says nothing of the unit: the others' trouble is told.
                if last is None or reader.endpoint.health.chain_id in (None, self.chain_id):
                    last = error
                if turn + 1 < len(order):
                    log.warning("endpoint_failed", endpoint=reader.name, error=error.message)
                continue
            self.clear_set_aside(reader.name, "failing")
            if reader is not self.readers[self._current]:
                log.info("endpoint_changed", endpoint=reader.name)
                self._current = self.readers.index(reader)
            return result
        assert last is not None
        raise last

    def failed(self, reader: Reader, error: RpcError) -> None:
        """What a failed unit says of the endpoint. Of answers that contradict each other no single call knows: they are
        counted here or nowhere."""
        reader.endpoint.failed_work[error_label(error)] += 1
        if isinstance(error, RateLimitedError | InconsistentResponseError):
            return
        if isinstance(error, RpcCallError | TransientRpcError) and pruned(error.message):
            self.set_aside(reader.name, error.message, "pruned", purpose=current_purpose())
        elif isinstance(error, TransientRpcError):
            self.set_aside(reader.name, error.message, "failing", FAILING_S)
            self._checked.pop(reader, None)  # what comes back may be another


def display_names(urls: Sequence[str]) -> list[str]:
    """Names of endpoints for people, without secrets, each once: two keys at one provider are two endpoints."""
    seen: Counter[str] = Counter()
    found = []
    for url in urls:
        name = redact(url)
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found
