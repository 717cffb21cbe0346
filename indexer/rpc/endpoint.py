"""One endpoint: every request to it is paid for, waits its turn, is sent, read and counted here, and nowhere else.

`batching` decides which calls a request holds and `retry` whether it is sent again; `transport` moves the bytes and
`answers` reads them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from indexer.errors import RateLimitedError, RpcError, TransientRpcError, error_label
from indexer.rpc.adaptive_size import AdaptiveBatch
from indexer.rpc.answers import AnswerReader, Call, HttpAnswer, Results, first_error, request_body, with_context
from indexer.rpc.batching import BatchSender
from indexer.rpc.budget import Budgets, RequestGate
from indexer.rpc.health import EndpointHealth
from indexer.rpc.rate_limit import current_purpose
from indexer.rpc.retry import StopAfterTimeout
from indexer.rpc.transport import HttpTransport, TransportFactory
from indexer.runtime.secrets import redact


class Endpoint:
    """One JSON-RPC endpoint. Raises RpcError and its subclasses only.

    Args:
        url: URL, which may contain secrets.
        timeout: limit of one request, and of all attempts of it (s).
        max_batch: maximum length of a batch (calls).
        max_response: maximum size of a response (bytes).
        rps: maximum requests per second; None: no limit.
        name: display name without secrets; "": derived from the URL.
        budgets: request budgets by purpose; None: no limits.
        transport: what sends the requests.
    """

    def __init__(
        self, url: str, *, timeout: float = 20.0, max_batch: int = 250, max_response: int = 64 * 2**20,
        rps: float | None = None, name: str = "", budgets: Budgets | None = None,
        transport: TransportFactory = HttpTransport,
    ) -> None:  # fmt: skip
        self.name = name or redact(url)
        self.transport = transport(url, self.name, max_response)
        self._answers = AnswerReader(self.name, lambda: self.transport.url)
        self.gate, self._budgets = RequestGate(self.name, rps), budgets or Budgets()
        self.lengths = AdaptiveBatch(max_batch)
        self.batches = BatchSender(self._send, self.lengths, self.gate, timeout)
        self.health = EndpointHealth()
        self.requests = 0
        self.errors: Counter[str] = Counter()  # By class, including those that a retry overcame.
        self.outcomes: Counter[tuple[str, str]] = Counter()  # Calls by method, and "ok" or the error's class.
        self.failed_work: Counter[str] = Counter()  # Failed work of several calls, by the error's class.
        self.under_way: dict[int, tuple[str, float]] = {}  # First id -> (method, monotonic time); no probes.
        self.served_at = 0.0  # Last answer to anything but a probe.
        self._next_id = 0

    @property
    def timeout(self) -> float:
        """Limit of one request, and of all attempts of it (s)."""
        return self.batches.timeout

    async def close(self) -> None:
        """Close the connections."""
        await self.transport.close()

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """Return the result of one call."""
        return (await self.batches.together([(method, params)])).values[0]

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return results in call order, or raise the first call's error. One request if the node takes batches."""
        return (await self.batches.in_order(calls)).values

    async def _send(self, calls: Sequence[Call], stop: StopAfterTimeout) -> Results:
        """Send one request. Errors of single calls are among the values; that of all of them is raised."""
        queued_at = time.monotonic()
        await self._budgets.take()
        await self.gate.wait_turn(len(calls))
        sent = time.monotonic()
        stop.queued += sent - queued_at
        first = self._next_id
        self._next_id += len(calls)
        if current_purpose() != "probe":
            self.under_way[first] = calls[0][0], sent
        try:
            answer = await self._post(request_body(calls, first), stop.timeout)
            outcomes = self._answers.outcomes(answer, first, len(calls))
        except RpcError as error:
            self._record(calls, [error] * len(calls), sent)
            raise with_context(error, calls) from error.__cause__
        finally:
            self.under_way.pop(first, None)
        self._record(calls, outcomes, sent)
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, RpcError):
                with_context(outcome, [call])
        return Results(outcomes, len(answer.body))

    async def _post(self, body: bytes, timeout: float) -> HttpAnswer:
        self.requests += 1
        try:
            async with asyncio.timeout(timeout):
                return await self.transport.post(body)
        except TimeoutError as error:
            raise TransientRpcError(f"no answer within {timeout:g} seconds", self.name) from error

    def _record(self, calls: Sequence[Call], outcomes: Sequence[Any], sent: float) -> None:
        """Record what a request brought: in the counters, the health, the pauses and the length of batches."""
        now = time.monotonic()
        labels = [error_label(o) if isinstance(o, RpcError) else "ok" for o in outcomes]
        self.outcomes.update((method, label) for (method, _), label in zip(calls, labels, strict=True))
        self.errors.update({*labels} - {"ok"})
        limited = next((o for o in outcomes if isinstance(o, RateLimitedError)), None)
        failed = limited or next((o for o in outcomes if isinstance(o, TransientRpcError)), None)
        if limited is not None:
            self.gate.backoff.limited(now, sent, limited.retry_after or None)
            self._learn_from_limit(calls, outcomes)
        if failed is not None:
            self.health.failed(now, failed.message, limited=limited is not None)
        else:  # A refusal is an answer.
            self.health.answered(now, now - sent)
        if first_error(outcomes) is None:
            self.gate.backoff.answered(sent)
            self.served_at = self.served_at if current_purpose() == "probe" else now

    def _learn_from_limit(self, calls: Sequence[Call], outcomes: Sequence[Any]) -> None:
        answered = {m for (m, _), o in zip(calls, outcomes, strict=True) if not isinstance(o, RpcError)}
        limited = {m for (m, _), o in zip(calls, outcomes, strict=True) if isinstance(o, RateLimitedError)}
        if answered & limited:  # Some calls of one kind, and not the others: it counts them.
            self.gate.counts_calls()
        if answered & limited or not answered:  # Else one kind is refused, however few there are.
            self.lengths.limited(len(calls), sum(not isinstance(o, RpcError) for o in outcomes))
