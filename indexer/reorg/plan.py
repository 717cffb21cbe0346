"""The plan of a recovery: each endpoint's report, the last block that is kept, and the chain that replaces the rest.

Making one reads the database and the endpoints and changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from indexer.chain.types import BlockRef
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import IndexerError, RefusedError, ReplacementUnavailableError
from indexer.reorg.claims import highest_common_block
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.index_state import IndexState, block_refs_below, chained_block_refs

_WINDOW = 20_000  # stored blocks compared at once on the way down


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """One endpoint's report: its head and the highest stored block on its chain, or the error."""

    endpoint: str
    head: BlockRef | None
    fork: BlockRef | None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        return {
            "endpoint": self.endpoint,
            "head": self.head.number if self.head else None,
            "fork_point": self.fork.number if self.fork else None,
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Keep everything up to `keep`, take the rest from `endpoint`'s chain up to block `upto`."""

    plan_hash: str
    fork: BlockRef
    keep: BlockRef
    tip: BlockRef
    upto: int
    endpoint: str
    reports: tuple[EndpointReport, ...]

    @property
    def empty(self) -> bool:
        """Whether the stored chain is the endpoints' chain and nothing would be read again."""
        return self.keep.number == self.tip.number


async def collect_reports(pool: Pool, conn: Connection, state: IndexState) -> tuple[EndpointReport, ...]:
    """Return every endpoint's fork point, however deep; the search continues below finalized."""

    async def ask(reader: Reader) -> EndpointReport:
        head = (await reader.latest()).ref()
        return EndpointReport(reader.name, head, await _fork_point(reader, conn, state, head))

    answers = await pool.ask_all(ask)
    return tuple(
        EndpointReport(reader.name, None, None, answer.message) if isinstance(answer, IndexerError) else answer
        for reader, answer in zip(pool.ordered(), answers, strict=True)
    )


async def _fork_point(reader: Reader, conn: Connection, state: IndexState, head: BlockRef) -> BlockRef | None:
    assert state.tip is not None
    below = min(state.tip.number, head.number) + 1
    while block_refs := await block_refs_below(conn, below, _WINDOW):
        fork = await highest_common_block(reader, block_refs, state)
        if fork is not None:
            return fork
        below = block_refs[0].number
    return None


async def make_plan(
    deployment: Deployment, pool: Pool, conn: Connection, state: IndexState, to_block: int | None
) -> Plan:  # fmt: skip
    """Make a plan to keep blocks up to `to_block`.

    Args:
        deployment: Chain and watched contracts.
        pool: The endpoints.
        conn: Connection that stored blocks are read on.
        state: Index state with a tip.
        to_block: Last block to keep; None for the fork point.

    Raises:
        ReplacementUnavailableError: No endpoint answers, or none shares a block with the stored chain.
        RefusedError: `to_block` cannot be kept.
        RpcError: The endpoint failed.
    """
    reports = await collect_reports(pool, conn, state)
    chosen = choose_endpoint(reports)
    tip = state.tip
    assert chosen.fork is not None and chosen.head is not None and tip is not None
    keep = chosen.fork
    if to_block is not None:
        keep = await _block_to_keep(pool, state, chosen, to_block)
    base = _base(deployment, state, keep)
    plan_hash = ""
    async for _, plan_hash in plan_hashes(base, keep, chained_block_refs(conn, keep.number)):  # noqa: B007 - the last one
        pass
    upto = keep.number if keep.number == tip.number else min(chosen.head.number, max(tip.number, keep.number + 1))
    return Plan(plan_hash, chosen.fork, keep, tip, upto, chosen.endpoint, reports)


def choose_endpoint(reports: Iterable[EndpointReport]) -> EndpointReport:
    """Return the endpoint to believe: the first that reports the fork point that most of them report.

    Raises ReplacementUnavailableError.
    """
    reports = tuple(reports)
    answered = [r for r in reports if r.head is not None]
    if not answered:
        raise ReplacementUnavailableError(
            f"no endpoint answers: {'; '.join(r.error for r in reports)}",
            "Use an endpoint that serves this chain's history",
        )
    known = [r for r in answered if r.fork is not None]
    if not known:
        raise ReplacementUnavailableError(
            f"no stored block is on the chain of {answered[0].endpoint}",
            "It is a different chain, or its whole history changed: index into a new database",
        )
    votes = Counter(r.fork.number for r in known if r.fork)
    most = max(votes.values())
    return next(r for r in known if r.fork and votes[r.fork.number] == most)


async def _block_to_keep(pool: Pool, state: IndexState, chosen: EndpointReport, number: int) -> BlockRef:
    assert chosen.fork is not None and state.tip is not None
    if number > state.tip.number:
        raise RefusedError(
            f"--to-block {number} is above the highest stored block {state.tip.number}", "Use a lower block number"
        )
    if number > chosen.fork.number:
        raise RefusedError(
            f"--to-block {number} is above the fork point {chosen.fork.number}: the blocks between them are not on the"
            " chain",
            "Omit --to-block, or use a block at or below the fork point",
        )
    if number < state.binding.origin:
        raise RefusedError(
            f"--to-block {number} is below the origin {state.binding.origin}: nothing would be kept",
            "Index into a new database instead",
        )
    (header,) = await pool.with_failover(lambda reader: reader.headers([number]), prefer=chosen.endpoint)
    return header.ref()


def _base(deployment: Deployment, state: IndexState, keep: BlockRef) -> bytes:
    """Return a digest of what a plan is bound to besides the blocks that it takes back."""
    bound = state.binding
    parts = (
        bound.name, bound.chain_id, bound.hash.hex(), deployment.digest, keep.number, keep.hash.hex(), state.epoch,
    )  # fmt: skip
    return hashlib.sha256("\n".join(map(str, parts)).encode()).digest()


async def plan_hashes(
    base: bytes, keep: BlockRef, above: AsyncIterator[tuple[int, bytes, bool]]
) -> AsyncIterator[tuple[int, str]]:
    """Yield (tip, plan hash) for every stored block that may have been the tip when the plan was made, ascending.

    `above`: number, hash and whether it has logs, for each stored block above `keep`. Blocks without logs count only as
    the tip: they are pruned when they become final, and a plan must survive that, as well as blocks that are appended
    later.
    """
    running = hashlib.sha256(base)
    yield keep.number, _with_tip(running, keep.number, keep.hash)
    async for number, hash_, has_logs in above:
        yield number, _with_tip(running, number, hash_)
        if has_logs:
            running.update(number.to_bytes(8, "big") + hash_)


def _with_tip(running: hashlib._Hash, number: int, hash_: bytes) -> str:
    last = running.copy()
    last.update(b"tip" + number.to_bytes(8, "big") + hash_)
    return last.hexdigest()


async def still_holds(
    deployment: Deployment, conn: Connection, state: IndexState, keep: BlockRef, confirmed: str
) -> bool:
    """Return whether the confirmed hash is that of this plan, made now or when fewer blocks were stored.

    Args:
        deployment: Chain and watched contracts.
        conn: Connection that stored blocks are read on.
        state: Index state.
        keep: Last block that the plan keeps.
        confirmed: Plan hash that the person confirmed (hex, with or without 0x).
    """
    base, holds = _base(deployment, state, keep), False
    async for _, plan_hash in plan_hashes(base, keep, chained_block_refs(conn, keep.number)):
        holds = holds or plan_hash == confirmed.lower().removeprefix("0x")
    return holds
